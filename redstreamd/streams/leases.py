"""Leases on the entries of a consumer group: taking, settling, fencing.

Owns the two scripts and the due set; waiting for entries is in `work`. The pending entries list
stays the one truth about who holds what: its delivery counter is the attempt, and the attempt is
the fencing token. So redis-cli and other programs may work on the same group, and a due set that is
stale or lost costs a delay, never an entry.

XREADGROUP CLAIM and XNACK (Redis 8.4 and later) are not used: there the claimer's threshold wins
over the holder's lease.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.call_records import CallRecord
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_TAKE = load(
    "ids", "clock", "lease_deadlines", "group_record", "delivery_history", "dead_letter", "take_work"
)
_SETTLE = load("ids", "clock", "lease_deadlines", "group_record", "delivery_history", "dead_letter", "settle")


class Action(enum.StrEnum):
    """What a settlement does to an entry."""

    DONE = "done"
    EXTEND = "extend"
    HOLD = "hold"  #: Extend what would end earlier.
    RETRY = "retry"
    DEAD_LETTER = "dead"


class Outcome(enum.StrEnum):
    """What became of an entry in a settlement."""

    DONE = "done"
    EXTENDED = "extended"
    RETRIED = "retried"
    DEAD_LETTERED = "dead"
    ALREADY = "already"  #: Settled before: it is not pending any more, or was put off by this attempt.
    LOST = "lost"  #: Another attempt owns it.


@attrs.frozen
class Take:
    """A request to lease entries.

    Attributes:
        stream: The stream.
        group: Its consumer group.
        consumer: Who takes them.
        count: The most entries to take; fewer are taken where they are large.
        lease_seconds: How long nobody else gets them.
        max_deliveries: What the caller asks for; None: nothing. An entry delivered as often already is
            dead-lettered instead; 0 for never. It becomes the group's where this take creates the group.
            Else it counts for this take and its lease, if it allows more deliveries than the group's.
        create_at: Last-delivered ID at which to create the group if it does not exist; None: do not.
        resume: Take what the consumer holds already, and nothing else; its older leases end. It counts as
            a delivery.
        idempotency_key: With a key, the same request again returns the same entries for as long as
            the lease lasts, so a lost reply is asked for again instead of being lost.
    """

    stream: str
    group: str
    consumer: str
    count: int
    lease_seconds: float
    max_deliveries: int | None
    create_at: str | None
    resume: bool = False
    idempotency_key: str | None = None


@attrs.frozen
class Taken:
    """What a take returned.

    Attributes:
        entries: The entries with their attempt, oldest debts first.
        now: The time by the group's clock, in milliseconds; `next_due` is by the same.
        at: When the last of the entries had been delivered, in milliseconds since the epoch by the server's
            clock.
        expires: When the lease runs out, likewise.
        replayed: The answer to an earlier take with the same idempotency key.
        group_created: This call created the group.
        dead_lettered: Entries that had been delivered too often and were put aside.
        next_due: If nothing was taken, the earliest time at which a lease runs out or a retry is due, by the
            group's clock.
        still_held: Entries that the consumer holds beyond those that were resumed, counted up to 5,000.
        lease_ms: How long the lease was when it was given, in milliseconds; None if that is not known.
        own_limit: The limit of deliveries that the lease has for itself; None: it has the group's.
        group_limit: The group's limit of deliveries; 0 for never.
    """

    entries: list[tuple[RawEntry, int]]
    now: int
    at: int
    expires: int
    replayed: bool
    group_created: bool
    dead_lettered: int
    next_due: int | None
    still_held: int
    lease_ms: int | None
    own_limit: int | None
    group_limit: int

    def including(self, earlier: Taken | None) -> Taken:
        """Return this as the answer of a call which took before, and got no entries by that.

        What a call did on the way is part of its answer, however many commands it was made of.
        """
        if earlier is None:
            return self
        return attrs.evolve(
            self,
            group_created=self.group_created or earlier.group_created,
            dead_lettered=self.dead_lettered + earlier.dead_lettered,
        )

    def did(self) -> str:
        """Say in a sentence what the take changed apart from its entries; empty if nothing."""
        did = ["created the group"] if self.group_created else []
        if self.dead_lettered:
            did.append(f"dead-lettered {self.dead_lettered} entries")
        return f"Before that, this call {' and '.join(did)}." if did else ""


@attrs.frozen
class Settled:
    """What became of the entries of a settlement.

    Attributes:
        lease: What was settled.
        outcomes: Entry ID -> outcome.
        due: The latest time at which one that was extended or retried may be taken again, in milliseconds
            since the epoch by the server's clock; None if there is none.
        shortened: Entries whose lease runs out earlier than it would have.
        kept_for: Another group for which entries that are done were not deleted.
    """

    lease: Lease
    outcomes: dict[str, Outcome]
    due: int | None
    shortened: int
    kept_for: str | None

    def ids(self, *outcomes: Outcome) -> list[str]:
        """Return the entry IDs with one of `outcomes`."""
        return [entry_id for entry_id, outcome in self.outcomes.items() if outcome in outcomes]


class Leases:
    """Takes and settles leases; holds no state but where it last looked for other programs' entries."""

    def __init__(
        self,
        manager: Manager,
        clocks: GroupClocks,
        *,
        lease_seconds: float,
        foreign_idle_seconds: float,
        max_deliveries: int,
        max_bytes: int,
    ) -> None:
        """Work through `manager`.

        Args:
            manager: Reaches Redis.
            clocks: What is known of the clocks of groups.
            lease_seconds: The length of a lease whose own is not known.
            foreign_idle_seconds: Idle time after which entries of other programs may be taken.
            max_deliveries: The limit of groups for which none was set.
            max_bytes: A take ends once the content of its entries reaches this size.
        """
        self._manager = manager
        self._clocks = clocks
        self._max_bytes = max_bytes
        self._lease_ms = milliseconds(lease_seconds)
        self._max_deliveries = max_deliveries
        self._foreign_idle_ms = milliseconds(foreign_idle_seconds)
        # Only where a search goes on, so losing one costs nothing; bounded by the groups in use.
        self._look_from: dict[tuple[str, str], str] = {}

    async def take(self, take: Take) -> Taken:
        """Lease entries: those whose lease ran out (the consumer's own first), then new ones.

        Raises:
            ServerReplied: Among others NOGROUP, if the group does not exist and is not to be created.
            RedisUnavailable, OutcomeUnknown: see `Manager.execute`. After OutcomeUnknown the entries
                taken, if any, come back by `resume` or when their lease has run out.

        Cancellation: entries that a cancelled call took come back the same way.
        """
        place = (take.stream, take.group)
        lease_ms = milliseconds(take.lease_seconds)
        key = take.idempotency_key
        record = "" if key is None else _digest(take.consumer, key)
        sending = CallRecord.of(self._manager, take.stream)
        reply = await self._manager.run_script(
            _TAKE,
            keys=[
                *_keys(*place),
                companion_key(take.stream, Kind.TAKE, take.group, record),
                sending.key,
                companion_key(take.stream, Kind.GROUP, take.group),
            ],
            args=[
                take.group,
                take.consumer,
                take.count,
                lease_ms,
                self._foreign_idle_ms,
                self._max_deliveries,
                take.create_at or "",
                int(take.resume),
                0 if key is None else lease_ms,
                self._look_from.get(place, "-"),
                self._max_bytes,
                "" if take.max_deliveries is None else take.max_deliveries,
                sending.keep_ms,
                *self._clocks.told(*place),
            ],
            retry_safe=key is not None,
            # Entries may be large, and nothing short is to wait behind them.
            role=Role.BULK,
        )
        now, at, expires, replayed, created, entries, dead_lettered, next_due, look_from, *rest = reply
        still_held, length, own_limit, group_limit, name = rest
        self._clocks.hear(*place, name, now)
        if look_from == b"-":
            self._look_from.pop(place, None)
        else:
            self._look_from[place] = look_from.decode()
        return Taken(
            entries=[(reply_parsing.entry((entry_id, flat)), attempt) for entry_id, attempt, flat in entries],
            now=now,
            at=at,
            expires=expires,
            replayed=bool(replayed),
            group_created=bool(created),
            dead_lettered=dead_lettered,
            next_due=None if next_due == b"" else next_due,
            still_held=still_held,
            lease_ms=int(length) if length != b"" else None,
            own_limit=int(own_limit) if own_limit != b"" else None,
            group_limit=group_limit,
        )

    async def settle(
        self,
        lease: Lease,
        action: Action,
        *,
        entry_ids: Sequence[str] | None = None,
        delay_seconds: float | None = None,
        reason: str = "",
        delete: bool = False,
    ) -> Settled:
        """End or renew a lease for all of its entries, or for some.

        Repeating it is harmless: what is settled is `ALREADY`, what another attempt owns is `LOST`,
        and either is left alone. So a lost reply is asked for again. A RETRY after as many deliveries as
        the group allows, or the lease if that allows more, dead-letters.

        Args:
            lease: What the caller holds.
            action: What to do.
            entry_ids: For which of the lease's entries; None for all.
            delay_seconds: For EXTEND and HOLD the new length of the lease, for RETRY the time to put off.
                None with EXTEND renews by the length that the lease had when it was given, and never to an
                earlier time; the length of the setting counts where the token does not tell its own.
            reason: Kept with a dead letter.
            delete: With DONE, delete the entries from the stream, too, unless another group needs them.

        Raises:
            BusError: INVALID_ARGUMENT if an ID is not part of the lease; else as `take`.
        """
        chosen = chosen_of(lease, entry_ids)
        pairs = [word for entry_id in chosen for word in (entry_id, lease.attempts[entry_id])]
        delay_ms = 0 if delay_seconds is None else milliseconds(delay_seconds)
        if action is Action.EXTEND and delay_seconds is None:
            action, delay_ms = Action.HOLD, lease.length_ms or self._lease_ms
        sending = CallRecord.of(self._manager, lease.stream)
        # Acknowledging is by far the most frequent; there a second key would cost more than it tells.
        remember = delete or action not in (Action.DONE, Action.HOLD)
        place = (lease.stream, lease.group)
        outcomes, due, kept_for, shortened, now, name = await self._manager.run_script(
            _SETTLE,
            keys=[*_keys(*place), sending.key, companion_key(lease.stream, Kind.GROUP, lease.group)],
            args=[
                lease.group,
                lease.consumer,
                action.value,
                delay_ms,
                reason,
                int(delete),
                "" if lease.least_limit is None else lease.least_limit,
                lease.taken_at,
                self._max_deliveries,
                sending.keep_ms if remember else 0,
                *self._clocks.told(*place),
                *pairs,
            ],
            retry_safe=True,
        )
        if now != b"":
            self._clocks.hear(*place, name, now)
        return Settled(
            lease,
            {entry_id: Outcome(outcome.decode()) for entry_id, outcome in zip(chosen, outcomes, strict=True)},
            due=int(due) if due else None,
            shortened=shortened,
            kept_for=reply_parsing.name(kept_for) if kept_for else None,
        )


def chosen_of(lease: Lease, entry_ids: Sequence[str] | None) -> list[str]:
    """Return which of a lease's entries are meant, each once; None means all.

    Raises:
        BusError: INVALID_ARGUMENT if an ID is not part of the lease.
    """
    chosen = list(lease.attempts) if entry_ids is None else list(dict.fromkeys(entry_ids))
    strangers = [entry_id for entry_id in chosen if entry_id not in lease.attempts]
    if strangers:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"entry_ids names {strangers[0][:40]!r}, which this lease does not hold.",
            cause=f"The lease holds {', '.join(list(lease.attempts)[:10])}.",
            next_step="Name entries of this lease, or leave entry_ids out for all of them.",
        )
    return chosen


def _keys(stream: str, group: str) -> list[str]:
    kinds = (Kind.DUE, Kind.DEAD, Kind.TRIES)
    return [stream, *(companion_key(stream, kind, group) for kind in kinds)]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
