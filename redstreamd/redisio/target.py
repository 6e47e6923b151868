"""Where a Redis server is and how to log in to it.

Owns the value only. Reading it from files, the environment and credentials is the settings'
business, using it is ``connection``'s.
"""

from __future__ import annotations

import attrs
from redis.credentials import CredentialProvider

from redstreamd.redisio.tls import Tls


@attrs.frozen
class Target:
    """One Redis or Valkey server and the login that redstreamd uses there.

    Attributes:
        host: Host name or address; ignored when `path` is given.
        port: TCP port; ignored when `path` is given.
        path: Unix socket of the server, or None for TCP.
        username: ACL user; None logs in as the server's default user.
        password: Its password, or None to send no login at all. Never shown by ``repr``.
        credentials: Asked for user and password at each login, instead of the two above. One that
            announces new credentials (StreamingCredentialProvider) has live connections log in again.
        tls: How to speak TLS, or None for a plain connection; ignored when `path` is given.
        database: Database number to SELECT.
        client_name: Name shown by CLIENT LIST, with the connection's role appended
            (``redstreamd:command``). No spaces, as CLIENT SETNAME demands.
        connect_timeout: Seconds for connecting and logging in together.
        embedded_log: The server's log, if it is the daemon's own embedded server; advice differs then.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    credentials: CredentialProvider | None = attrs.field(default=None, repr=False)
    tls: Tls | None = None
    database: int = 0
    client_name: str = "redstreamd"
    connect_timeout: float = 5.0
    embedded_log: str | None = None

    @property
    def label(self) -> str:
        """How messages and records call the server: ``host:port`` or the socket's path."""
        if self.path is not None:
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
