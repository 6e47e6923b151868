"""A listening address as a value: ``unix:PATH``, ``tcp:HOST:PORT``, ``http:...`` or ``metrics:...``.

`address_syntax` parses it.
"""

from __future__ import annotations

import enum

import attrs

from redstreamd.addresses.address_syntax import parse_address

NOTATION = "unix:PATH (absolute), tcp:HOST:PORT, http:HOST:PORT, http:PATH, metrics:HOST:PORT or metrics:PATH"


class Kind(enum.StrEnum):
    """The kind of socket and protocol."""

    UNIX = "unix"
    TCP = "tcp"
    HTTP = "http"
    METRICS = "metrics"


@attrs.frozen
class ListenAddress:
    """One listening address.

    Attributes:
        kind: ``UNIX`` and ``TCP`` carry one JSON-RPC message a line, ``HTTP`` Streamable HTTP, ``METRICS``
            OpenMetrics.
        path: The absolute path of a Unix socket, with ``UNIX``, perhaps with the last two; else empty.
        host: A name or address without brackets; empty with a path.
        port: 0 to 65535, where 0 lets the kernel choose; 0 with a path.
    """

    kind: Kind
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        if self.path:
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
