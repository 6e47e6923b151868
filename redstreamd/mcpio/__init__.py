"""MCP over byte streams: sockets, framing, JSON-RPC and connections; knows nothing of Redis.

- ``framing``, ``jsonrpc``: bytes to lines to messages, without I/O.
- ``inflight``, ``context``, ``kernel``: one request in flight, what its handler sees of the
  connection, and the SDK kernel that runs the handler (the modules that touch the ``mcp`` package).
- ``outbox``, ``connection``: one peer, from its first byte to the close.
- ``listeners``, ``acceptor``, ``stdio``: where peers come from.
- ``limits``, ``events``, ``state``: values the others share.

Nothing is re-exported here, because importing the SDK's server takes half a second and
most of this package does not need it.
"""
