"""Leases against a model: two daemons and other programs on one group, in any order Hypothesis can think of.

Time passes by moving the due times and idle times that lie in Redis, so nothing here sleeps. Every
take is checked to return only what the model says may be taken, so no entry is ever under two live
leases; at the end everything is drained, so nothing is ever lost.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work
from tests.encryption.opened import members_in, opened_text, sealed_with
from tests.encryption.rings import InForce, KeyDirectory
from tests.support.buses import KEY, BusThread
from tests.support.calls import ME
from tests.support.counts import counts
from tests.support.server_clock import SetClock, running_with_set_clock
from tests.support.servers import Server, redis_binary
from tests.support.topologies import Deployed

STREAM, GROUP = "jobs", "g"
DUE, DEAD = companion_key(STREAM, Kind.DUE, GROUP), companion_key(STREAM, Kind.DEAD, GROUP)
MAX_DELIVERIES = 3
#: Two steps of the clock may make what other programs hold that much older or younger, and no more.
FOREIGN_IDLE = 10_250.0
LEASES_SETTINGS = Settings(
    leases=LeasesSettings(foreign_idle_seconds=FOREIGN_IDLE, max_deliveries=MAX_DELIVERIES)
)
CONSUMERS = st.sampled_from(["a", "b"])
#: Seconds. Far longer than a run takes, so that the real clock decides nothing; one is longer than
#: other programs' entries stay untouched.
LEASES = st.sampled_from([1_000.0, 2_000.0, 50_000.0])
#: What is asked for or set; 0 for never.
LIMITS = st.sampled_from([1, 2, MAX_DELIVERIES, 5, 0])


@attrs.define
class Pending:
    """What the model knows of a pending entry; times are virtual seconds."""

    owner: str
    attempt: int
    due: float | None  # None: another program's, without a lease
    put_off: bool = False
    delivered: float = 0.0


class LeaseMachine(RuleBasedStateMachine):
    """One stream, one group, two daemons, three consumers, and redis-cli."""

    server: Deployed
    threads: BusThread
    clock: SetClock | None = None  #: If it can be set.
    ring: KeyDirectory | None = None  #: If the entries are encrypted.

    takes = Bundle("takes")

    def __init__(self) -> None:
        super().__init__()
        if self.clock is not None:
            self.clock.set(0)
        self.server.flush()
        self.now = 0.0
        self.added: list[str] = []
        self.new: list[str] = []
        self.pending: dict[str, Pending] = {}
        self.done: set[str] = set()
        self.dead: set[str] = set()
        self.deleted: set[str] = set()
        self.buried_now: set[str] = set()
        self.keys = 0
        self.limit = MAX_DELIVERIES

    @initialize()
    def create(self) -> None:
        assert self.threads.call(self.threads.buses[0].work.create_group, STREAM, GROUP, "0").created
        assert not self.threads.call(self.threads.buses[1].work.create_group, STREAM, GROUP, "$").created

    # What an agent does

    @rule(count=st.integers(1, 4), daemon=st.integers(0, 1))
    def add(self, count: int, daemon: int) -> None:
        entries = [{"n": len(self.added) + n} for n in range(count)]
        added = self.threads.call(self.threads.buses[daemon].publisher.add, STREAM, entries, Stamp())
        self.added += added.ids
        self.new += added.ids

    @rule(
        target=takes,
        daemon=st.integers(0, 1),
        consumer=CONSUMERS,
        count=st.integers(1, 5),
        lease=LEASES,
        asked=st.none() | LIMITS,
    )
    def take(self, daemon: int, consumer: str, count: int, lease: float, asked: int | None) -> Work:
        takeable, new = self.takeable(), set(self.new)
        limit = self._limit_for(asked)
        exhausted = {i for i in takeable if i in self.pending and 0 < limit <= self.pending[i].attempt}
        work = self._take(daemon, consumer, count, lease, asked=asked)
        assert work.taken.group_limit == self.limit
        assert work.taken.own_limit == (None if limit == self.limit else limit)
        ids = [entry.id for entry in work.taken.entries]
        assert len(ids) == len(set(ids)) <= count
        # Disjoint: nothing that is under a live lease, done, dead or deleted.
        assert set(ids) <= takeable - exhausted
        # Complete: it stops short only when nothing is left.
        buried = self._note_dead_letters()
        assert buried <= exhausted
        gone = self._gone(set(self.pending))
        left = set[str]() if len(ids) == count else takeable - set(ids) - buried - gone
        # What has no due time a take that got new entries may leave to the next one.
        assert all(i in self.pending and self.pending[i].due is None for i in left)
        # Debts come before new entries, one's own debts before those of others.
        ranks = [self._rank(entry_id, consumer) for entry_id in ids]
        assert ranks == sorted(ranks)
        self._note_taken(work, consumer, lease)
        if left:
            assert set(ids) & new
            rest = self._take(daemon, consumer, 5, lease, asked=asked)
            buried |= self._note_dead_letters()
            found = {entry.id for entry in rest.taken.entries}
            assert len(found) == 5 or left <= found | buried | self._gone(set(self.pending))
            self._note_taken(rest, consumer, lease)
        return work

    @rule(target=takes, daemon=st.integers(0, 1), consumer=CONSUMERS, lease=LEASES)
    def resume(self, daemon: int, consumer: str, lease: float) -> Work:
        held = {i for i, p in self.pending.items() if p.owner == consumer and not p.put_off} - self.deleted
        work = self._take(daemon, consumer, 100, lease, resume=True)
        assert {entry.id for entry in work.taken.entries} == held
        self._gone({i for i, p in self.pending.items() if p.owner == consumer and not p.put_off})
        self._note_taken(work, consumer, lease)
        return work

    @rule(daemon=st.integers(0, 1), consumer=CONSUMERS, count=st.integers(1, 5), lease=LEASES)
    def take_twice_with_a_key(self, daemon: int, consumer: str, count: int, lease: float) -> None:
        """The second call asks for another lease, and gets the one that there is."""
        self.keys += 1
        key = f"key-{self.keys}"
        first = self._take(daemon, consumer, count, lease, key=key)
        again = self._take(1 - daemon, consumer, count, 7.0, key=key, asked=0)
        if first.taken.entries:
            assert again.taken.replayed
            # The words of the one may be bytes.
            both = [
                [
                    (each.id, each.fields, attempt)
                    for each, attempt in zip(work.taken.entries, work.taken.attempts, strict=True)
                ]
                for work in (again, first)
            ]
            assert both[0] == both[1]
            assert again.lease == first.lease
        self._note_dead_letters()
        self._gone(set(self.pending))
        self._note_taken(first, consumer, lease)

    @rule(take=takes, daemon=st.integers(0, 1), action=st.sampled_from(Action), data=st.data())
    def settle(self, take: Work, daemon: int, action: Action, data: st.DataObject) -> None:
        if take.lease is None:
            return
        lease = KEY.read(take.lease)
        chosen = data.draw(
            st.none() | st.lists(st.sampled_from(sorted(lease.attempts)), min_size=1, unique=True)
        )
        # A renewal that names no length is by the lease's own.
        delay = data.draw(LEASES | st.none() if action is Action.EXTEND else LEASES)
        settled = self.threads.call(
            partial(
                self.threads.buses[daemon].work.settle,
                lease,
                action,
                entry_ids=chosen,
                delay_seconds=delay,
                reason="because",
            )
        )
        assert list(settled.outcomes) == (chosen or list(lease.attempts))
        self.buried_now.clear()
        shortened = 0
        for entry_id, outcome in settled.outcomes.items():
            held = self.pending.get(entry_id)
            if held is None:
                assert outcome is Outcome.ALREADY
            elif (held.owner, held.attempt) != (lease.consumer, lease.attempts[entry_id]):
                assert outcome is Outcome.LOST
            elif held.put_off:
                # It was given back by this very attempt.
                assert outcome is (Outcome.RETRIED if action is Action.RETRY else Outcome.ALREADY)
            else:
                due_before = held.due
                self._note_settled(entry_id, held, lease, action, outcome, delay)
                if action is Action.EXTEND and due_before is not None and held.due is not None:
                    shortened += held.due < due_before
        assert settled.shortened == shortened
        assert not shortened or delay is not None
        assert self._note_dead_letters() == self.buried_now - self.deleted
        for entry_id in self.buried_now:
            self.pending.pop(entry_id, None)

    @rule(daemon=st.integers(0, 1), limit=LIMITS)
    def the_limit_is_set(self, daemon: int, limit: int) -> None:
        self.threads.call(self.threads.buses[daemon].groups.set_max_deliveries, STREAM, GROUP, limit)
        self.limit = limit

    # What the world does

    @rule(seconds=st.sampled_from([500.0, 1_500.0, 20_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        due = self.server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")
        for member, score in zip(due[::2], due[1::2], strict=True):
            self.server.command("ZADD", DUE, repr(float(score) - seconds * 1000), member)
        for entry_id, consumer, idle, _ in self.server.command("XPENDING", STREAM, GROUP, "-", "+", 1000):
            idle_ms = int(idle + seconds * 1000)
            if entry_id.decode() in self.deleted:
                continue  # claiming would drop it from the list, and there is no other way
            self.server.command("XCLAIM", STREAM, GROUP, consumer, 0, entry_id, "IDLE", idle_ms, "JUSTID")

    @precondition(lambda self: self.clock is not None)
    @rule(seconds=st.sampled_from([-100.0, 0.0, 100.0]))
    def the_clock_is_set(self, seconds: float) -> None:
        """Nothing becomes due by it, and nothing later: the model does not notice."""
        assert self.clock is not None
        self.clock.set(seconds)

    @rule(count=st.integers(1, 3))
    def another_program_reads(self, count: int) -> None:
        reply = self.server.command(
            "XREADGROUP", "GROUP", GROUP, "cli", "COUNT", count, "STREAMS", STREAM, ">"
        )
        for entry_id, _ in reply[0][1] if reply else []:
            self.new.remove(entry_id.decode())
            self.pending[entry_id.decode()] = Pending("cli", 1, None, delivered=self.now)

    @rule(data=st.data())
    def another_program_claims(self, data: st.DataObject) -> None:
        alive = sorted(set(self.pending) - self.deleted)
        if alive:
            entry_id = data.draw(st.sampled_from(alive))
            self.server.command("XCLAIM", STREAM, GROUP, "cli", 0, entry_id)
            self.pending[entry_id] = Pending(
                "cli", self.pending[entry_id].attempt + 1, None, delivered=self.now
            )

    @rule(data=st.data())
    def another_program_acknowledges(self, data: st.DataObject) -> None:
        if self.pending:
            entry_id = data.draw(st.sampled_from(sorted(self.pending)))
            assert self.server.command("XACK", STREAM, GROUP, entry_id) == 1
            del self.pending[entry_id]
            self.done.add(entry_id)

    @rule(data=st.data())
    def an_entry_is_deleted(self, data: st.DataObject) -> None:
        alive = sorted(set(self.added) - self.deleted)
        if alive:
            entry_id = data.draw(st.sampled_from(alive))
            assert self.server.command("XDEL", STREAM, entry_id) == 1
            self.deleted.add(entry_id)
            if entry_id in self.new:
                self.new.remove(entry_id)

    @rule()
    def the_due_set_is_lost(self) -> None:
        self.server.command("DEL", DUE)
        for held in self.pending.values():
            held.due, held.put_off = None, False

    @invariant()
    def the_pending_list_is_what_the_model_says(self) -> None:
        pending = self.server.command("XPENDING", STREAM, GROUP, "-", "+", 10_000)
        if not isinstance(pending, list):  # before the group exists
            return
        actual = {entry_id.decode(): (owner.decode(), n) for entry_id, owner, _, n in pending}
        assert actual == {entry_id: (p.owner, p.attempt) for entry_id, p in self.pending.items()}

    def teardown(self) -> None:
        """Everything that was added is done, dead or deleted, once all leases have run out."""
        try:
            self.time_passes(100_000.0)
            for _ in range(1_000):
                work = self._take(0, "a", 100, 1_000.0)
                self._note_dead_letters()
                if not work.taken.entries:
                    break
                assert work.lease is not None
                settle = partial(self.threads.buses[1].work.settle, KEY.read(work.lease), Action.DONE)
                self.done.update(self.threads.call(settle).ids(Outcome.DONE))
            assert set(self.added) == self.done | self.dead | self.deleted
            pending = self.server.command("XPENDING", STREAM, GROUP, "-", "+", 10_000)
            assert {row[0].decode() for row in pending} <= self.deleted
            # Done and dead exclude each other: nothing was both finished and put aside.
            assert not self.done & self.dead
        finally:
            super().teardown()

    # The model

    def takeable(self) -> set[str]:
        """Everything that nobody holds any more."""
        return set(self.new) | {i for i, p in self.pending.items() if self._is_due(i, p)}

    def _is_due(self, entry_id: str, held: Pending) -> bool:
        if held.due is not None:
            return held.due <= self.now
        if entry_id in self.deleted:
            return False  # see time_passes
        return self.now - held.delivered >= FOREIGN_IDLE

    def _rank(self, entry_id: str, consumer: str) -> int:
        held = self.pending.get(entry_id)
        if held is None:
            return 3
        if held.due is None:
            return 2
        return 0 if held.owner == consumer else 1

    def _take(
        self,
        daemon: int,
        consumer: str,
        count: int,
        lease: float,
        *,
        resume: bool = False,
        key: str | None = None,
        asked: int | None = None,
    ) -> Work:
        take = Take(STREAM, GROUP, consumer, count, lease, asked, None, resume, key)
        return self.threads.call(self.threads.buses[daemon].work.take, take, ME)

    def _limit_for(self, asked: int | None) -> int:
        """Return the group's limit, or what somebody asks for if that allows more deliveries."""
        if asked is None or self.limit == 0:
            return self.limit
        return asked if asked == 0 or asked > self.limit else self.limit

    def _note_taken(self, work: Work, consumer: str, lease: float) -> None:
        assert work.lease is None or KEY.read(work.lease).length_ms == lease * 1_000
        for entry, attempt in zip(work.taken.entries, work.taken.attempts, strict=True):
            before = self.pending.get(entry.id)
            assert attempt == (1 if before is None else before.attempt + 1)
            assert decode(entry.fields).members == {"n": self.added.index(entry.id)}
            if before is None:
                self.new.remove(entry.id)
            self.pending[entry.id] = Pending(consumer, attempt, self.now + lease, delivered=self.now)

    def _note_settled(
        self,
        entry_id: str,
        held: Pending,
        lease: Lease,
        action: Action,
        outcome: Outcome,
        delay: float | None,
    ) -> None:
        limit = self._limit_for(lease.own_limit)
        never_earlier = action is Action.HOLD or delay is None
        if delay is None:
            assert lease.length_ms is not None
            delay = lease.length_ms / 1_000
        if action is Action.DONE:
            assert outcome is Outcome.DONE
            del self.pending[entry_id]
            self.done.add(entry_id)
        elif action is Action.EXTEND or action is Action.HOLD:
            assert outcome is Outcome.EXTENDED
            kept = held.due if never_earlier and held.due is not None else 0.0
            held.due = max(kept, self.now + delay)
        elif action is Action.RETRY and (limit == 0 or held.attempt < limit):
            assert outcome is Outcome.RETRIED
            held.due, held.put_off = self.now + delay, True
        else:
            # Of what was deleted there is nothing to keep.
            assert outcome is (Outcome.ALREADY if entry_id in self.deleted else Outcome.DEAD_LETTERED)
            self.buried_now.add(entry_id)

    def _note_dead_letters(self) -> set[str]:
        """Take over what came to the dead-letter stream, and check what it says."""
        fresh = set()
        for _, flat in self.server.command("XRANGE", DEAD, "-", "+"):
            assert (sealed_with(flat) is None) is (self.ring is None)
            letter = decode(list(zip(flat[::2], flat[1::2], strict=True)))
            assert letter.dead_letter is not None
            entry_id = letter.dead_letter["id"]
            assert members_in(STREAM, flat, self.ring) == {"n": self.added.index(entry_id)}
            if entry_id not in self.dead:
                held = self.pending.pop(entry_id)
                assert letter.dead_letter["attempts"] == held.attempt
                assert letter.dead_letter["consumer"] == held.owner
                reason = opened_text(letter.dead_letter["reason"], self.ring, STREAM, GROUP, held.owner)
                assert reason in ("because", "max_deliveries")
                fresh.add(entry_id)
        self.dead |= fresh
        return fresh

    def _gone(self, candidates: set[str]) -> set[str]:
        """Entries that were deleted from the stream leave the pending list when somebody meets them."""
        listed = {row[0].decode() for row in self.server.command("XPENDING", STREAM, GROUP, "-", "+", 10_000)}
        gone = {i for i in candidates & self.deleted if i in self.pending and i not in listed}
        for entry_id in gone:
            del self.pending[entry_id]
        return gone


