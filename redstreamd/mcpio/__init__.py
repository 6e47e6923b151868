"""MCP over byte streams: sockets, framing, JSON-RPC and connections; knows nothing of Redis.

- ``framing``, ``jsonrpc``: bytes to lines to messages, without I/O.
- ``session``, ``exchange``, ``plain_calls``, ``call_forms``: messages to calls, whatever the transport.
- ``protocol_eras``, ``request_context``: the SDK's kernel, which runs handlers; the only modules that import
  it. ``pending_kernels`` stands for it until it is imported; ``kernels`` says what sessions need of both.
- ``client_connection``, ``lifecycle``, ``message_reader``, ``outbox``: the line transport; reads, writes and
  closes one connection. ``parked_readers`` reads what arrives on all of them.
- ``listeners``, ``acceptor``, ``standard_streams``: where connections come from.
- ``limits``, ``connection_events``, ``connection_state``: values that the others share.

Nothing is re-exported here, because importing the SDK's server takes half a second.
"""
