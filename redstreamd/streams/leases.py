"""Leases on the entries of a consumer group: taking, settling, fencing.

Owns their scripts and the due set; `work` waits for entries. The pending entries list decides who holds an
entry: its delivery counter is the attempt, and the attempt is the fencing token. So other programs may work
on the same group, and a due set that is stale or lost costs a delay, never an entry.

XREADGROUP CLAIM and XNACK (Redis 8.4 and later) are not used: there the claimer's idle time overrides the
holder's lease.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import attrs
import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio import Arg, Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.settings import LeasesSettings
from redstreamd.streams.call_records import call_record
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.failure_reasons import seal_reason
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_counts import GroupCounts, no_more_groups, one_of_too_many
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.ownership import consumer_operands
from redstreamd.streams.plans import Plan
from redstreamd.streams.scripts import load

_SHARED = (
    "ids",
    "info",
    "group_count",
    "server_time",
    "clock",
    "due_members",
    "lease_expiry",
    "group_record",
    "delivery_names",
    "delivery_history",
    "dead_letter",
)
_TAKE = load(*_SHARED, "consumer_owner", "take_work")
_SETTLE = load(*_SHARED, "settle")
_FINISH = load("server_time", "due_members", "delivery_names", "finish")


class Action(enum.StrEnum):
    """What a settlement does to an entry."""

    DONE = "done"
    EXTEND = "extend"
    HOLD = "hold"  #: Extend leases that would end earlier.
    RETRY = "retry"
    DEAD_LETTER = "dead"


class Outcome(enum.StrEnum):
    """What a settlement did to an entry."""

    DONE = "done"
    EXTENDED = "extended"
    RETRIED = "retried"
    DEAD_LETTERED = "dead"
    ALREADY = "already"  #: Settled before: it is not pending any more, or this attempt delayed it.
    LOST = "lost"  #: Another attempt owns it.


_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}

#: Groups that are remembered; the oldest is forgotten first.
_MAX_GROUPS = 10_000


class _Seen:
    """What the last takes from a group saw; to forget it costs only time.

    Attributes:
        scan_from: Where the scan for entries without a lease goes on.
        batch: How many new entries are read at once at first: as many as fit if all are as large as the
            largest of the last take.
    """

    __slots__ = ("batch", "scan_from")

    def __init__(self) -> None:
        self.scan_from = "-"
        self.batch = 1


@attrs.frozen
class Take:
    """A request to lease entries.

    Attributes:
        stream: The stream.
        group: Its consumer group.
        consumer: Who takes them; a name that the principal chose.
        count: The most entries to take; fewer are taken if they are large.
        lease_seconds: How long nobody else gets them.
        max_deliveries: A limit of deliveries, 0 for never; an entry that reached it is dead-lettered instead.
            It becomes the group's if this take creates the group. Otherwise it applies to this take and its
            lease, if it allows more deliveries than the group's. None: the group's.
        create_at: Last-delivered ID at which to create the group if it does not exist; None: do not.
        resume: Take only what the consumer holds already; its older leases end. It counts as a delivery.
        idempotency_key: With a key, the same request again returns the same entries while the lease lasts, so
            it can be repeated after a lost reply.
        max_bytes: The take ends once the content of its entries reaches this size; None: the usual one.
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
    max_bytes: int | None = None


class Taken(msgspec.Struct, frozen=True):
    """Result of a take.

    Attributes:
        entries: The entries with their attempt; those that were delivered before come first.
        now: The time by the group's clock in milliseconds; `next_due` is by the same clock.
        taken_at: When the last of the entries was delivered, in milliseconds since the epoch by the server's
            clock.
        expires: When the lease runs out, by the same clock.
        replayed: The result of an earlier take with the same idempotency key.
        group_created: This call created the group.
        dead_lettered: Entries that were dead-lettered because they were delivered too often.
        next_due: If nothing was taken, when the next lease runs out or retry is due.
        still_held: Entries that the consumer holds beyond those that were resumed, counted up to 5,000.
        lease_ms: The original length of the lease in milliseconds; None if not known.
        own_limit: The lease's own limit of deliveries; None: it has the group's.
        group_limit: The group's limit of deliveries; 0 for never.
        consumer: Who took them, as Redis calls it: another principal may have a consumer of the name.
    """

    entries: list[tuple[RawEntry, int]]
    now: int
    taken_at: int
    expires: int
    replayed: bool
    group_created: bool
    dead_lettered: int
    next_due: int | None
    still_held: int
    lease_ms: int | None
    own_limit: int | None
    group_limit: int
    consumer: str

    def added_to(self, earlier: Taken | None) -> Taken:
        """Return the result of a call that made both takes, of which the earlier got no entries."""
        if earlier is None:
            return self
        return msgspec.structs.replace(
            self,
            group_created=self.group_created or earlier.group_created,
            dead_lettered=self.dead_lettered + earlier.dead_lettered,
        )

    def side_effects(self) -> str:
        """Return a sentence about what the take changed besides its entries; empty if nothing."""
        effects = ["created the group"] if self.group_created else []
        if self.dead_lettered:
            effects.append(f"dead-lettered {self.dead_lettered} entries")
        return f"Before that, this call {' and '.join(effects)}." if effects else ""


