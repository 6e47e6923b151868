"""What is wrong, or worth knowing, with one consumer group: rules over `GroupFacts`, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from redstreamd.streams import entry_ids
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.diagnosis.group_facts import MAX_CONSUMERS, GroupFacts

#: Where monitoring of the original Red-Stream server warned, too.
MANY_PENDING = 100
MANY_LAGGING = 100
#: Seconds for which due work may wait: somebody who waits for it looks every five.
_OVERDUE = 15.0
#: Seconds for which an entry may wait while no consumer gets any.
_UNTAKEN = 60.0
#: Seconds after which a consumer that holds nothing is thought to be gone for good.
_ABANDONED = 7 * 86_400.0
_NAMED = 5
#: What to think of a lag that the server tells and that was not counted to the end.
_ESTIMATED = (
    " How many, is the server's word: entries were removed from the stream, and it may count some that were "
    "removed before the group got them."
)


@attrs.frozen
class Limits:
    """What the settings say about leases.

    Attributes:
        lease_seconds: The usual lease.
        foreign_idle_seconds: The idle time after which others' entries may be taken.
        max_deliveries: The limit of deliveries of groups for which none was set; 0 for never.
    """

    lease_seconds: float
    foreign_idle_seconds: float
    max_deliveries: int


def group_findings(stream: str, facts: GroupFacts, limits: Limits) -> Iterator[Finding]:
    """Say what stands out in one group."""
    place = {"stream": stream, "group": facts.info.name}
    yield from _nobody(place, facts)
    yield from _clock_set(place, facts)
    yield from _ahead(place, facts)
    yield from _behind(place, facts)
    yield from _untaken(place, facts, limits)
    yield from _held(place, facts, limits)
    yield from _failing(place, facts)
    yield from _consumers(place, facts, limits)


def _nobody(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    if facts.worker_count:
        return
    waiting = facts.lag.entries + facts.info.pending
    yield Finding(
        Severity.CRITICAL if waiting else Severity.WARNING,
        "no_consumers",
        "The group has no consumer" + (", so nobody works on what waits in it." if waiting else "."),
        {"consumers": 0, **facts.lag.evidence(), "pending": facts.info.pending},
        place["group"],
        "work_take",
        {**place, "consumer": "<your name>"},
    )


def _clock_set(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    clock = facts.look.clock
    if clock is None:
        return
    way = "back" if clock.step_seconds < 0 else "forward"
    yield Finding(
        Severity.WARNING,
        "clock_set",
        f"The clock of the Redis server was set {way} while leases or retries of the group ran. They go by "
        "a clock of the group's own and come due as if it had not been, until none is left. Entry IDs, ages "
        "and the windows of idempotency keys go by the server's clock: check the time synchronisation of the "
        "server's host (chronyd, systemd-timesyncd).",
        {
            "step_seconds": clock.step_seconds,
            "noticed_time": entry_ids.iso_time(clock.noticed),
            "group_ahead_seconds": clock.ahead_seconds,
        },
        place["group"],
        "pending_list",
        place,
    )


def _ahead(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    if not facts.ahead:
        return
    yield Finding(
        Severity.WARNING,
        "ahead_of_stream",
        "The group goes on after an ID that the stream has not reached: entries that are added until then "
        "are never delivered to it. It was created or set there, or the stream was made anew.",
        {"last_delivered_id": facts.info.last_delivered_id},
        place["group"],
        "group_manage",
        {**place, "action": "set_position", "start": "latest"},
    )


def _behind(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
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


def _untaken(place: dict[str, Any], facts: GroupFacts, limits: Limits) -> Iterator[Finding]:
    look = facts.look
    if not facts.consumers or look.undelivered is None:
        return
    # Before Redis 7.2 it is only known when a consumer last tried, which comes to the same while something
    # waits.
    quiet = min(
        one.idle_seconds if one.inactive_seconds is None else one.inactive_seconds for one in facts.consumers
    )
    waited = min(age_seconds(look.now, look.undelivered), quiet)
    # Who holds entries is at work, and may come for more when that is done; and so is who finishes some.
    held_outside = look.foreign and any(
        one.pending and one.idle_seconds < limits.foreign_idle_seconds for one in facts.consumers
    )
    finishing = facts.rates is not None and facts.rates.finishing
    if waited < _UNTAKEN or look.leased or held_outside or finishing:
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


def _held(place: dict[str, Any], facts: GroupFacts, limits: Limits) -> Iterator[Finding]:
    look, oldest = facts.look, facts.look.oldest
    if oldest is None:
        return
    evidence = {
        "pending": facts.info.pending,
        "looked_at": look.looked_at,
        "leased": look.leased,
        "put_off": look.put_off,
        "overdue": look.overdue,
        "held_outside": look.foreign,
        "oldest_id": oldest.id,
        "oldest_age_seconds": age_seconds(look.now, oldest.id),
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
    waited = 0.0 if look.overdue_since is None else (look.now - look.overdue_since) / 1000
    if waited > _OVERDUE:
        yield Finding(
            Severity.WARNING,
            "overdue",
            "Leases ran out or retries are due, and no consumer asks for work.",
            {"overdue": look.overdue, "waiting_seconds": waited},
            place["group"],
            "work_take",
            {**place, "consumer": "<your name>"},
        )
    stuck = look.oldest_foreign
    if stuck is not None and stuck.idle_seconds > limits.foreign_idle_seconds:
        yield Finding(
            Severity.WARNING,
            "stuck_pending",
            "Entries were delivered outside redstreamd and never acknowledged. work_take hands them out.",
            {
                "held_outside": look.foreign,
                "oldest_id": stuck.id,
                "oldest_age_seconds": age_seconds(look.now, stuck.id),
                "oldest_idle_seconds": stuck.idle_seconds,
                "oldest_consumer": stuck.consumer,
            },
            place["group"],
            "pending_list",
            {**place, "min_idle_seconds": limits.foreign_idle_seconds},
        )
    spent = facts.processing_seconds
    if spent is not None and spent > limits.lease_seconds:
        yield Finding(
            Severity.NOTICE,
            "slow_processing",
            "An entry stays pending longer than the usual lease: consumers must extend it or ask for more.",
            {"processing_seconds": round(spent, 3), "lease_seconds": limits.lease_seconds},
            place["group"],
            "pending_list",
            place,
        )


def _failing(place: dict[str, Any], facts: GroupFacts) -> Iterator[Finding]:
    look = facts.look
    if look.worn:
        yield Finding(
            Severity.WARNING,
            "failing_entries",
            "Entries were delivered again and again"
            + (
                f"; after {look.max_deliveries} deliveries they are dead-lettered."
                if look.max_deliveries
                else ", and are never given up: the group's max_deliveries is 0."
            )
            + " Their content or what they need is at fault, or consumers die of them.",
            {"entries": look.worn, "looked_at": look.looked_at, "most_deliveries": look.worst},
            place["group"],
            "pending_list",
            {**place, "min_deliveries": look.worn_at},
        )
    if look.dead_letters:
        newest = look.newest_dead_letter or entry_ids.ZERO
        yield Finding(
            Severity.WARNING,
            "dead_letters",
            "Entries were given up; each says why. They stay until someone replays or deletes them.",
            {
                "dead_letters": look.dead_letters,
                "newest_time": entry_ids.time_of(newest),
                "newest_age_seconds": age_seconds(look.now, newest),
            },
            place["group"],
            "dead_letter_replay",
            {**place, "action": "list"},
        )


def _consumers(place: dict[str, Any], facts: GroupFacts, limits: Limits) -> Iterator[Finding]:
    if facts.consumers is None:
        yield Finding(
            Severity.NOTICE,
            "many_consumers",
            f"There are more than {MAX_CONSUMERS} consumers, too many to look at. A consumer that took a new "
            "name at every start leaves one behind each time: names should be kept.",
            {"consumers": facts.info.consumers},
            place["group"],
        )
        return
    stale = facts.look.stale
    dead = [
        consumer
        for consumer in facts.consumers
        if stale.get(consumer.name) and consumer.idle_seconds > limits.foreign_idle_seconds
    ]
    if dead:
        dead.sort(key=lambda consumer: -consumer.idle_seconds)
        yield Finding(
            Severity.WARNING,
            "dead_consumers",
            "Consumers hold entries without a lease and have not asked for anything for long: they are "
            "probably gone. Whoever calls work_take gets their entries.",
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
    """Return how long ago an entry was added; 0 for IDs that are no times."""
    parts = entry_ids.parse(entry_id) or (now, 0)
    return max(0.0, (now - parts[0]) / 1000)
