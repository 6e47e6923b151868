"""Streamable HTTP: MCP for clients on other hosts; imported only where there is a listener for it.

Bytes and requests, without I/O:

- ``http_parser``: llhttp; ``request_rules``: what else HTTP/1.1 demands; ``known_heads``: what was parsed
  before.
- ``http_responses``: how responses look; ``media_types``: what clients accept and send.

A connection:

- ``http_connection``: its stream, bounds and end; ``request_loop``: its requests, one after the other;
  ``http_deadlines``, ``request_turns``, ``http_responder``, ``lingering``, ``http_counts``: parts of it.
- ``http_transport``: what the acceptor opens connections by.

Who may call: ``http_access``, with ``http_places`` (hosts and origins), ``known_tokens``,
``failed_attempts`` and ``http_refusals``.

What a request is:

- ``http_site``: by path, method and revision; ``standard_headers``: headers that repeat the body.
- ``mcp_endpoint``: 2026-07-28; ``session_endpoint``, ``http_sessions``: the revisions with a handshake.
- ``mcp_responses``, ``event_streams``: one JSON message, or a stream of events.

``http_messages`` and ``http_limits`` are what these say to each other. A session and its exchanges are those
of `mcpio`, as over every other transport.
"""