def check_model(
    examples: int,
    server: Deployed,
    clock: SetClock | None = None,
    encryption: InForce | None = None,
    machine: type[LeaseMachine] = LeaseMachine,
) -> None:
    """Run the model, or one with further rules, on a server."""
    make = Encryption if encryption is None else encryption.encryption
    threads = BusThread(server, 2, LEASES_SETTINGS, encryption=make)
    try:
        attributes = {"server": server, "threads": threads, "clock": clock}
        attributes |= {"ring": None if encryption is None else encryption.keys}
        run_state_machine_as_test(
            type("Machine", (machine,), attributes),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        threads.close()


@pytest.mark.parametrize("examples", counts(30, ci=600, full=1_000))
def test_leases_behave_as_the_model_says(server: Server, examples: int) -> None:
    check_model(examples, server)


@pytest.mark.parametrize("examples", counts(15, ci=200, full=1_000))
def test_leases_behave_as_the_model_says_while_the_clock_is_set(tmp_path: Path, examples: int) -> None:
    with running_with_set_clock(redis_binary(), tmp_path) as clock:
        check_model(examples, clock.server, clock)


@pytest.mark.parametrize("examples", counts(15, ci=100, full=1_000))
def test_leases_behave_as_the_model_says_where_entries_are_encrypted(
    redis: Server, tmp_path: Path, examples: int
) -> None:
    keys = KeyDirectory(tmp_path / "keys", "k1")
    check_model(examples, redis, encryption=InForce(keys, "k1", "* are encrypted with names"))
