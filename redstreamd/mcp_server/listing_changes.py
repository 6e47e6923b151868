"""Tells clients that the tools or the prompts which are offered to them have changed.

They do after a reload of the settings only: by `tools.profile` and by the policy. In the handshake era a
connection is told that has listed them since it was told last; in the modern one each listen that asked for
it. Whoever is offered the same as before is told nothing. The list of resources, which changes with the
streams, is `subscription_server`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import msgspec
import trio
from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.mcpio import jsonrpc
from redstreamd.policy import Principal

#: Clients that are told between two checkpoints: about half a millisecond of writes.
_AT_ONCE: Final = 64

Names = frozenset[str]
Offered = Callable[[Principal], Names]
"""Returns the names of what a principal is offered now."""


class Sink(Protocol):
    """Where messages to a client are queued."""

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Queue a message; never blocks."""
        ...


class Connection(Protocol):
    """A connection of the handshake era."""

    @property
    def principal(self) -> Principal:
        """On whose behalf its client asks."""
        ...

    @property
    def sink(self) -> Sink:
        """Where messages to the client are queued."""
        ...


class Listen(msgspec.Struct, eq=False):
    """A listen of the modern era: what it was told last, by kind, and how it is told."""

    principal: Principal
    known: dict[str, Names]
    send: Callable[[str], None]


def list_changed(kind: str, params: dict[str, Any] | None = None) -> bytes:
    """Return the line that says that a list, such as of "tools", has changed."""
    return jsonrpc.notification(f"notifications/{kind}/list_changed", params)


def told_of_changes(ctx: ServerRequestContext[Principal]) -> Connection | None:
    """Return the connection of a request if it is of the handshake era; None for the others, which listen."""
    if ctx.request is None or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return None
    connection: Connection = ctx.request.session
    return connection


class ListingChanges:
    """Knows who was shown what."""

    def __init__(self, offered: Mapping[str, Offered]) -> None:
        """Watch the kinds of listing, such as "tools", of which each is said what is offered to whom."""
        self._offered = offered
        self._listed: WeakKeyDictionary[Connection, dict[str, Names]] = WeakKeyDictionary()
        self._listens: set[Listen] = set()

    def note(self, kind: str, connection: Connection) -> None:
        """Take note that a connection of the handshake era was given a list."""
        self._listed.setdefault(connection, {})[kind] = self._offered[kind](connection.principal)

    def listen(self, kinds: Iterable[str], principal: Principal, send: Callable[[str], None]) -> Listen:
        """Call `send` with a kind whenever that list has changed for the principal, until `leave`."""
        known = {kind: self._offered[kind](principal) for kind in kinds}
        listen = Listen(principal, known, send)
        if known:
            self._listens.add(listen)
        return listen

    def leave(self, listen: Listen) -> None:
        """End a listen. Idempotent."""
        self._listens.discard(listen)

    async def tell(self) -> None:
        """Tell all for whom something has changed. If cancelled, some were told."""
        told = 0
        for listen in list(self._listens):
            for kind in self._changed(listen.known, listen.principal):
                listen.known[kind] = self._offered[kind](listen.principal)
                listen.send(kind)
                told += 1
            if told >= _AT_ONCE:
                told = 0
                await trio.lowlevel.checkpoint()
        for connection, known in list(self._listed.items()):
            for kind in self._changed(known, connection.principal):
                del known[kind]
                connection.sink.send(list_changed(kind))
                told += 1
            if told >= _AT_ONCE:
                told = 0
                await trio.lowlevel.checkpoint()

    def _changed(self, known: Mapping[str, Names], principal: Principal) -> list[str]:
        return [kind for kind, names in known.items() if self._offered[kind](principal) != names]
