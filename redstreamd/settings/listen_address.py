"""Where the daemon listens, as a value: ``unix:PATH``, ``tcp:HOST:PORT`` or ``http:HOST:PORT``.

How such an address is written is ``notation``'s. Opening a listener is ``mcpio``'s affair, and
whether a kind of address is served at all is decided when the settings are checked: ``http``
is not yet, so nobody is offered it.
"""

from __future__ import annotations

import enum

import attrs

from redstreamd.addresses.address_syntax import place

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
        """Read one address in any of the forms that `notation.place` knows.

        Raises:
            ValueError: The text is no address; the message says what is accepted.
        """
        found = place(text)
        return cls(Kind(found.kind), path=found.path, host=found.host, port=found.port)
