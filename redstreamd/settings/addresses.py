"""Where the daemon listens, as text: ``unix:PATH``, ``tcp:HOST:PORT`` or ``http:HOST:PORT``.

Owns the notation. Opening a listener is ``mcpio``'s affair, and whether a kind of
address is served at all is decided when the settings are checked: ``http`` is not yet, so
nobody is offered it.
"""

from __future__ import annotations

import enum
import os

import attrs

SOCKET_PATH_LIMIT = 107
"""Longest path of a Unix socket in bytes: ``sun_path`` holds 108 with its final NUL (unix(7))."""

NOTATION = "unix:PATH (absolute) or tcp:HOST:PORT"


class Kind(enum.StrEnum):
    """What is spoken at an address."""

    UNIX = "unix"
    TCP = "tcp"
    HTTP = "http"


@attrs.frozen
class ListenAddress:
    """One place to listen.

    Attributes:
        kind: ``UNIX`` and ``TCP`` carry one JSON-RPC message a line, ``HTTP`` Streamable HTTP.
        path: The socket's absolute path; only with ``UNIX``, else empty.
        host: A name or address without brackets; empty with ``UNIX``.
        port: 0 to 65535, where 0 lets the kernel choose; 0 with ``UNIX``.
    """

    kind: Kind
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Return the notation that `parse` reads."""
        if self.kind is Kind.UNIX:
            return f"{self.kind}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Read one address.

        Args:
            text: See `NOTATION`; an IPv6 address stands in brackets.

        Raises:
            ValueError: The text is no address; the message says what is accepted.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or scheme not in tuple(Kind):
            raise ValueError(NOTATION)
        kind = Kind(scheme)
        if kind is Kind.UNIX:
            return cls(kind, path=_socket_path(rest))
        host, colon, port = rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{scheme}:[ADDRESS]:PORT, with brackets around an IPv6 address")
        if not colon or not host:
            # An empty host would mean every interface; that has to be said in so many words.
            raise ValueError(f"{scheme}:HOST:PORT, with 0.0.0.0 or [::] for every interface")
        if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
            raise ValueError(f"{scheme}:HOST:PORT, with a port from 0 to 65535")
        return cls(kind, host=host, port=int(port))


def _socket_path(path: str) -> str:
    # A relative path would depend on where the daemon was started from.
    if not path.startswith("/"):
        raise ValueError("unix:PATH, with an absolute path")
    if "\0" in path or len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise ValueError(f"unix:PATH, with at most {SOCKET_PATH_LIMIT} bytes and no NUL")
    return path
