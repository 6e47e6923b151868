"""What is to be known of a consumer group before one can say whether it is well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.diagnosis.lag import MOST_COUNTED, SMALL_BYTES, Counted, Lag, Shape, lag_of
from redstreamd.streams.diagnosis.sampler import GroupRates
from redstreamd.streams.error_context import explained
from redstreamd.streams.names import RELEASED, Kind, companion_key
from redstreamd.streams.scripts import load

_DIAGNOSE = load("clock", "lease_deadlines", "group_record", "diagnose")

#: Consumers of a group that are looked at; XINFO CONSUMERS has no pages.
MAX_CONSUMERS = 1_000
#: Bytes of an entry, on average, up to which one is read only to know its ID: there is no other way to that.
_READ_FOR_ITS_ID = 102_400
#: Milliseconds by which a group's clock may differ from the server's and be the same.
_CLOCK_SET_MS = 1_000
#: Deliveries that are many even where an entry may be delivered any number of times.
_MANY_DELIVERIES = 10


@attrs.frozen
class ClockStep:
    """That the server's clock was set while leases of a group ran, which go by the group's own.

    Attributes:
        ahead_seconds: By how much the group's clock is ahead of the server's.
        step_seconds: By how much the server's was set forward, the last time; less than 0 for back.
        noticed: When that was noticed, in milliseconds by the server's clock as it was then.
    """

    ahead_seconds: float
    step_seconds: float
    noticed: int


@attrs.frozen
class Look:
    """A close look at a group: its oldest pending entries and its dead letters.

    Attributes:
        now: The server's time in milliseconds.
        oldest: The pending entry with the lowest ID.
        looked_at: Pending entries looked at; the following are counts of these.
        worn: Delivered nearly as often as they may be.
        worst: The greatest number of deliveries.
        leased: Under a lease that runs.
        put_off: Retries that are not due.
        overdue: Due, and taken by nobody yet.
        overdue_since: When the first of them came due, in milliseconds.
        foreign: Held outside redstreamd.
        oldest_foreign: The first of them.
        stale: Consumer -> those of its entries that are neither leased nor put off.
        dead_letters: Dead letters of the group, all of them.
        newest_dead_letter: Entry ID.
        undelivered: The first entry that was not delivered yet; None if there is none, or it was not looked
            for because entries are large.
        max_deliveries: The group's limit of deliveries; 0 for never.
        worn_at: Deliveries from which an entry is near its end.
        counted: What was found after the group's position; None if it was not to be counted.
        clock: How the server's clock was set while leases of the group ran; None if it was not.
    """

    now: int
    oldest: PendingEntry | None
    looked_at: int
    worn: int
    worst: int
    leased: int
    put_off: int
    overdue: int
    overdue_since: int | None
    foreign: int
    oldest_foreign: PendingEntry | None
    stale: Mapping[str, int]
    dead_letters: int
    newest_dead_letter: str | None
    undelivered: str | None
    max_deliveries: int
    worn_at: int
    counted: Counted | None
    clock: ClockStep | None


@attrs.frozen
class GroupFacts:
    """Everything that is known of a group.

    Attributes:
        info: What XINFO GROUPS says.
        lag: Its lag.
        look: The close look.
        consumers: Its consumers; None if there are more than `MAX_CONSUMERS`. Who stands in for removed ones
            is none of them.
        worker_count: How many consumers there are.
        rates: What happened lately; None if it was not sampled.
        ahead: It goes on only after an ID that the stream has not reached.
    """

    info: GroupInfo
    lag: Lag
    look: Look
    consumers: list[ConsumerInfo] | None
    worker_count: int
    rates: GroupRates | None
    ahead: bool

    @property
    def processing_seconds(self) -> float | None:
        """How long an entry is worked on: what is put off, or waits for somebody to take it, is not."""
        if self.rates is None or self.rates.processing_seconds is None:
            return None
        look = self.look
        at_work = look.looked_at - look.put_off - look.overdue
        return self.rates.processing_seconds * at_work / max(1, look.looked_at)


async def facts_of(
    manager: Manager,
    commands: Commands,
    shape: Shape,
    info: GroupInfo,
    *,
    max_deliveries: int,
    look_at: int,
    rates: GroupRates | None,
    told: tuple[str | int, ...],
) -> GroupFacts:
    """Gather what is to be known of one group, looking at `look_at` pending entries.

    `told` is what `GroupClocks` knows of it.

    Raises:
        BusError: GROUP_NOT_FOUND if it went meanwhile.
    """
    count = shape.countable and not lag_of(shape, info, counted=None).exact
    affordable = (shape.memory_bytes or 0) <= _READ_FOR_ITS_ID * max(1, shape.length)
    async with explained(commands, shape.stream, info.name):
        reply = await manager.run_script(
            _DIAGNOSE,
            keys=[
                shape.stream,
                *(companion_key(shape.stream, kind, info.name) for kind in (Kind.DUE, Kind.DEAD, Kind.GROUP)),
            ],
            args=[
                info.name,
                max_deliveries,
                look_at,
                info.last_delivered_id if affordable else "",
                MOST_COUNTED if count else 1,
                # Not all of them need be as small as they are on average.
                MOST_COUNTED * SMALL_BYTES,
                _MANY_DELIVERIES,
                *told,
            ],
            retry_safe=True,
        )
        consumers, worker_count = None, info.consumers
        if info.consumers <= MAX_CONSUMERS:
            listed = await commands.xinfo_consumers(shape.stream, info.name)
            consumers = [consumer for consumer in listed if consumer.name != RELEASED]
            worker_count = len(consumers)
    look = _look(reply, counted=count)
    position, end = (entry_ids.parse(one) or (0, 0) for one in (info.last_delivered_id, shape.last_id))
    return GroupFacts(
        info,
        lag_of(shape, info, counted=look.counted),
        look,
        consumers,
        worker_count,
        rates,
        ahead=position > end,
    )


def _look(reply: list[Any], *, counted: bool) -> Look:
    now, oldest, looked_at, worn, worst, leased, put_off, overdue, since, *rest = reply
    foreign, oldest_foreign, stale, letters, newest, undelivered, found, complete, limit, near, *clock = rest
    return Look(
        now=now,
        oldest=reply_parsing.pending_entry(oldest) if oldest else None,
        looked_at=looked_at,
        worn=worn,
        worst=worst,
        leased=leased,
        put_off=put_off,
        overdue=overdue,
        overdue_since=int(since) if since else None,
        foreign=foreign,
        oldest_foreign=reply_parsing.pending_entry(oldest_foreign) if oldest_foreign else None,
        stale={reply_parsing.name(name): held for name, held in zip(stale[::2], stale[1::2], strict=True)},
        dead_letters=letters,
        newest_dead_letter=newest.decode() or None,
        undelivered=undelivered.decode() or None,
        max_deliveries=limit,
        worn_at=near,
        counted=Counted(found, bool(complete)) if counted else None,
        clock=_clock_step(*clock),
    )


def _clock_step(ahead: int, step: int, noticed: int) -> ClockStep | None:
    if abs(ahead) < _CLOCK_SET_MS:
        return None
    return ClockStep(ahead / 1000, step / 1000, noticed)
