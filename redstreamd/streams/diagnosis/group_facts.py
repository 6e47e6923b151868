"""Gathering the facts about a consumer group that a diagnosis needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import ConsumerInfo, GroupInfo, PendingEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.diagnosis.lag import SMALL_BYTES, Counted, Lag, StreamInfo, compute_lag
from redstreamd.streams.diagnosis.sampler import GroupRates
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.names import RELEASED
from redstreamd.streams.scripts import load

_DIAGNOSE = load("ids", "server_time", "clock", "due_members", "lease_expiry", "group_limit", "diagnose")

#: Consumers up to which those of a group are listed; XINFO CONSUMERS has no pages.
MAX_CONSUMERS = 1_000
#: Average bytes of an entry up to which one is read whole to get its ID.
_READ_FOR_ITS_ID = 102_400
#: Difference in milliseconds from which a group's clock counts as different from the server's.
_CLOCK_SET_MS = 1_000
#: Deliveries that are many for a group without a limit.
_MANY_DELIVERIES = 10


class ClockStep(msgspec.Struct, frozen=True):
    """The server's clock was set while leases of a group ran, which use the group's own clock.

    Attributes:
        ahead_seconds: By how much the group's clock is ahead of the server's.
        step_seconds: By how much the server's was last set forward; below 0 for back.
        noticed: When that was noticed, in milliseconds by the server's clock at that time.
    """

    ahead_seconds: float
    step_seconds: float
    noticed: int


class Examination(msgspec.Struct, frozen=True):
    """The oldest pending entries of a group, its dead letters, and its first undelivered entries.

    Attributes:
        now: The server's time in milliseconds.
        oldest: The pending entry with the lowest ID.
        scanned: Pending entries scanned; the following are counts of these.
        near_limit: Delivered at least `near_limit_from` times.
        most_deliveries: The greatest number of deliveries.
        leased: Under a running lease.
        retries: Retries that are not due.
        overdue: Due, and not taken yet.
        overdue_since: When the first of them came due, in milliseconds.
        unleased: Held outside redstreamd.
        oldest_unleased: The first of them.
        idle_by_consumer: Consumer -> its entries that are neither leased nor delayed.
        dead_letters: All dead letters of the group.
        newest_dead_letter: Entry ID.
        undelivered: ID of the first undelivered entry; None if there is none, or entries are too large.
        max_deliveries: The group's limit of deliveries; 0 for never.
        near_limit_from: Deliveries from which an entry is near the limit.
        counted: Entries counted after the group's position; None if they were not counted.
        clock: How the server's clock was set while leases of the group ran; None if it was not.
    """

    now: int
    oldest: PendingEntry | None
    scanned: int
    near_limit: int
    most_deliveries: int
    leased: int
    retries: int
    overdue: int
    overdue_since: int | None
    unleased: int
    oldest_unleased: PendingEntry | None
    idle_by_consumer: Mapping[str, int]
    dead_letters: int
    newest_dead_letter: str | None
    undelivered: str | None
    max_deliveries: int
    near_limit_from: int
    counted: Counted | None
    clock: ClockStep | None


class GroupFacts(msgspec.Struct, frozen=True):
    """What is known about a group.

    Attributes:
        info: From XINFO GROUPS.
        lag: Its lag.
        examination: Its pending entries and dead letters.
        consumers: Its consumers, without the placeholder of removed ones; None if there are more than
            `MAX_CONSUMERS`.
        worker_count: Number of consumers.
        rates: Recent rates; None if it was not sampled.
        ahead: Its position is beyond the stream's last ID.
    """

    info: GroupInfo
    lag: Lag
    examination: Examination
    consumers: list[ConsumerInfo] | None
    worker_count: int
    rates: GroupRates | None
    ahead: bool

    @property
    def processing_seconds(self) -> float | None:
        """How long an entry is worked on, without the time as a delayed retry or overdue."""
        if self.rates is None or self.rates.processing_seconds is None:
            return None
        examined = self.examination
        at_work = examined.scanned - examined.retries - examined.overdue
        return self.rates.processing_seconds * at_work / max(1, examined.scanned)


async def gather_facts(
    redis: Redis,
    stream: StreamInfo,
    info: GroupInfo,
    *,
    max_deliveries: int,
    max_pending: int,
    rates: GroupRates | None,
    clock: Mapping[str, Any],
    limits: Bounds = DEFAULT_BOUNDS,
) -> GroupFacts:
    """Gather the facts about one group, scanning at most `max_pending` pending entries.

    `clock` is from `GroupClocks.operands`.

    Raises:
        BusError: GROUP_NOT_FOUND if it was destroyed meanwhile.
    """
    count = stream.countable and not compute_lag(stream, info, counted=None).exact
    affordable = (stream.memory_bytes or 0) <= _READ_FOR_ITS_ID * max(1, stream.length)
    async with explain_errors(redis, stream.stream, info.name):
        reply = await _DIAGNOSE.run(
            redis,
            stream=stream.stream,
            group=info.name,
            default_max_deliveries=max_deliveries,
            max_pending=max_pending,
            position=info.last_delivered_id if affordable else None,
            max_counted=limits.lag_counted if count else 1,
            # Single entries may be larger than the average.
            max_counted_bytes=limits.lag_counted * SMALL_BYTES,
            many_deliveries=_MANY_DELIVERIES,
            **clock,
            retry_safe=True,
        )
        consumers, worker_count = None, info.consumers
        if info.consumers <= MAX_CONSUMERS:
            listed = await redis.xinfo_consumers(stream.stream, info.name)
            consumers = [consumer for consumer in listed if consumer.name != RELEASED]
            worker_count = len(consumers)
    examination = _examination(reply, counted=count)
    position, end = (entry_ids.parse(one) or (0, 0) for one in (info.last_delivered_id, stream.last_id))
    return GroupFacts(
        info,
        compute_lag(stream, info, counted=examination.counted),
        examination,
        consumers,
        worker_count,
        rates,
        ahead=position > end,
    )


def _examination(reply: Any, *, counted: bool) -> Examination:
    idle = zip(*[iter(reply.idle_by_consumer)] * 2, strict=True)
    clock = None
    if abs(reply.clock_ahead) >= _CLOCK_SET_MS:
        clock = ClockStep(reply.clock_ahead / 1000, reply.clock_step / 1000, reply.clock_step_at)
    examined = {
        name: value for name, value in reply._asdict().items() if name in Examination.__struct_fields__
    }
    return Examination(
        **examined
        | {
            "oldest": _pending(reply.oldest),
            "oldest_unleased": _pending(reply.oldest_unleased),
            "idle_by_consumer": {reply_parsing.name(consumer): entries for consumer, entries in idle},
            "counted": Counted(reply.counted, reply.counted_all) if counted else None,
            "clock": clock,
        }
    )


def _pending(line: list[Any]) -> PendingEntry | None:
    return reply_parsing.pending_entry(line) if line else None
