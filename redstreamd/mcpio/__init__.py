"""MCP over byte streams: sockets, framing, JSON-RPC and connections; knows nothing of Redis.

- ``framing``, ``jsonrpc``: bytes to lines to messages, without I/O.
- ``dispatcher``, ``requests_in_flight``, ``request_context``, ``protocol_eras``: messages to calls of
  handlers, which the SDK's kernel runs.
- ``client_connection``, ``outbox``: reading, writing and closing one connection.
- ``listeners``, ``acceptor``, ``standard_streams``: where connections come from.
- ``limits``, ``connection_events``, ``connection_state``: values that the others share.

Nothing is re-exported here, because importing the SDK's server takes half a second.
"""
