"""Administration of consumer groups: destroying, setting the position, removing a consumer.

Each has a plan, which says exactly what would happen and changes nothing, and a deed.
"""

from __future__ import annotations

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.admin.counting import Count, count_between
from redstreamd.streams.call_records import CallRecord
from redstreamd.streams.diagnosis.lag import Counted, Lag, Shape, lag_of, shape_of
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.error_context import explained, group_not_found, quoted, stream_not_found, telling
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.work import group_position

_REMOVE = load("clock", "lease_deadlines", "delivery_history", "remove_consumer")
_DESTROY = load("destroy_group")

#: Pending entries moved by one script; 1 to 3 ms of the server's time.
_MOVED_AT_ONCE = 100


@attrs.frozen
class GroupState:
    """A group as it is before anything is done to it; `dead_letters` counts those it has."""

    shape: Shape
    info: GroupInfo
    lag: Lag
    dead_letters: int


@attrs.frozen
class Move:
    """What setting a group's position does.

    Attributes:
        position: The new last-delivered ID.
        skipped: Entries that were not delivered and will not be.
        repeated: Entries that were delivered and will be again.
    """

    position: str
    skipped: Count
    repeated: Count


@attrs.frozen
class Removal:
    """What removing a consumer did to its pending entries; `gone` had been deleted from the stream."""

    moved: int
    gone: int
    lost: int


class GroupAdmin:
    """Administers consumer groups."""

    def __init__(
        self,
        manager: Manager,
        commands: Commands,
        hub: TailHub,
        records: GroupRecords,
        clocks: GroupClocks,
    ) -> None:
        """Work through `manager`, `records` and `clocks`; `hub` wakes those who wait for what is released."""
        self._manager = manager
        self._clocks = clocks
        self._commands = commands
        self._hub = hub
        self._records = records

    async def state(self, stream: str, group: str) -> GroupState:
        """Return what is to be known of a group before it is changed.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE.
        """
        shape = await shape_of(self._manager, self._commands, stream)
        if shape is None:
            raise await stream_not_found(self._commands, stream)
        async with explained(self._commands, stream, group):
            infos = await self._commands.xinfo_groups(stream, role=Role.BULK)
        for info in infos:
            if info.name == group:
                dead = await self._commands.xlen(companion_key(stream, Kind.DEAD, group))
                return GroupState(shape, info, await self._lag(shape, info), dead)
        raise await group_not_found(self._commands, stream, group)

    async def _lag(self, shape: Shape, info: GroupInfo) -> Lag:
        lag = lag_of(shape, info, counted=None)
        if lag.exact or not shape.countable:
            return lag
        found = await count_between(self._manager, shape.stream, f"({info.last_delivered_id}", "+")
        return lag_of(shape, info, counted=Counted(found.entries, found.exact))

    async def destroy(self, stream: str, group: str, *, delete_dead_letters: bool) -> bool:
        """Destroy a group with its pending entries and leases; return False if there was none.

        Its dead letters stay unless they are to go, too. Repeating it is harmless.
        """
        async with explained(self._commands, stream):
            existed = await self._manager.run_script(
                _DESTROY,
                keys=[
                    stream,
                    *(
                        companion_key(stream, kind, group)
                        for kind in (Kind.DUE, Kind.TRIES, Kind.DEAD, Kind.GROUP)
                    ),
                ],
                args=[group, int(delete_dead_letters)],
                retry_safe=True,
            )
        return bool(existed)

    async def plan_position(self, stream: str, state: GroupState, start: str) -> Move:
        """Say what it would mean that the first entry to be delivered is the one at `start`."""
        asked = group_position(start)
        target = {"0": entry_ids.ZERO, "$": state.shape.last_id}.get(asked, asked)
        now_at = state.info.last_delivered_id
        skipped = repeated = Count(0, exact=True)
        async with explained(self._commands, stream):
            to, at = (entry_ids.parse(one) or (0, 0) for one in (target, now_at))
            if to > at:
                skipped = await count_between(self._manager, stream, f"({now_at}", target)
            elif to < at:
                repeated = await count_between(self._manager, stream, f"({target}", now_at)
        return Move(target, skipped, repeated)

    async def set_position(self, stream: str, group: str, position: str) -> None:
        """Let a group go on after the entry ID `position`. What is pending stays pending."""
        async with explained(self._commands, stream, group):
            await self._commands.xgroup_setid(stream, group, position)
        # What can be taken changed, and no watched key did.
        self._hub.poke(stream)

    async def max_deliveries(self, stream: str, group: str) -> int:
        """Return after how many deliveries an entry of a group is dead-lettered; 0 for never."""
        async with explained(self._commands, stream, group):
            return await self._records.max_deliveries(stream, group)

    async def set_max_deliveries(self, stream: str, group: str, max_deliveries: int) -> None:
        """Set the limit of a group that exists. It counts from the next take and the next failure on."""
        async with explained(self._commands, stream, group):
            await self._records.set_max_deliveries(stream, group, max_deliveries)
        # Subscribers of the group are told of it, and no key that is watched changed.
        self._hub.poke(stream)

    async def consumer(self, stream: str, group: str, consumer: str) -> ConsumerInfo:
        """Return a consumer of a group.

        Raises:
            BusError: INVALID_ARGUMENT if there is none of this name, with the nearest.
        """
        async with explained(self._commands, stream, group):
            known = {info.name: info for info in await self._commands.xinfo_consumers(stream, group)}
        if consumer in known:
            return known[consumer]
        similar = nearest_names(consumer, known, 3, least=0.6) or sorted(known)[:10]
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"Group {group!r} has no consumer {consumer[:80]!r}.",
            cause=f"It has {len(known)}, among them: {quoted(similar) or 'none'}.",
            next_step="stream_health shows those that are gone; pending_list shows who holds what.",
        )

    async def remove_consumer(
        self, stream: str, group: str, consumer: str, *, heir: str | None, heir_seconds: float | None
    ) -> Removal:
        """Remove a consumer; what it holds goes to `heir` first, in parts.

        Interrupted in between, the consumer is still there with what was not moved yet; repeating the
        call goes on. Leases of the consumer on what was moved are lost.

        Args:
            stream: The stream.
            group: The group.
            consumer: Who goes.
            heir: Who gets its pending entries, another than `consumer`; None: they are lost.
            heir_seconds: For how long the heir alone may resume them; None: anybody may take them now.
        """
        lease = "" if heir_seconds is None else milliseconds(heir_seconds)
        moved = gone = lost = removed = part = 0
        sending = CallRecord.of(self._manager, stream)

        def done() -> str:
            if not part:
                return ""
            return f"Before that, this call passed on {moved} entries of {consumer!r}; repeat it to go on."

        with telling(done):
            async with explained(self._commands, stream, group):
                while not removed:
                    some, vanished, removed, lost = await self._manager.run_script(
                        _REMOVE,
                        keys=[
                            stream,
                            *(companion_key(stream, kind, group) for kind in (Kind.DUE, Kind.TRIES)),
                            sending.key,
                            companion_key(stream, Kind.GROUP, group),
                        ],
                        args=[
                            *(group, consumer, heir or "", lease, _MOVED_AT_ONCE, part, sending.keep_ms),
                            *self._clocks.told(stream, group),
                        ],
                        retry_safe=True,
                    )
                    moved += some
                    gone += vanished
                    part += 1
        self._hub.poke(stream)
        return Removal(moved, gone, lost)
