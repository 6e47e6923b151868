"""Streamable HTTP: MCP for clients on other hosts; imported only where there is a listener for it.

- ``http_messages``, ``http_limits``: values that the others share.
- ``http_parser``: bytes to requests, by llhttp, and what else HTTP/1.1 demands of a request; without I/O.
- ``http_connection``: one connection of a client, its bounds and endings; ``request_loop``: its requests.

What a request of MCP means is in turn decided per revision; a session and its exchanges are those of
`mcpio`, as over every other transport.
"""
