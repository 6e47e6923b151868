"""A listening address as a value: ``unix:PATH``, ``tcp:HOST:PORT`` or ``http:HOST:PORT``.

`address_syntax` parses it. `loading` rejects ``http``, which is not served yet.
"""

from __future__ import annotations

import enum

import attrs

from redstreamd.addresses.address_syntax import parse_address

NOTATION = "unix:PATH (absolute) or tcp:HOST:PORT"


class Kind(enum.StrEnum):
    """The kind of socket and protocol."""

    UNIX = "unix"
    TCP = "tcp"
    HTTP = "http"


@attrs.frozen
class ListenAddress:
    """One listening address.

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
        """Return the text that `parse` reads."""
        if self.kind is Kind.UNIX:
            return f"{self.kind}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}:{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """Parse an address; see `parse_address`.

        Raises:
            ValueError: It is invalid; the message says what is accepted.
        """
        found = parse_address(text)
        return cls(Kind(found.kind), path=found.path, host=found.host, port=found.port)
