"""The findings about one consumer group: rules over `GroupFacts`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redstreamd.settings import LeasesSettings
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.diagnosis.group_facts import MAX_CONSUMERS, GroupFacts

#: The thresholds of the original Red-Stream server's monitoring.
MANY_PENDING = 100
MANY_LAGGING = 100
#: Seconds for which due work may wait: a waiting take checks every five.
_OVERDUE = 15.0
#: Seconds after which an inactive consumer that holds nothing counts as abandoned.
_ABANDONED = 7 * 86_400.0
#: Consumers named in a finding.
_NAMED = 5
#: Appended for a lag that the server reports and that was not counted to the end.
_ESTIMATED = (
    " The number is the server's: entries were removed from the stream, and it may count some that were "
    "removed before the group read them."
)


def group_findings(
    stream: str, facts: GroupFacts, leases: LeasesSettings, limits: Bounds
) -> Iterator[Finding]:
    """Yield the findings about one group."""
    place = {"stream": stream, "group": facts.info.name}
    yield from _no_consumers(place, facts)
    yield from _clock_set(place, facts)
    yield from _ahead_of_stream(place, facts)
    yield from _lagging(place, facts)
    yield from _no_active_consumers(place, facts, leases, limits)
    yield from _pending(place, facts, leases)
    yield from _failing(place, facts)
    yield from _consumers(place, facts, leases)


def _no_consumers(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    if facts.worker_count:
        return
    waiting = facts.lag.entries + facts.info.pending
    yield Finding(
        Severity.CRITICAL if waiting else Severity.WARNING,
        "no_consumers",
        "The group has no consumer" + (", and entries wait for one." if waiting else "."),
        {"consumers": 0, **facts.lag.evidence(), "pending": facts.info.pending},
        place["group"],
        "work_take",
        {**place, "consumer": "<your name>"},
    )


def _clock_set(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    clock = facts.examination.clock
    if clock is None:
        return
    way = "back" if clock.step_seconds < 0 else "forward"
    yield Finding(
        Severity.WARNING,
        "clock_set",
        f"The clock of the Redis server was set {way} while leases or retries of the group ran. They use a "
        "clock of the group's own, so they come due in time. Entry IDs, ages and the windows of idempotency "
        "keys use the server's clock: check the time synchronisation of its host (chronyd, "
        "systemd-timesyncd).",
        {
            "step_seconds": clock.step_seconds,
            "noticed_time": entry_ids.iso_time(clock.noticed),
            "group_ahead_seconds": clock.ahead_seconds,
        },
        place["group"],
        "pending_list",
        place,
    )


def _ahead_of_stream(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    if not facts.ahead:
        return
    yield Finding(
        Severity.WARNING,
        "ahead_of_stream",
        "The group's position is beyond the stream's last ID: entries that are added before that is reached "
        "are never delivered to it. It was created or set there, or the stream was created again.",
        {"last_delivered_id": facts.info.last_delivered_id},
        place["group"],
        "group_manage",
        {**place, "action": "set_position", "start": "latest"},
    )


def _lagging(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    lag, rates = facts.lag, facts.rates
    evidence = lag.evidence()
    if rates is not None and rates.lag_per_second is not None:
        evidence["lag_per_second"] = round(rates.lag_per_second, 3)
    if rates is not None and rates.acknowledged_per_second is not None:
        evidence["acknowledged_per_second"] = round(rates.acknowledged_per_second, 3)
    growing = rates is not None and (rates.lag_per_second or 0) > 0
    if lag.entries > MANY_LAGGING:
        yield Finding(
            Severity.WARNING,
            "lagging",
            "Many entries wait to be delivered"
            + (", and more every second:" if growing else ":")
            + " the consumers are too few, too slow, or stopped."
            + (_ESTIMATED if not lag.exact and lag.unknown_because is None else ""),
            evidence,
            place["group"],
            "work_take",
            {**place, "consumer": "<another consumer>", "count": 10},
        )
    if lag.unknown_because is not None:
        yield Finding(
            Severity.NOTICE,
            "lag_unknown",
            "The server reports no lag. "
            + lag.unknown_because
            + (" It was counted instead." if lag.exact else " It was estimated from entry IDs.")
            + " The server knows it again once the group has read to the end.",
            evidence,
            place["group"],
        )


def _no_active_consumers(
    place: dict[str, Any], facts: GroupFacts, leases: LeasesSettings, limits: Bounds
) -> Iterator[Finding]:
    examined = facts.examination
    if not facts.consumers or examined.undelivered is None:
        return
    # Before Redis 7.2 only the last attempt of a consumer is known; while entries wait, an attempt gets some.
    quiet = min(
        one.idle_seconds if one.inactive_seconds is None else one.inactive_seconds for one in facts.consumers
    )
    waited = min(age_seconds(examined.now, examined.undelivered), quiet)
    # A consumer that holds or finishes entries is at work, and may take more later.
    held_outside = examined.unleased and any(
        one.pending and one.idle_seconds < leases.foreign_idle_seconds for one in facts.consumers
    )
    finishing = facts.rates is not None and facts.rates.finishing
    if waited < limits.untaken_seconds or examined.leased or held_outside or finishing:
        return
    yield Finding(
        Severity.WARNING,
        "no_active_consumers",
        "Entries wait, and none of the group's consumers took any or holds a lease: they stopped.",
        {
            "consumers": facts.worker_count,
            "active_consumers": 0,
            **facts.lag.evidence(),
            "untaken_seconds": round(waited, 3),
        },
        place["group"],
        "work_take",
        {**place, "consumer": "<your name>"},
    )


def _pending(place: dict[str, Any], facts: GroupFacts, leases: LeasesSettings) -> Iterator[Finding]:
    examined, oldest = facts.examination, facts.examination.oldest
    if oldest is None:
        return
    evidence = {
        "pending": facts.info.pending,
        "looked_at": examined.scanned,
        "leased": examined.leased,
        "put_off": examined.retries,
        "overdue": examined.overdue,
        "held_outside": examined.unleased,
        "oldest_id": oldest.id,
        "oldest_age_seconds": age_seconds(examined.now, oldest.id),
    }
    if facts.info.pending > MANY_PENDING:
        yield Finding(
            Severity.WARNING,
            "many_pending",
            "Many entries were taken and are not finished: work is slow, or is not acknowledged.",
            evidence,
            place["group"],
            "pending_list",
            place,
        )
    waited = 0.0 if examined.overdue_since is None else (examined.now - examined.overdue_since) / 1000
    if waited > _OVERDUE:
        yield Finding(
            Severity.WARNING,
            "overdue",
            "Leases ran out or retries are due, and no consumer asks for work.",
            {"overdue": examined.overdue, "waiting_seconds": waited},
            place["group"],
            "work_take",
            {**place, "consumer": "<your name>"},
        )
    stuck = examined.oldest_unleased
    if stuck is not None and stuck.idle_seconds > leases.foreign_idle_seconds:
        yield Finding(
            Severity.WARNING,
            "stuck_pending",
            "Entries were delivered outside redstreamd and never acknowledged. work_take hands them out.",
            {
                "held_outside": examined.unleased,
                "oldest_id": stuck.id,
                "oldest_age_seconds": age_seconds(examined.now, stuck.id),
                "oldest_idle_seconds": stuck.idle_seconds,
                "oldest_consumer": stuck.consumer,
            },
            place["group"],
            "pending_list",
            {**place, "min_idle_seconds": leases.foreign_idle_seconds},
        )
    spent = facts.processing_seconds
    if spent is not None and spent > leases.lease_seconds:
        yield Finding(
            Severity.NOTICE,
            "slow_processing",
            "An entry stays pending longer than the usual lease: consumers must extend it or ask for more.",
            {"processing_seconds": round(spent, 3), "lease_seconds": leases.lease_seconds},
            place["group"],
            "pending_list",
            place,
        )


def _failing(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    examined = facts.examination
    if examined.near_limit:
        yield Finding(
            Severity.WARNING,
            "failing_entries",
            "Entries were delivered again and again"
            + (
                f"; after {examined.max_deliveries} deliveries they are dead-lettered."
                if examined.max_deliveries
                else ", and are never dead-lettered: the group's max_deliveries is 0."
            )
            + " Their content is at fault, or what they need, or consumers crash on them.",
            {"entries": examined.near_limit, "looked_at": examined.scanned}
            | {"most_deliveries": examined.most_deliveries},
            place["group"],
            "pending_list",
            {**place, "min_deliveries": examined.near_limit_from},
        )
    if examined.dead_letters:
        newest = examined.newest_dead_letter or entry_ids.ZERO
        yield Finding(
            Severity.WARNING,
            "dead_letters",
            "Entries were dead-lettered; each has a reason. They stay until they are replayed or deleted.",
            {
                "dead_letters": examined.dead_letters,
                "newest_time": entry_ids.time_of(newest),
                "newest_age_seconds": age_seconds(examined.now, newest),
            },
            place["group"],
            "dead_letter_replay",
            {**place, "action": "list"},
        )


def _consumers(place: dict[str, Any], facts: GroupFacts, leases: LeasesSettings) -> Iterator[Finding]:
    if facts.consumers is None:
        yield Finding(
            Severity.NOTICE,
            "many_consumers",
            f"There are more than {MAX_CONSUMERS} consumers, too many to examine. A consumer that takes a "
            "new name at every start leaves the old one behind: names should be kept.",
            {"consumers": facts.info.consumers},
            place["group"],
        )
        return
    idle = facts.examination.idle_by_consumer
    dead = [
        consumer
        for consumer in facts.consumers
        if idle.get(consumer.name) and consumer.idle_seconds > leases.foreign_idle_seconds
    ]
    if dead:
        dead.sort(key=lambda consumer: -consumer.idle_seconds)
        yield Finding(
            Severity.WARNING,
            "dead_consumers",
            "Consumers hold entries without a lease and have not asked for anything for long: they are "
            "probably gone. work_take hands out their entries.",
            {
                "consumers": [
                    {"consumer": one.name, "idle_seconds": one.idle_seconds, "pending": one.pending}
                    for one in dead[:_NAMED]
                ],
                "in_all": len(dead),
            },
            place["group"],
            "pending_list",
            {**place, "consumer": dead[0].name},
        )
    gone = [one for one in facts.consumers if not one.pending and one.idle_seconds > _ABANDONED]
    if gone:
        yield Finding(
            Severity.NOTICE,
            "abandoned_consumers",
            "Consumers that hold nothing were not seen for a week. They do no harm and can be removed.",
            {"consumers": [one.name for one in gone[:_NAMED]], "in_all": len(gone)},
            place["group"],
            "group_manage",
            {**place, "action": "remove_consumer", "consumer": gone[0].name},
        )


def age_seconds(now: int, entry_id: str) -> float:
    """Return how long ago an entry was added; 0 for an ID that is not a time."""
    parts = entry_ids.parse(entry_id) or (now, 0)
    return max(0.0, (now - parts[0]) / 1000)
