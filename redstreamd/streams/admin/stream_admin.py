"""Administration of streams: trimming, deleting entries, deleting the stream.

What a group has pending, or has not read, is removed only by force. Check and removal are one script, so no
entry is taken in between.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.counting import Count, Counter
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.consumer_lists import ConsumerLists
from redstreamd.streams.diagnosis.lag import StreamInfo, read_stream_info
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_DELETE = load("ids", "info", "delete_entries")

#: Entries times groups that one check may examine: 50 to 80 ms of the server's time.
_MAX_CHECKS = 10_000
#: Entries counted to find the boundary of a trim by length; about a second, in parts.
_MAX_COUNTED = 1_000_000


class Removal(enum.StrEnum):
    """What is removed."""

    TRIM = "trim"
    ENTRIES = "entries"
    DELETE = "delete"


class GroupNeed(msgspec.Struct, frozen=True):
    """A group that needs an entry, which is `pending` in it or `unread` by it."""

    group: str
    why: str
    entry_id: str


class RemovalResult(msgspec.Struct, frozen=True):
    """Result of a removal or its dry run.

    Attributes:
        removed: Entries removed; in a dry run of ENTRIES, how many of them exist.
        needed_by: How many groups need some of them.
        needs: The first ten of these groups.
        waiting: With DELETE, how many entries wait in its quarantine.
    """

    removed: int
    needed_by: int
    needs: list[GroupNeed]
    waiting: int = 0


class StreamAdmin:
    """Administers streams."""

    def __init__(self, redis: Redis, limits: Bounds = DEFAULT_BOUNDS, *, max_groups: int) -> None:
        """Work through `redis`; what is in a stream with more than `max_groups` is removed by force only."""
        self._max_groups = max_groups
        self._counter = Counter(redis, limits)
        self._redis = redis

    def reconfigure(self, *, max_groups: int) -> None:
        """Apply another number of groups from now on."""
        self._max_groups = max_groups

    async def info(self, stream: str) -> StreamInfo:
        """Describe a stream.

        Raises:
            BusError: STREAM_NOT_FOUND, WRONG_TYPE.
        """
        return await read_stream_info(self._redis, stream)

    async def boundary(self, info: StreamInfo, max_length: int) -> str:
        """Return the ID below which to trim so that the newest `max_length` entries stay.

        Entries that are added meanwhile stay, too.

        Raises:
            BusError: TOO_LARGE if too many entries would have to be counted.
        """
        drop = info.length - max_length
        if drop <= 0:
            return entry_ids.ZERO
        if max_length == 0:
            return entry_ids.after(info.last_id)
        if drop > _MAX_COUNTED:
            raise BusError(
                Code.TOO_LARGE,
                f"Finding the newest {max_length} of {info.length} entries would take too long.",
                cause=f"More than {_MAX_COUNTED} entries would have to be counted.",
                next_step="Trim by min_id or max_age_seconds instead, or in several steps.",
            )
        first, left = "-", drop
        while left > 0:
            at_once = min(left, self._counter.limits.counted_at_once)
            counted, reached, _ = await self._counter.step(info.stream, first, "+", at_once)
            if not counted:
                break
            left -= counted
            first = f"({reached}"
        return entry_ids.after(first[1:])

    async def count_below(self, stream: str, boundary: str) -> Count:
        """Count the entries below an ID."""
        if boundary == entry_ids.ZERO:
            return Count(0, exact=True)
        return await self._counter.count(stream, "-", f"({boundary}")

    async def remove(
        self,
        info: StreamInfo,
        removal: Removal,
        targets: Sequence[str],
        *,
        execute: bool,
        force: bool,
        delete_dead_letters: bool = False,
    ) -> RemovalResult:
        """Remove entries, or the stream with its quarantine and the companion keys of its groups.

        Args:
            info: The stream.
            removal: How.
            targets: TRIM: the ID below which entries are removed. ENTRIES: their IDs. DELETE: nothing.
            execute: Remove them; False for a dry run.
            force: Remove them although a group needs some, or some wait in quarantine.
            delete_dead_letters: With DELETE, delete the dead letters of its groups, too.

        Raises:
            BusError: TOO_LARGE if there are too many groups to check so many entries in one step. With
                `force` they are not checked then.
        """
        if removal is Removal.TRIM and targets[0] == entry_ids.ZERO:
            # There is nothing below it, and Redis refuses such a range.
            return RemovalResult(0, 0, [])
        checkable = info.groups <= self._max_groups and info.groups * max(1, len(targets)) <= _MAX_CHECKS
        if not (checkable or force):
            raise BusError(
                Code.TOO_LARGE,
                f"{info.groups} groups are too many to check at once.",
                cause="The check would block the server for too long.",
                next_step="Name fewer entries, or destroy groups that nobody uses with group_manage.",
            )
        async with explain_errors(self._redis, info.stream):
            companions: list[str] = []
            if removal is Removal.DELETE:
                companions = await self._companions(info.stream, delete_dead_letters)
            try:
                reply = await _DELETE.run(
                    self._redis,
                    stream=info.stream,
                    # What waits for a reply stream is in the quarantine of the stream that this is beside.
                    quarantine=companion_key(info.stream, Kind.QUARANTINE),
                    companions=companions,
                    action=removal.value,
                    execute=execute,
                    force=force,
                    check=checkable,
                    targets=targets,
                    retry_safe=not execute,
                )
            finally:
                if execute and removal is Removal.DELETE:
                    self._redis.shared(GroupLists).forget(info.stream)
                    self._redis.shared(ConsumerLists).forget_stream(info.stream)
        needs = [
            GroupNeed(reply_parsing.name(group), why.decode(), entry_id.decode())
            for group, why, entry_id in zip(*[iter(reply.needs)] * 3, strict=True)
        ]
        return RemovalResult(reply.removed, reply.needed_by, needs, reply.waiting)

    async def _companions(self, stream: str, dead_letters: bool) -> list[str]:
        """Return the keys to delete with a stream, without those that expire soon."""
        kinds = (Kind.DUE, Kind.TRIES, *((Kind.DEAD,) if dead_letters else ()), Kind.GROUP)
        lists = self._redis.shared(GroupLists)
        # What is about to be deleted is asked for now.
        lists.forget(stream)
        groups = (await lists.of(stream)).groups
        return [companion_key(stream, kind, name) for name in groups for kind in kinds]
