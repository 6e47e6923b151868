"""Administration of streams: trimming, deleting entries, deleting the whole, with regard for the groups.

What a group has pending, or did not get yet, is removed only by force. The check and the deed are one
script, so no entry becomes somebody's work in between.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.counting import Count, count_between
from redstreamd.streams.diagnosis.lag import Shape, shape_of
from redstreamd.streams.error_context import explained, stream_not_found
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_CUT = load("ids", "delete_entries")
_COUNT = load("count_entries")

#: Entries times groups that one check may look at: 50 to 80 ms of the server's time.
_MAX_CHECKS = 10_000
#: Entries walked to find where a stream of `max_length` entries begins; a second, in pieces.
_MAX_WALKED = 1_000_000
_WALKED_AT_ONCE = 1_000


class Removal(enum.StrEnum):
    """What is removed."""

    TRIM = "trim"
    ENTRIES = "entries"
    DELETE = "delete"


@attrs.frozen
class Need:
    """A group that still needs an entry: it is `pending` there or `unread` by it."""

    group: str
    why: str
    entry_id: str


@attrs.frozen
class Cut:
    """What a removal did, or would have done.

    Attributes:
        removed: Entries removed now; in a dry run of ENTRIES, how many of them there are.
        needed_by: How many groups need some of them.
        needs: The first ten of these groups.
    """

    removed: int
    needed_by: int
    needs: list[Need]


class StreamAdmin:
    """Administers streams."""

    def __init__(self, manager: Manager, commands: Commands) -> None:
        """Work through `manager`."""
        self._manager = manager
        self._commands = commands

    async def shape(self, stream: str) -> Shape:
        """Describe a stream.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE.
        """
        shape = await shape_of(self._manager, self._commands, stream)
        if shape is None:
            raise await stream_not_found(self._commands, stream)
        return shape

    async def boundary(self, shape: Shape, max_length: int) -> str:
        """Return the ID below which entries go so that the newest `max_length` stay.

        Entries that are added meanwhile stay, too.

        Raises:
            BusError: TOO_LARGE if that place is too far from either end to be found.
        """
        drop = shape.length - max_length
        if drop <= 0:
            return entry_ids.ZERO
        if max_length == 0:
            return entry_ids.after(shape.last_id)
        if drop > _MAX_WALKED:
            raise BusError(
                Code.TOO_LARGE,
                f"Finding the newest {max_length} of {shape.length} entries would take too long.",
                cause=f"More than {_MAX_WALKED} entries would have to be passed one by one.",
                next_step="Trim by min_id or max_age_seconds instead, or in several steps.",
            )
        first, left = "-", drop
        while left > 0:
            found, reached, _ = await self._manager.run_script(
                _COUNT,
                keys=[shape.stream],
                args=[first, "+", min(left, _WALKED_AT_ONCE)],
                retry_safe=True,
                role=Role.BULK,
            )
            if not found:
                break
            left -= found
            first = f"({reached.decode()}"
        return entry_ids.after(first[1:])

    async def count_below(self, stream: str, boundary: str) -> Count:
        """Count the entries below an ID, so far as that is worth while."""
        if boundary == entry_ids.ZERO:
            return Count(0, exact=True)
        return await count_between(self._manager, stream, "-", f"({boundary}")

    async def remove(
        self,
        shape: Shape,
        removal: Removal,
        what: Sequence[str],
        *,
        really: bool,
        force: bool,
        delete_dead_letters: bool = False,
    ) -> Cut:
        """Remove entries, or the stream with what redstreamd keeps for its groups.

        Args:
            shape: The stream.
            removal: How.
            what: TRIM: the ID below which entries go. ENTRIES: their IDs. DELETE: nothing.
            really: Do it; else only look.
            force: Do it although a group needs some of them.
            delete_dead_letters: DELETE: those of its groups go, too.

        Raises:
            BusError: TOO_LARGE if there are too many groups to check so many entries in one step.
        """
        if removal is Removal.TRIM and what[0] == entry_ids.ZERO:
            # Nothing lies below it, and Redis refuses a range that cannot hold anything.
            return Cut(0, 0, [])
        if shape.groups * max(1, len(what)) > _MAX_CHECKS:
            raise BusError(
                Code.TOO_LARGE,
                f"{shape.groups} groups are too many to check at once.",
                cause="Nobody else would be served meanwhile.",
                next_step="Name fewer entries, or destroy groups that nobody uses with group_manage.",
            )
        async with explained(self._commands, shape.stream):
            companions: list[str] = []
            if removal is Removal.DELETE:
                companions = await self._companions(shape.stream, delete_dead_letters)
            removed, needed_by, listed = await self._manager.run_script(
                _CUT,
                keys=[shape.stream, *companions],
                args=[removal.value, "1" if really else "", int(force), *what],
                retry_safe=not really,
            )
        groups, whys, ids = listed[::3], listed[1::3], listed[2::3]
        needs = [
            Need(reply_parsing.name(group), why.decode(), entry_id.decode())
            for group, why, entry_id in zip(groups, whys, ids, strict=True)
        ]
        return Cut(removed, needed_by, needs)

    async def _companions(self, stream: str, dead_letters: bool) -> list[str]:
        """Return the keys that go with a stream; those that expire by themselves are left to that."""
        kinds = (Kind.DUE, Kind.TRIES, *((Kind.DEAD,) if dead_letters else ()), Kind.GROUP)
        infos = await self._commands.xinfo_groups(stream, role=Role.BULK)
        return [companion_key(stream, kind, info.name) for info in infos for kind in kinds]
