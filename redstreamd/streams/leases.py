"""Leases on the entries of a consumer group: taking, settling, fencing.

Owns their scripts and the due set; `work` waits for entries. The pending entries list decides who holds an
entry: its delivery counter is the attempt, and the attempt is the fencing token. So other programs may work
on the same group, and a due set that is stale or lost costs a delay, never an entry.

XREADGROUP CLAIM and XNACK (Redis 8.4 and later) are not used: there the claimer's idle time overrides the
holder's lease.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio import Arg
from redstreamd.redisio.client import Redis
from redstreamd.redisio.script import JoinableCall, ScriptCall
from redstreamd.redisio.unexpected_replies import UNREADABLE, unexpected_reply
from redstreamd.settings import LeasesSettings
from redstreamd.streams.call_records import call_record
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.failure_reasons import seal_reason
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_counts import GroupCounts, one_of_too_many
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.plans import Plan
from redstreamd.streams.scripts import load
from redstreamd.streams.take_values import Take, Taken
from redstreamd.streams.takes import LEASE_FILES, Takes

_SETTLE = load(*LEASE_FILES, "taken_out", "settle")
_FINISH = load("server_time", "due_members", "taken_out", "delivery_names", "finish")
_finish = _FINISH.bound("stream", "group", "consumer", "*leases")


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
    GONE = "gone"  #: It is not pending any more, and whether somebody finished it is not known.


_OUTCOMES = {outcome.value.encode(): outcome for outcome in Outcome}


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

    @property
    def lost(self) -> list[str]:
        """The entry IDs that the lease does not hold any more, although it did not settle them."""
        return self.ids(Outcome.LOST, Outcome.GONE)

    def ids(self, *outcomes: Outcome) -> list[str]:
        """Return the entry IDs with one of `outcomes`."""
        return [entry_id for entry_id, outcome in self.outcomes.items() if outcome in outcomes]


class Leases:
    """Takes and settles leases."""

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
        self._takes = Takes(redis, clocks, settings, max_bytes=max_bytes, max_groups=max_groups)
        self.reconfigure(settings, max_bytes=max_bytes, max_groups=max_groups)

    def reconfigure(self, settings: LeasesSettings, *, max_bytes: int, max_groups: int) -> None:
        """Apply other values from now on; leases that were given are not affected."""
        self._settings = settings
        self._max_groups = max_groups
        self._takes.reconfigure(settings, max_bytes=max_bytes, max_groups=max_groups)

    def plan_take(
        self,
        take: Take,
        principal: Principal,
        *,
        on_created: Callable[[str], None] | None = None,
        reword: Callable[[BusError], BusError] | None = None,
    ) -> Plan[Taken]:
        """Plan to lease entries: those whose lease ran out (the consumer's own first), then new ones.

        The consumer and the idempotency key are the principal's own; see `ownership`.

        Calls `on_created` with the stream's name if the take created the group; `reword` is as in `Plan`.

        Running it raises GROUP_NOT_FOUND or STREAM_NOT_FOUND, if the group is not to be created, and what
        `run_plan` says. After OUTCOME_UNKNOWN or a cancellation `resume` returns the entries that were taken,
        if any; other consumers get them when the lease has run out.
        """
        return self._takes.plan(take, principal, on_created=on_created, reword=reword)

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

        Idempotent: what is settled is `ALREADY`, what another attempt owns is `LOST`, what left the group and
        may be unfinished is `GONE` (for as long as the lease would have run), and none of it is changed.
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
        call = JoinableCall(
            ("finish", lease.stream, lease.group),
            (lease.stream, lease.group, lease.consumer),
            [lease.taken_at, len(selected), *attempts],
            len(selected),
            _join_finished,
            _split_finished,
        )
        return Plan(call, lease.stream, partial(_finished, lease, selected), (), lease.group, True)


def _finished(lease: Lease, selected: Sequence[str], outcomes: Sequence[Outcome]) -> Settled:
    return Settled(lease, dict(zip(selected, outcomes, strict=True)), None, 0, None)


def _join_finished(terms: tuple[str, str, str], leases: Sequence[Sequence[Arg]]) -> ScriptCall:
    return _finish(*terms, [word for lease in leases for word in lease])


def _split_finished(leases: Sequence[Sequence[Any]], raw: Any) -> list[list[Outcome]]:
    """Return the outcomes of each of the leases that were finished together."""
    try:
        outcomes = [_OUTCOMES[each] for each in _FINISH.read(raw, outcome_known=True).outcomes]
    except UNREADABLE as error:
        raise unexpected_reply(error) from error
    if len(leases) == 1:
        return [outcomes]
    ends = [0, *accumulate(lease[1] for lease in leases)]
    return [outcomes[begin:end] for begin, end in pairwise(ends)]


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
