"""Administration of consumer groups: destroying, setting the position, removing a consumer."""

from __future__ import annotations

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.counting import Count, Counter
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.call_records import call_record
from redstreamd.streams.consumer_lists import ConsumerLists
from redstreamd.streams.diagnosis.lag import Counted, Lag, StreamInfo, compute_lag, read_stream_info
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.error_context import append_to_errors, explain_errors, find_group, quoted
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.work import group_position

_REMOVE = load(
    "server_time",
    "clock",
    "due_members",
    "lease_expiry",
    "delivery_names",
    "delivery_history",
    "remove_consumer",
)
_DESTROY = load("destroy_group")


class GroupState(msgspec.Struct, frozen=True):
    """A group and its stream; `dead_letters` is the number of the group's."""

    stream: StreamInfo
    info: GroupInfo
    lag: Lag
    dead_letters: int


class PositionChange(msgspec.Struct, frozen=True):
    """Effect of setting a group's position.

    Attributes:
        position: The new last-delivered ID.
        skipped: Undelivered entries that will not be delivered.
        repeated: Entries that will be delivered again.
    """

    position: str
    skipped: Count
    repeated: Count


class ConsumerRemoval(msgspec.Struct, frozen=True):
    """What was done to the pending entries of a removed consumer; `deleted` are those without content."""

    moved: int
    deleted: int
    lost: int


class GroupAdmin:
    """Administers consumer groups."""

    def __init__(
        self,
        redis: Redis,
        hub: TailHub,
        records: GroupRecords,
        clocks: GroupClocks,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Work through `redis`, `records` and `clocks`; `hub` wakes waiting takes."""
        self._moved_at_once = limits.moved_at_once
        self._counter = Counter(redis, limits)
        self._redis = redis
        self._clocks = clocks
        self._hub = hub
        self._records = records

    async def state(self, stream: str, group: str) -> GroupState:
        """Describe a group.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE.
        """
        found = await read_stream_info(self._redis, stream)
        info = await find_group(self._redis, stream, group)
        dead = await self._redis.xlen(companion_key(stream, Kind.DEAD, group))
        return GroupState(found, info, await self._lag(found, info), dead)

    async def _lag(self, stream: StreamInfo, info: GroupInfo) -> Lag:
        lag = compute_lag(stream, info, counted=None)
        if lag.exact or not stream.countable:
            return lag
        found = await self._counter.count(stream.stream, f"({info.last_delivered_id}", "+")
        return compute_lag(stream, info, counted=Counted(found.entries, found.exact))

    async def destroy(self, stream: str, group: str, *, delete_dead_letters: bool) -> bool:
        """Destroy a group with its pending entries and leases; return whether it existed. Idempotent."""
        try:
            async with explain_errors(self._redis, stream):
                existed = await _DESTROY.run(
                    self._redis,
                    stream=stream,
                    group=group,
                    delete_dead_letters=delete_dead_letters,
                    retry_safe=True,
                )
        finally:
            self._forget_lists(stream, group)
        return bool(existed)

    def _forget_lists(self, stream: str, group: str) -> None:
        """Forget what a change makes wrong, or may have where nobody knows whether it was made."""
        self._redis.shared(GroupLists).forget(stream)
        self._redis.shared(ConsumerLists).forget((stream, group))

    async def plan_position(self, stream: str, state: GroupState, start: str) -> PositionChange:
        """Return the effect of making `start` the first entry to be delivered; changes nothing."""
        asked = group_position(start)
        target = {"0": entry_ids.ZERO, "$": state.stream.last_id}.get(asked, asked)
        current = state.info.last_delivered_id
        skipped = repeated = Count(0, exact=True)
        async with explain_errors(self._redis, stream):
            to, at = (entry_ids.parse(one) or (0, 0) for one in (target, current))
            if to > at:
                skipped = await self._counter.count(stream, f"({current}", target)
            elif to < at:
                repeated = await self._counter.count(stream, f"({target}", current)
        return PositionChange(target, skipped, repeated)

    async def set_position(self, stream: str, group: str, position: str) -> None:
        """Set a group's last-delivered ID. What is pending stays pending."""
        try:
            async with explain_errors(self._redis, stream, group):
                await self._redis.xgroup_setid(stream, group, position)
        finally:
            self._forget_lists(stream, group)
        # There may be new work, and no watched key changed.
        self._hub.notify(stream)

    async def max_deliveries(self, stream: str, group: str) -> int:
        """Return after how many deliveries an entry of a group is dead-lettered; 0 for never."""
        async with explain_errors(self._redis, stream, group):
            return await self._records.max_deliveries(stream, group)

    async def set_max_deliveries(self, stream: str, group: str, max_deliveries: int) -> None:
        """Set the limit of a group that exists, from the next take or failure on."""
        async with explain_errors(self._redis, stream, group):
            await self._records.set_max_deliveries(stream, group, max_deliveries)
        # Subscribers of the group are notified, and no watched key changed.
        self._hub.notify(stream)

    async def consumer(self, stream: str, group: str, consumer: str) -> ConsumerInfo:
        """Return a consumer of a group.

        Raises:
            BusError: INVALID_ARGUMENT if it does not exist, with similar names.
        """
        async with explain_errors(self._redis, stream, group):
            lists = self._redis.shared(ConsumerLists)
            # What is about to be removed or handed over is asked for now.
            lists.forget((stream, group))
            known = (await lists.of((stream, group))).consumers
        if consumer in known:
            return known[consumer]
        similar = nearest_names(consumer, known, 3, least=0.6) or sorted(known)[:10]
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"Group {group!r} has no consumer {consumer[:80]!r}.",
            cause=f"It has {len(known)}, among them: {quoted(similar) or 'none'}.",
            next_step="stream_health shows inactive consumers; pending_list shows who holds which entries.",
        )

    async def remove_consumer(
        self, stream: str, group: str, consumer: str, *, heir: str | None, heir_seconds: float | None
    ) -> ConsumerRemoval:
        """Move a consumer's pending entries to `heir`, in parts, and remove the consumer.

        After an interruption the consumer exists with what was not moved; repeating the call continues. The
        consumer's leases on moved entries are lost.

        Args:
            stream: The stream.
            group: The group.
            consumer: Who is removed.
            heir: Who gets its pending entries, not `consumer`; None: they are lost.
            heir_seconds: For how long only the heir may resume them; None: anybody may take them now.
        """
        lease_ms = None if heir_seconds is None else milliseconds(heir_seconds)
        moved = deleted = part = 0
        reply = None
        record = call_record(self._redis, stream)

        def done() -> str:
            if not part:
                return ""
            return f"Before that, this call moved {moved} entries of {consumer!r}; repeat it to continue."

        try:
            with append_to_errors(done):
                async with explain_errors(self._redis, stream, group):
                    while reply is None or not reply.removed:
                        reply = await _REMOVE.run(
                            self._redis,
                            stream=stream,
                            group=group,
                            consumer=consumer,
                            heir=heir,
                            lease_ms=lease_ms,
                            max_moved=self._moved_at_once,
                            part=part,
                            **record,
                            **self._clocks.operands(stream, group),
                            retry_safe=True,
                        )
                        moved += reply.moved
                        deleted += reply.deleted
                        part += 1
        finally:
            self._forget_lists(stream, group)
        self._hub.notify(stream)
        return ConsumerRemoval(moved, deleted, reply.lost)
