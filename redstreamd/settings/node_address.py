"""Addresses of several servers, as values: the nodes of a topology, and where announced ones are reached."""

from __future__ import annotations

import re

import attrs

from redstreamd.addresses.address_syntax import host_and_port

NODE_NOTATION = "HOST:PORT, or [ADDRESS]:PORT for IPv6"
MAPPING_NOTATION = "ANNOUNCED=ADDRESS, each of them HOST:PORT"

#: One server, without TLS or a login, can only mean its address.
_PLAIN_SCHEME = re.compile(r"(redis|valkey|tcp)://|tcp:(?=[^:]+:[0-9]+$|\[)", re.IGNORECASE)


@attrs.frozen
class NodeAddress:
    """The address of one server.

    Attributes:
        host: A name or address without brackets.
        port: Its TCP port; None for the usual one of what it is.
    """

    host: str
    port: int | None = None

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """Parse ``HOST``, ``HOST:PORT``, ``ADDRESS``, ``[ADDRESS]`` or ``[ADDRESS]:PORT``.

        Raises:
            ValueError: It is invalid; the message says what is accepted, and does not contain the text.
        """
        rest = text[found.end() :] if (found := _PLAIN_SCHEME.match(text)) else text
        if "@" in rest:
            raise ValueError(
                f"{NODE_NOTATION}, without a login: all nodes have that of redis.username and "
                "redis.password, and sentinels that of redis.sentinel_username and redis.sentinel_password"
            )
        if "://" in rest:
            raise ValueError(f"{NODE_NOTATION}, without a scheme; TLS for all nodes is redis.tls = true")
        try:
            host, port = host_and_port(rest.removesuffix("/") if found else rest)
        except ValueError as wrong:
            raise ValueError(f"{NODE_NOTATION}; {wrong}") from None
        if not host or port == 0:
            raise ValueError(NODE_NOTATION)
        return cls(host, port)

    def with_port(self, port: int) -> NodeAddress:
        """Return it with this port, if it has none."""
        return self if self.port is not None else NodeAddress(self.host, port)


@attrs.frozen
class AddressMapping:
    """Where a server that announces an address is reached.

    Attributes:
        announced: The address, as the other servers or the sentinels tell it; with a port.
        address: What to connect to instead; with a port.
    """

    announced: NodeAddress
    address: NodeAddress

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"{self.announced}={self.address}"

    @classmethod
    def parse(cls, text: str) -> AddressMapping:
        """Parse ``ANNOUNCED=ADDRESS``.

        Raises:
            ValueError: It is invalid; the message says what is accepted, and does not contain the text.
        """
        announced, equals, address = text.partition("=")
        if not equals:
            raise ValueError(MAPPING_NOTATION)
        try:
            found = cls(NodeAddress.parse(announced.strip()), NodeAddress.parse(address.strip()))
        except ValueError as wrong:
            raise ValueError(f"{MAPPING_NOTATION}; {wrong}") from None
        if found.announced.port is None or found.address.port is None:
            raise ValueError(f"{MAPPING_NOTATION}; a port is missing")
        return found
