"""Taking entries of a consumer group under leases; `leases` settles them.

A take looks for entries whose lease ran out, for those that other programs left pending, and for new ones.
Where the last one did so a moment ago and got all that it asked for, the next one looks only for what is due
and what is new: by a script that defines little, and gives way to the whole one where there is more to do.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from redstreamd.errors import BusError
from redstreamd.policy import Principal
from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.redisio.script import JoinableCall, ScriptCall
from redstreamd.redisio.unexpected_replies import UNREADABLE, unexpected_reply
from redstreamd.settings import LeasesSettings
from redstreamd.streams.call_records import call_record
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.group_clocks import CLOCK_OPERANDS, GroupClocks
from redstreamd.streams.group_counts import GroupCounts, no_more_groups
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.ownership import consumer_operands
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.scripts import load
from redstreamd.streams.take_values import Take, Taken, Together

#: The files that the scripts of leases have in common.
LEASE_FILES: Final = (
    "ids",
    "info",
    "group_count",
    "server_time",
    "clock",
    "due_members",
    "lease_expiry",
    "group_limit",
    "group_record",
    "delivery_names",
    "delivery_history",
    "dead_letter",
)
TAKE_WORK: Final = load(*LEASE_FILES, "consumer_owner", "new_entries", "take_work")
_TAKE_NEW: Final = load("server_time", "clock", "group_limit", "new_entries", "take_new")

_take_new: Final = _TAKE_NEW.bound(
    *("stream", "group", "consumer", "owner", "count", "lease_ms", "max_bytes", "default_max_deliveries"),
    *("takes", "batch", *CLOCK_OPERANDS),
)

#: Groups that are remembered; the oldest is forgotten first.
_MAX_GROUPS = 10_000
#: For how long entries that other programs left pending are not looked for again: seconds at the most, and
#: a part of the time after which they may be taken.
NO_SCAN_SECONDS, _NO_SCAN_PART = 1.0, 0.1


class _Seen:
    """What the last takes from a group saw; to forget it costs only time.

    Attributes:
        scan_from: Where the scan for entries without a lease goes on.
        batch: How many new entries are read at once at first: as many as fit if all are as large as the
            largest of the last take.
        only_new_until: Until then, by `perf_counter`, a take may look for what is due and what is new only;
            0 if every take has to look for everything.
        looking: Reads the reply of the take that looks for everything meanwhile, for as long as one is
            expected; None: nobody looks.
    """

    __slots__ = ("batch", "looking", "only_new_until", "scan_from")

    def __init__(self) -> None:
        self.scan_from = "-"
        self.batch = 1
        self.only_new_until = 0.0
        self.looking: weakref.ref[Callable[[Any], Taken]] | None = None

    def must_look(self, no_scan_seconds: float) -> bool:
        """Return whether a take has to look for everything; the next ones need not where it does in time."""
        until = self.only_new_until
        if not until:
            return True
        now = time.perf_counter()
        if now < until:
            # A take that was taken back, or whose reply was lost, has seen nothing.
            return self.looking is not None and self.looking() is None
        # It looks for those that follow before its reply is here, too.
        self.only_new_until = now + no_scan_seconds
        return True


class Takes:
    """Plans takes. Its only state is what makes the next take cheaper."""

    def __init__(
        self, redis: Redis, clocks: GroupClocks, settings: LeasesSettings, *, max_bytes: int, max_groups: int
    ) -> None:
        """Work through `redis`; the rest is as in `Leases`."""
        self._redis = redis
        self._groups = redis.shared(GroupCounts)
        self._clocks = clocks
        self._seen: dict[tuple[str, str], _Seen] = {}
        self.reconfigure(settings, max_bytes=max_bytes, max_groups=max_groups)

    def reconfigure(self, settings: LeasesSettings, *, max_bytes: int, max_groups: int) -> None:
        """Apply other values from now on."""
        self._foreign_idle_ms = milliseconds(settings.foreign_idle_seconds)
        self._no_scan_seconds = min(NO_SCAN_SECONDS, settings.foreign_idle_seconds * _NO_SCAN_PART)
        self._max_deliveries = settings.max_deliveries
        self._max_bytes = max_bytes
        self._max_groups = max_groups

    def plan(
        self,
        take: Take,
        principal: Principal,
        *,
        on_created: Callable[[str], None] | None = None,
        reword: Callable[[BusError], BusError] | None = None,
    ) -> Plan[Taken]:
        """Plan to lease entries; see `Leases.plan_take`."""
        place = take.stream, take.group
        seen = self._seen.get(place) or self._seen_of(place)
        owner = consumer_operands(principal, take.consumer)
        if (
            seen.must_look(self._no_scan_seconds)
            or take.resume
            or take.idempotency_key is not None
            # Such a consumer has no record; see `ownership`.
            or owner["alias"] == owner["consumer"]
        ):
            return self._plan_whole(take, principal, owner, seen, on_created, reword)
        return self._plan_new(take, principal, owner, seen, on_created, reword)

    def _seen_of(self, place: tuple[str, str]) -> _Seen:
        seen = self._seen.get(place)
        if seen is None:
            if len(self._seen) >= _MAX_GROUPS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[place] = _Seen()
        return seen

    def _plan_new(
        self,
        take: Take,
        principal: Principal,
        owner: dict[str, Any],
        seen: _Seen,
        on_created: Callable[[str], None] | None,
        reword: Callable[[BusError], BusError] | None,
    ) -> Plan[Taken]:
        """Plan a take of new entries, and of all where something else is to be done."""
        terms = (
            take.stream,
            take.group,
            owner["consumer"],
            owner["owner"],
            take.count,
            milliseconds(take.lease_seconds),
            take.max_bytes or self._max_bytes,
            self._max_deliveries,
        )
        call = JoinableCall(
            ("take", take.stream, take.group),
            terms,
            None,
            take.count,
            self._join_new,
            partial(self._split_new, terms),
        )

        def taken(new: _New | None) -> Taken:
            if new is None:
                seen.only_new_until = 0.0
                whole = partial(self._plan_whole, take, principal, owner, seen, on_created, reword)
                raise UnfinishedError(lambda: run_plan(self._redis, whole()))
            reply = new.reply
            if len(new.entries) < take.count:
                seen.only_new_until = 0.0
            group_limit, asked = reply.group_limit, take.max_deliveries
            return Taken(
                new.entries,
                [1] * len(new.entries),
                reply.now,
                reply.taken_at,
                reply.expires,
                lease_ms=terms[5],
                own_limit=None if asked is None else _own_limit(asked, group_limit),
                group_limit=group_limit,
                consumer=terms[2],
                together=new.together,
                place=new.place,
            )

        return Plan(call, take.stream, taken, (), take.group, False, Role.BULK, reword)

    def _join_new(self, terms: tuple[Any, ...], takes: Sequence[None]) -> ScriptCall:
        """Return what takes of new entries by one consumer send."""
        place = terms[0], terms[1]
        return _take_new(*terms, len(takes), self._seen_of(place).batch, *self._clocks.values(*place))

    def _split_new(self, terms: tuple[Any, ...], takes: Sequence[None], raw: Any) -> list[_New | None]:
        """Return what each of the takes got; None for those that have to look at everything."""
        reply = _TAKE_NEW.read(raw)
        if reply is None:
            return [None] * len(takes)
        try:
            entries = reply_parsing.entries(reply.entries)
            ends = list(accumulate(map(int, reply.shares), initial=0))
            together = Together(entries, len(takes))
            news: list[_New | None] = [
                _New(reply, entries[begin:end], together, begin) for begin, end in pairwise(ends)
            ]
            news += [None] * (len(takes) - len(news))
        except UNREADABLE as error:
            raise unexpected_reply(error, outcome_known=False) from error
        self._note((terms[0], terms[1]), reply)
        return news

    def _plan_whole(
        self,
        take: Take,
        principal: Principal,
        owner: dict[str, Any],
        seen: _Seen,
        on_created: Callable[[str], None] | None,
        reword: Callable[[BusError], BusError] | None,
    ) -> Plan[Taken]:
        place = (take.stream, take.group)
        lease_ms = milliseconds(take.lease_seconds)
        key = take.idempotency_key
        records = [_unkeyed(*place)]
        if key is not None:
            digests = [_digest(take.consumer, name, key) for name in principal.names]
            records = [companion_key(take.stream, Kind.TAKE, take.group, digest) for digest in digests]
        operands = {
            "stream": take.stream,
            "take_record": records[0],
            "former_take_record": records[-1],
            "group": take.group,
            **owner,
            "count": take.count,
            "lease_ms": lease_ms,
            "foreign_idle_ms": self._foreign_idle_ms,
            "default_max_deliveries": self._max_deliveries,
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
        read = partial(self._taken, take, seen, on_created)
        seen.looking = weakref.ref(read)
        return Plan(
            TAKE_WORK.call(operands),
            take.stream,
            read,
            group=take.group,
            retry_safe=key is not None,
            # Entries may be large, and no short reply is to wait behind them.
            role=Role.BULK,
            reword=reword,
        )

    def _taken(self, take: Take, seen: _Seen, on_created: Callable[[str], None] | None, raw: Any) -> Taken:
        reply = TAKE_WORK.read(raw)
        if reply.too_many is not None:
            raise no_more_groups(take.stream, reply.too_many)
        if reply.group_created and on_created is not None:
            on_created(take.stream)
        self._note((take.stream, take.group), reply)
        seen.scan_from = reply.scan_from
        self._groups.note(take.stream, reply.groups)
        entries = reply_parsing.entries(reply.entries)
        # Where enough was due, the scan for others was left out.
        has_looked = (
            not (take.resume or reply.replayed) and seen.scan_from == "-" and set(reply.attempts) == {1}
        )
        may_leave_out = has_looked and len(entries) == take.count and self._groups.has_few(take.stream)
        seen.only_new_until = time.perf_counter() + self._no_scan_seconds if may_leave_out else 0.0
        seen.looking = None
        return Taken(
            entries,
            reply.attempts,
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

    def _note(self, place: tuple[str, str], reply: Any) -> None:
        """Take note of a group's clock, and of the size of its entries."""
        self._clocks.record(*place, reply.clock_name, reply.now)
        if reply.largest:
            self._seen_of(place).batch = self._max_bytes // reply.largest or 1


class _New(NamedTuple):
    """What one of several takes got.

    Attributes:
        reply: The script's, which all of them share.
        entries: Its own.
        together: Those of all.
        place: Where its own begin there.
    """

    reply: Any
    entries: list[RawEntry]
    together: Together
    place: int


@lru_cache(maxsize=1_024)
def _unkeyed(stream: str, group: str) -> str:
    """Return the key of a record that no take writes, for a take without an idempotency key."""
    return companion_key(stream, Kind.TAKE, group, "")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _own_limit(asked: int, of_group: int) -> int | None:
    """Return the limit of deliveries of a lease, if it allows more than that of its group; 0 is for never."""
    return asked if of_group and (asked == 0 or asked > of_group) else None