class Settled(msgspec.Struct, frozen=True):
    """Result of a settlement.

    Attributes:
        lease: What was settled.
        outcomes: Entry ID -> outcome.
        due: The latest time at which an extended or retried entry may be taken again, in milliseconds since
            the epoch by the server's clock; None if there is none.
        shortened: Entries whose lease ends earlier than before.
        kept_for: Another group for which finished entries were not deleted.
    """

    lease: Lease
    outcomes: dict[str, Outcome]
    due: int | None
    shortened: int
    kept_for: str | None

    def all_are(self, outcome: Outcome) -> bool:
        """Return whether every entry has this outcome."""
        return list(self.outcomes.values()).count(outcome) == len(self.outcomes)

    def ids(self, *outcomes: Outcome) -> list[str]:
        """Return the entry IDs with one of `outcomes`."""
        return [entry_id for entry_id, outcome in self.outcomes.items() if outcome in outcomes]


class Leases:
    """Takes and settles leases. Its only state is what makes the next take cheaper."""

    def __init__(
        self,
        redis: Redis,
        clocks: GroupClocks,
        settings: LeasesSettings,
        encryption: Encryption,
        *,
        max_bytes: int,
        max_groups: int,
    ) -> None:
        """Work through `redis`.

        Args:
            redis: Where the groups are.
            clocks: Know the groups' clocks.
            settings: Defaults and limits.
            encryption: Seals reasons.
            max_bytes: A take that does not say otherwise ends once its content reaches this size.
            max_groups: How many groups a stream may have.
        """
        self._redis = redis
        self._groups = redis.shared(GroupCounts)
        self._clocks = clocks
        self._encryption = encryption
        self._seen: dict[tuple[str, str], _Seen] = {}
        self.reconfigure(settings, max_bytes=max_bytes, max_groups=max_groups)

    def reconfigure(self, settings: LeasesSettings, *, max_bytes: int, max_groups: int) -> None:
        """Apply other values from now on; leases that were given are not affected."""
        self._settings = settings
        self._max_bytes = max_bytes
        self._max_groups = max_groups

    def plan_take(
        self, take: Take, principal: Principal, *, on_created: Callable[[str], None] | None = None
    ) -> Plan[Taken]:
        """Plan to lease entries: those whose lease ran out (the consumer's own first), then new ones.

        The consumer and the idempotency key are the principal's own; see `ownership`.

        Calls `on_created` with the stream's name if the take created the group.

        Running it raises GROUP_NOT_FOUND or STREAM_NOT_FOUND, if the group is not to be created, and what
        `run_plan` says. After OUTCOME_UNKNOWN or a cancellation `resume` returns the entries that were taken,
        if any; other consumers get them when the lease has run out.
        """
        place = (take.stream, take.group)
        lease_ms = milliseconds(take.lease_seconds)
        key = take.idempotency_key
        records = [_unkeyed(*place)]
        if key is not None:
            digests = [_digest(take.consumer, name, key) for name in principal.names]
            records = [companion_key(take.stream, Kind.TAKE, take.group, digest) for digest in digests]
        seen = self._seen.get(place)
        if seen is None:
            if len(self._seen) >= _MAX_GROUPS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[place] = _Seen()
        operands = {
            "stream": take.stream,
            "take_record": records[0],
            "former_take_record": records[-1],
            "group": take.group,
            **consumer_operands(principal, take.consumer),
            "count": take.count,
            "lease_ms": lease_ms,
            "foreign_idle_ms": milliseconds(self._settings.foreign_idle_seconds),
            "default_max_deliveries": self._settings.max_deliveries,
            "create_at": take.create_at or "",
            "resume": int(take.resume),
            "take_record_ms": 0 if key is None else lease_ms,
            "scan_from": seen.scan_from,
            "max_bytes": take.max_bytes or self._max_bytes,
            "asked_max_deliveries": "" if take.max_deliveries is None else take.max_deliveries,
            "many_groups": int(self._groups.has_many(take.stream)),
            **self._groups.operands(take.stream, self._max_groups),
            "batch": seen.batch,
            **call_record(self._redis, take.stream, keep=key is not None),
            **self._clocks.operands(*place),
        }
        return Plan(
            _TAKE.call(operands),
            take.stream,
            partial(self._taken, place, seen, on_created),
            group=take.group,
            retry_safe=key is not None,
            # Entries may be large, and no short reply is to wait behind them.
            role=Role.BULK,
        )

    def _taken(
        self, place: tuple[str, str], seen: _Seen, on_created: Callable[[str], None] | None, raw: Any
    ) -> Taken:
        reply = _TAKE.read(raw)
        if reply.too_many is not None:
            raise no_more_groups(place[0], reply.too_many)
        if reply.group_created and on_created is not None:
            on_created(place[0])
        self._clocks.record(*place, reply.clock_name, reply.now)
        seen.scan_from = reply.scan_from
        if reply.largest:
            seen.batch = self._max_bytes // reply.largest or 1
        self._groups.note(place[0], reply.groups)
        return Taken(
            reply_parsing.deliveries(reply.entries),
            reply.now,
            reply.taken_at,
            reply.expires,
            reply.replayed,
            reply.group_created,
            reply.dead_lettered,
            reply.next_due,
            reply.still_held,
            reply.lease_ms,
            reply.own_limit,
            reply.group_limit,
            reply.consumer,
        )

    def plan_settle(
        self,
        lease: Lease,
        action: Action,
        *,
        entry_ids: Sequence[str] | None = None,
        delay_seconds: float | None = None,
        reason: str = "",
        delete: bool = False,
    ) -> Plan[Settled]:
        """Plan to end or renew a lease for all of its entries, or for some.

        Idempotent: what is settled is `ALREADY`, what another attempt owns is `LOST`, and neither is changed.
        A RETRY is dead-lettered after as many deliveries as the group allows, or the lease if that allows
        more.

        Args:
            lease: What the caller holds.
            action: What to do.
            entry_ids: For which of the lease's entries; None for all.
            delay_seconds: For EXTEND and HOLD the new length of the lease, for RETRY the delay. None with
                EXTEND renews by the lease's original length, or the setting's if the token does not tell it,
                and never to an earlier time.
            reason: Kept in a dead letter, and its first 200 bytes in the history.
            delete: With DONE, delete the entries from the stream, too, unless another group needs them.

        Raises:
            BusError: INVALID_ARGUMENT if an ID is not part of the lease.
        """
        selected = select_entries(lease, entry_ids)
        attempts = lease.attempts
        pairs = [word for entry_id in selected for word in (entry_id, attempts[entry_id])]
        if action is Action.DONE and not delete:
            return self._plan_finish(lease, selected, pairs)
        delay_ms = 0 if delay_seconds is None else milliseconds(delay_seconds)
        if action is Action.EXTEND and delay_seconds is None:
            action = Action.HOLD
            delay_ms = lease.length_ms or milliseconds(self._settings.lease_seconds)
        place = (lease.stream, lease.group)
        kept, brief = seal_reason(self._encryption, lease, reason)
        operands = {
            "stream": lease.stream,
            "group": lease.group,
            "consumer": lease.consumer,
            "action": action.value,
            "delay_ms": delay_ms,
            "reason": kept,
            "brief_reason": brief,
            "own_limit": "" if (limit := lease.least_limit) is None else limit,
            "taken_at": lease.taken_at,
            "default_max_deliveries": self._settings.max_deliveries,
            "attempts": pairs,
            **self._groups.operands(lease.stream, self._max_groups),
            **call_record(self._redis, lease.stream, keep=action is not Action.HOLD),
            **self._clocks.operands(*place),
        }

        def read(raw: Any) -> Settled:
            reply = _SETTLE.read(raw)
            if reply.now is not None:
                self._clocks.record(*place, reply.clock_name, reply.now)
            by_entry = dict(zip(selected, map(_OUTCOMES.__getitem__, reply.outcomes), strict=True))
            kept_for = reply.kept_for or one_of_too_many(reply.too_many)
            return Settled(lease, by_entry, reply.due, reply.shortened, kept_for)

        return Plan(_SETTLE.call(operands), lease.stream, read, group=lease.group, retry_safe=True)

    def _plan_finish(self, lease: Lease, selected: Sequence[str], attempts: Sequence[Arg]) -> Plan[Settled]:
        """Plan to acknowledge entries.

        No record tells a repetition from the first: acknowledgements are by far the most frequent, and a key
        for each would cost more than the difference between DONE and ALREADY is worth.
        """
        operands = {
            "stream": lease.stream,
            "group": lease.group,
            "consumer": lease.consumer,
            "taken_at": lease.taken_at,
            "attempts": attempts,
        }

        def read(raw: Any) -> Settled:
            outcomes = map(_OUTCOMES.__getitem__, _FINISH.read(raw).outcomes)
            return Settled(lease, dict(zip(selected, outcomes, strict=True)), None, 0, None)

        return Plan(_FINISH.call(operands), lease.stream, read, group=lease.group, retry_safe=True)


def select_entries(lease: Lease, entry_ids: Sequence[str] | None) -> list[str]:
    """Return the named entries of a lease, each once; all for None.

    Raises:
        BusError: INVALID_ARGUMENT if an ID is not part of the lease.
    """
    if entry_ids is None:
        return list(lease.attempts)
    selected = list(dict.fromkeys(entry_ids))
    unknown = [entry_id for entry_id in selected if entry_id not in lease.attempts]
    if unknown:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"entry_ids names {unknown[0][:40]!r}, which this lease does not hold.",
            cause=f"The lease holds {', '.join(list(lease.attempts)[:10])}.",
            next_step="Name entries of this lease, or leave entry_ids out for all of them.",
        )
    return selected


@lru_cache(maxsize=1_024)
def _unkeyed(stream: str, group: str) -> str:
    """Return the key of a record that no take writes, for a take without an idempotency key."""
    return companion_key(stream, Kind.TAKE, group, "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
