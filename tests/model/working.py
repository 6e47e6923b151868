"""Rules that share work between consumers: groups are made, entries are taken, and finished or given back."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import MultipleResults, multiple, rule

from redstreamd.streams.names import Kind, companion_key
from tests.model.calling import Calling
from tests.model.choices import ACTIONS, CONSUMERS, COUNTS, GROUPS, KEYS, LEASES, LIMITS, LONG, STREAMS
from tests.model.world import MAX_DELIVERIES, Group, Lease, Letter, Pending, order


class Working(Calling):
    """The tools for workers, and those of the original server that create and read groups."""

    @rule(
        name=STREAMS,
        group=GROUPS,
        start=st.sampled_from(["earliest", "latest"]),
        old=st.booleans(),
        limit=LIMITS,
    )
    def create_group(self, name: str, group: str, start: str, old: bool, limit: int | None) -> None:
        stream = self.world.made(name)
        if old:
            position = {"earliest": "0", "latest": "$"}[start]
            told = self.texts("create_consumer_group", stream=name, group=group, start=position)
            created = "note" not in told
        else:
            told = self.call("group_create", stream=name, group=group, start=start, max_deliveries=limit)
            created = told["created"]
        assert created is (group not in stream.groups)
        if created:
            stream.groups[group] = Group("0-0" if start == "earliest" else stream.last_id)
            if limit is not None and not old:
                stream.groups[group].max_deliveries = limit
        if not old:
            holds = stream.groups[group].max_deliveries
            assert told["max_deliveries"] == holds
            assert ("was not used" in told.get("warning", "")) is (limit not in (None, holds))

    @rule(name=STREAMS, group=GROUPS, consumer=CONSUMERS, count=COUNTS)
    def read_group(self, name: str, group: str, consumer: str, count: int) -> None:
        told = self.texts(
            "read_group",
            self.world.missing(name, group),
            stream=name,
            group=group,
            consumer=consumer,
            count=count,
        )
        if told is None:
            return
        stream = self.world.streams[name]
        self.world.deliveries += 1
        unread = stream.unread(group)[:count]
        assert told == [{"id": one, "message": stream.entries[one]} for one in unread]
        for one in unread:
            stream.groups[group].pending[one] = Pending(
                consumer, 1, leased=False, delivery=self.world.deliveries
            )
            stream.groups[group].position = one

    @rule(
        target=LEASES,
        name=STREAMS,
        group=GROUPS,
        consumer=CONSUMERS,
        count=COUNTS,
        resume=st.booleans(),
        limit=LIMITS,
    )
    def take(
        self, name: str, group: str, consumer: str, count: int, resume: bool, limit: int | None
    ) -> Lease | MultipleResults[Lease]:
        return self.take_some(name, group, consumer, count, resume=resume, limit=limit) or multiple()

    @rule(target=LEASES, name=STREAMS, group=GROUPS, consumer=CONSUMERS, count=COUNTS, key=KEYS)
    def take_once(
        self, name: str, group: str, consumer: str, count: int, key: str
    ) -> Lease | MultipleResults[Lease]:
        """The same key gives the same entries, as far as they are still held."""
        place = (name, group, consumer, key)
        # A group that is missing is made by the call, and has given out nothing under any key.
        known = None if self.world.missing(name, group) else self.world.takes.get(place)
        if known is not None and not self.is_void(known):
            return self.take_again(known, count, key) or multiple()
        lease = self.take_some(name, group, consumer, count, idempotency_key=key)
        if lease is None:
            # Nothing was taken, so the key does not stand for anything yet.
            return multiple()
        self.world.takes[place] = lease
        return lease

    @rule(
        name=STREAMS,
        group=GROUPS,
        consumer=CONSUMERS,
        times=st.integers(1, MAX_DELIVERIES),
        action=ACTIONS,
    )
    def take_and_settle(self, name: str, group: str, consumer: str, times: int, action: str) -> None:
        """Work fails some times, and then ends as it may."""
        for turn in range(times):
            lease = self.take_some(name, group, consumer, 2)
            if lease is not None:
                self.settle_one(lease, action if turn == times - 1 else "release")

    @rule(lease=LEASES, action=ACTIONS, data=st.data())
    def settle(self, lease: Lease, action: str, data: st.DataObject) -> None:
        chosen = data.draw(st.none() | st.sets(st.sampled_from(sorted(lease.attempts)), min_size=1))
        self.settle_one(lease, action, chosen)

    def is_void(self, known: Lease) -> bool:
        """Tell whether a take was of a group that has yet to deliver what it took."""
        position = self.world.group(known.stream, known.group).position
        ahead = max(order(one) for one in known.attempts) > order(position)
        return ahead and not self.kept_of(known)

    def kept_of(self, known: Lease) -> set[str]:
        """Return what a lease still holds."""
        stream = self.world.streams[known.stream]
        pending = stream.groups[known.group].pending
        own, _, _ = self.world.fates(known)
        return {one for one in own & stream.entries.keys() if pending[one].leased}

    def take_again(self, known: Lease, count: int, key: str) -> Lease | None:
        """Repeat a take; what was settled since, or taken by somebody else, is missing."""
        name, group = known.stream, known.group
        taken = self.call(
            "work_take",
            stream=name,
            group=group,
            consumer=known.consumer,
            count=count,
            lease_seconds=LONG,
            idempotency_key=key,
        )
        stream = self.world.streams[name]
        kept = self.kept_of(known)
        assert taken["duplicate"] is True
        assert ("warning" in taken) is not kept
        for entry in taken["entries"]:
            self.check_shown(entry, stream.entries[entry["id"]])
        attempts = {entry["id"]: entry["attempt"] for entry in taken["entries"]}
        assert attempts == {one: attempt for one, attempt in known.attempts.items() if one in kept}
        assert ("lease" in taken) is bool(attempts)
        if not attempts:
            return None
        return Lease(taken["lease"], name, group, known.consumer, attempts, known.delivery, known.own_limit)

    def take_some(
        self,
        name: str,
        group: str,
        consumer: str,
        count: int,
        *,
        resume: bool = False,
        idempotency_key: str | None = None,
        limit: int | None = None,
    ) -> Lease | None:
        """Take work, and return its lease if there was any."""
        stream = self.world.made(name)
        new_group = group not in stream.groups
        state = stream.groups.setdefault(group, Group("0-0"))
        if new_group and limit is not None:
            state.max_deliveries = limit
        own_limit = None if state.limit_for(limit) == state.max_deliveries else limit
        self.world.deliveries += 1
        taken = self.call(
            "work_take",
            stream=name,
            group=group,
            consumer=consumer,
            count=count,
            lease_seconds=LONG,
            resume=resume,
            idempotency_key=idempotency_key,
            max_deliveries=limit,
        )
        assert taken.get("group_created", False) is new_group
        unused = own_limit is None and limit not in (None, state.max_deliveries)
        assert ("was not used" in taken.get("warning", "")) is unused
        self.forget_what_has_no_content(name, group)
        if resume:
            owed = {one for one, held in state.pending.items() if held.owner == consumer and held.held}
        else:
            owed = {one for one, held in state.pending.items() if held.due}
        owed &= stream.entries.keys()
        spent = {one for one in owed if state.spent(one, limit) and not resume}
        buried = self.note_letters(name, group)
        assert buried <= spent
        assert taken.get("dead_lettered", 0) == len(buried)
        unread = [] if resume else stream.unread(group)
        ids = [entry["id"] for entry in taken["entries"]]
        debts = [entry for entry in taken["entries"] if entry["attempt"] > 1]
        fresh = ids[len(debts) :]
        assert {entry["id"] for entry in debts} <= owed - spent
        assert fresh == unread[: len(fresh)]
        # One that fills the answer is the last, however many were asked for.
        filled = any("big" in stream.entries[one] for one in ids)
        assert not any("big" in stream.entries[one] for one in ids[:-1])
        if len(ids) < count and not filled:
            assert (len(debts), len(fresh), buried) == (len(owed - spent), len(unread), spent)
        elif fresh:
            assert len(debts) == len(owed - spent)
        for entry in taken["entries"]:
            self.check_shown(entry, stream.entries[entry["id"]])
            before = state.pending.get(entry["id"])
            anew = before is None or entry["id"] in fresh
            assert entry["attempt"] == (1 if anew or before is None else before.attempt + 1)
            state.pending[entry["id"]] = Pending(consumer, entry["attempt"], delivery=self.world.deliveries)
            state.forget(entry["id"], entry["attempt"])
            if not anew:
                state.forget(entry["id"], entry["attempt"] - 1)
        if fresh:
            state.position = fresh[-1]
        assert ("lease" in taken) is bool(ids)
        attempts = {entry["id"]: entry["attempt"] for entry in taken["entries"]}
        if not ids:
            return None
        return Lease(taken["lease"], name, group, consumer, attempts, self.world.deliveries, own_limit)

    def settle_one(self, lease: Lease, action: str, chosen: set[str] | None = None) -> None:
        """End or renew a lease as a whole, or for the chosen entries."""
        if chosen is not None:
            lease = attrs.evolve(lease, attempts={one: lease.attempts[one] for one in chosen})
        name, group = lease.stream, lease.group
        code = self.world.missing(name, group)
        consumers = set() if code else self.consumers(name, group)
        own, already, lost = self.world.fates(lease, removed=lease.consumer not in consumers)
        if code is None and not own and not already:
            code = "LEASE_LOST"
        tool, more = _settlement(action)
        entry_ids = None if chosen is None else sorted(chosen)
        told = self.expect(code, tool, lease=lease.token, entry_ids=entry_ids, **more)
        # Nor does it bring a consumer back that was removed.
        assert not consumers or self.consumers(name, group) == consumers
        self.note_settled(lease, own | already)
        if told is None:
            return
        stream = self.world.streams[name]
        pending = stream.groups[group].pending
        spent = {one for one in own if stream.groups[group].spent(one, lease.own_limit)}
        dead = own if action == "dead_letter" else spent if tool == "work_fail" else set()
        # Without content nothing is left to do, and there is nothing to keep as a dead letter.
        gone = dead - stream.entries.keys()
        # What this very attempt gave back is given back again, and otherwise settled.
        again = already & pending.keys() if action in ("retry", "release") else set()
        assert (set(told["already_done"]), set(told["lost"])) == (already - again | gone, lost)
        needing: set[str] = set()
        if tool == "work_done":
            assert set(told["done"]) == own
        elif tool == "work_extend":
            assert set(told["extended"]) == own
        else:
            assert (set(told["dead_lettered"]), set(told["retried"])) == (dead - gone, own - dead | again)
            assert self.note_letters(name, group) == dead - gone
        for one in own:
            if tool == "work_done" or one in dead:
                pending.pop(one, None)
            else:
                pending[one] = attrs.evolve(
                    pending[one], due=action == "release", held=tool == "work_extend", leased=True
                )
            if action == "done and delete":
                needed_by = stream.needed_by([one]) - {group}
                needing |= needed_by if one in stream.entries else set()
                if not needed_by:
                    stream.entries.pop(one, None)
        assert told.get("kept_for") in (needing or {None})

    def note_settled(self, lease: Lease, settled: set[str]) -> None:
        """What was settled once stays so."""
        for one in settled:
            self.world.group(lease.stream, lease.group).forget(one, lease.attempts[one])

    def forget_what_has_no_content(self, name: str, group: str) -> None:
        """Entries that were deleted from the stream leave the pending list when somebody meets them."""
        listed = {row[0].decode() for row in self.server.command("XPENDING", name, group, "-", "+", 1_000)}
        stream = self.world.streams[name]
        pending = stream.groups[group].pending
        for one in [one for one in pending if one not in listed and one not in stream.entries]:
            stream.groups[group].forget(one, pending.pop(one).attempt)

    def note_letters(self, name: str, group: str) -> set[str]:
        """Take over new dead letters, check what they say, and return which entries they were."""
        known = self.world.dead.setdefault((name, group), {})
        fresh: set[str] = set()
        for raw, flat in self.server.command("XRANGE", companion_key(name, Kind.DEAD, group), "-", "+"):
            if raw.decode() in known:
                continue
            letter = self.stored(name, flat)
            assert letter.dead_letter is not None
            entry_id = letter.dead_letter["id"]
            held = self.world.group(name, group).pending.pop(entry_id)
            self.world.group(name, group).forget(entry_id, held.attempt)
            assert letter.members == self.world.streams[name].entries[entry_id]
            assert letter.dead_letter["attempts"] == held.attempt
            assert letter.dead_letter["consumer"] == held.owner
            known[raw.decode()] = Letter(entry_id, letter.members, held.attempt)
            fresh.add(entry_id)
        return fresh


def _settlement(action: str) -> tuple[str, dict[str, Any]]:
    """Return the tool and the arguments that end a lease in this way."""
    if action == "done":
        return "work_done", {}
    if action == "done and delete":
        return "work_done", {"delete": True}
    if action == "extend":
        return "work_extend", {"lease_seconds": LONG}
    if action == "renew":
        return "work_extend", {}
    return "work_fail", {"action": action, "delay_seconds": LONG, "reason": "because"}
