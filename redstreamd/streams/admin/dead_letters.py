"""Dead letters: looking at them, putting them back into their stream, deleting them.

How an entry becomes a dead letter is the leases' affair (``lua/dead_letter.lua``).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explained, group_not_found
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load
from redstreamd.streams.tail_hub import TailHub

_REPLAY = load("clock", "lease_deadlines", "replay")

#: Size at which a page of letters ends early.
_PAGE_BYTES = 4_194_304


class Disposal(enum.StrEnum):
    """What to do with a dead letter."""

    REPLAY = "replay"
    DELETE = "delete"


class Fate(enum.StrEnum):
    """What became of a dead letter."""

    ADDED = "added"  #: It is a new entry of the stream.
    RETURNED = "returned"  #: Its original entry, too large to copy, is pending in the group again.
    DELETED = "deleted"
    GONE = "gone"  #: It was no dead letter any more: somebody else was first.
    LOST = "lost"  #: It was too large to copy when it died, and its original was deleted since.
    STUCK = "stuck"  #: It was too large to copy, and the group it could return to is gone.
    LARGE = "large"  #: Another program made it, of more fields than can be copied.
    LEFT = "left"  #: Not looked at: those before it were enough for one step.


@attrs.frozen
class Disposed:
    """What became of one dead letter.

    Attributes:
        id: The dead letter's entry ID.
        fate: What became of it.
        entry_id: ADDED: the new entry's ID, None in a dry run; RETURNED, STUCK, LOST: the original's.
    """

    id: str
    fate: Fate
    entry_id: str | None


@attrs.frozen
class Letters:
    """Some dead letters of a group, oldest first.

    Attributes:
        key: The dead-letter stream.
        entries: The letters; their fields end with the note.
        total: How many there are in all.
        has_more: Whether there are more after these.
    """

    key: str
    entries: list[RawEntry]
    total: int
    has_more: bool


class DeadLetters:
    """The dead letters of any stream and group."""

    def __init__(
        self, manager: Manager, commands: Commands, pages: Pages, hub: TailHub, clocks: GroupClocks
    ) -> None:
        """Work through `manager`; `hub` wakes those who wait for what comes back, due by `clocks`."""
        self._manager = manager
        self._clocks = clocks
        self._pages = pages
        self._commands = commands
        self._hub = hub

    async def page(self, stream: str, group: str, *, cursor: str | None, count: int) -> Letters:
        """Read at most `count` dead letters after the letter `cursor`, oldest first; fewer if they are large.

        They outlive their group and their stream.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND if there is neither a dead letter nor what could
                have any; WRONG_TYPE.
        """
        key = companion_key(stream, Kind.DEAD, group)
        async with explained(self._commands, key):
            start = "-" if cursor is None else f"({cursor}"
            page = await self._pages.read(key, start, "+", most=count, most_bytes=_PAGE_BYTES)
            total = await self._commands.xlen(key)
        if not total:
            await self._check_exists(stream, group)
        return Letters(key, page.entries, total, page.has_more)

    async def dispose(
        self, stream: str, group: str, disposal: Disposal, ids: Sequence[str], *, dry_run: bool
    ) -> list[Disposed]:
        """Replay or delete dead letters in one step: all, or as many as are not too large together.

        A replayed letter is a new entry with exactly the fields the first one had, stamps and sender
        included, and every group of the stream gets it. Repeating the call changes nothing more: what
        is done is GONE.

        Args:
            stream: The stream they came from.
            group: The group that gave them up.
            disposal: What to do.
            ids: Entry IDs of the dead letters; at most some hundred, since nobody else is served meanwhile.
            dry_run: Change nothing; tell what would become of them.

        Raises:
            BusError: WRONG_TYPE, PERMISSION_DENIED, BACKEND_OUT_OF_MEMORY: nothing was changed.
                OUTCOME_UNKNOWN: the letters that are gone were dealt with.

        Cancellation: what was sent is done all the same.
        """
        key = companion_key(stream, Kind.DEAD, group)
        async with explained(self._commands, stream, group):
            outcomes = await self._manager.run_script(
                _REPLAY,
                keys=[
                    stream,
                    companion_key(stream, Kind.DUE, group),
                    key,
                    companion_key(stream, Kind.GROUP, group),
                ],
                args=[disposal.value, int(dry_run), group, *self._clocks.told(stream, group), *ids],
                retry_safe=dry_run,
            )
        disposed = [
            Disposed(letter, Fate(fate.decode()), entry_id.decode() or None)
            for letter, (fate, entry_id) in zip(ids, outcomes, strict=True)
        ]
        if not dry_run and any(one.fate is Fate.RETURNED for one in disposed):
            # The due set is watched by nobody.
            self._hub.poke(stream)
        return disposed

    async def other_groups(self, stream: str, group: str) -> int:
        """Count the groups of a stream, which need not exist, without `group`."""
        if await self._commands.key_type(stream) == "none":
            return 0
        async with explained(self._commands, stream):
            groups = await self._commands.xinfo_groups(stream, role=Role.BULK)
        return sum(info.name != group for info in groups)

    async def _check_exists(self, stream: str, group: str) -> None:
        async with explained(self._commands, stream):
            groups = await self._commands.xinfo_groups(stream)
        if all(info.name != group for info in groups):
            raise await group_not_found(self._commands, stream, group)
