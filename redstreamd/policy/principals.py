"""The principal of a call, and the permissions that tools need.

A client is identified by the socket it connects to, with one socket and one system group for each role. This
works even where peer credentials are hidden from the daemon. Where the site asks for it, what proved who the
client is follows: ``mcp/uid:1000`` for the user of a Unix socket, ``tcp/cert:ann`` for the name of a
certificate, ``http/token:ann`` and ``http/oauth:ann`` for that of a token.
"""

from __future__ import annotations

import enum

import msgspec


class Permission(enum.StrEnum):
    """What a tool does to the streams it names."""

    # Enum's own is written in Python, and permissions are a part of the key of every call's verdicts.
    __hash__ = str.__hash__

    READ = "read"
    PUBLISH = "publish"
    CONSUME = "consume"
    MANAGE = "manage"


class Principal(msgspec.Struct, frozen=True, cache_hash=True):
    """On whose behalf a call is made.

    Attributes:
        name: Stored in entries as their sender; printable ASCII without spaces.
        transport: ``unix``, ``tcp``, ``stdio`` or ``http``.
        socket: The name of the socket that it came through, if its own name says more; else empty.
        permissions: The scopes of the token that it has shown: what else the policy grants its name is not
            granted to it. None if nothing limits it.
    """

    name: str
    transport: str
    socket: str = ""
    permissions: frozenset[Permission] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of whom `owns` accepts as an owner, its own first."""
        return (self.name, self.socket) if self.socket else (self.name,)

    def owns(self, owner: str) -> bool:
        """Return whether what belongs to the principal named `owner` is this one's.

        What belongs to a socket, from before it told its users apart, is each of its users' until it expires.
        """
        return owner == self.name or (self.socket != "" and owner == self.socket)

    def proved(self, what: str, permissions: frozenset[Permission] | None = None) -> Principal:
        """Return the principal of a client of this socket about whom more is known.

        Args:
            what: ``uid:1000``, ``cert:ann``; printable ASCII without spaces.
            permissions: See the class.
        """
        return Principal(f"{self.name}/{what}", self.transport, self.name, permissions)
