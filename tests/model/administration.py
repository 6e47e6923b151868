"""Rules of an operator: groups are moved and destroyed, streams cut, dead letters replayed."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from redstreamd.streams.names import RELEASED, Kind, companion_key
from tests.model.calling import Calling
from tests.model.choices import CONSUMERS, COUNTS, GROUPS, SELDOM_DONE, STREAMS
from tests.model.world import Group, Pending, Stream, order


class Administration(Calling):
    """group_manage, stream_manage, dead_letter_replay and quarantine_release."""

    @rule(name=STREAMS, group=GROUPS, letters=st.booleans(), dry_run=SELDOM_DONE)
    def destroy_group(self, name: str, group: str, letters: bool, dry_run: bool) -> None:
        told = self.expect(
            self.world.missing(name, group),
            "group_manage",
            stream=name,
            group=group,
            action="destroy",
            delete_dead_letters=letters,
            dry_run=dry_run,
        )
        if told is None:
            return
        assert told["effect"]["pending_lost"] == len(self.world.group(name, group).pending)
        assert told["effect"]["not_delivered"] == len(self.world.streams[name].unread(group))
        if not dry_run:
            del self.world.streams[name].groups[group]
            if letters:
                self.world.dead.pop((name, group), None)

    @rule(name=STREAMS, group=GROUPS, data=st.data(), dry_run=st.booleans())
    def set_position(self, name: str, group: str, data: st.DataObject, dry_run: bool) -> None:
        stream = self.world.streams.get(name, Stream())
        # Not back over what is pending: one answer would then hold such an entry twice.
        state = stream.groups.get(group, Group("0-0"))
        ahead = [one for one in stream.entries if all(order(one) > order(held) for held in state.pending)]
        start = data.draw(st.sampled_from(["latest", *ahead]))
        told = self.expect(
            self.world.missing(name, group),
            "group_manage",
            stream=name,
            group=group,
            action="set_position",
            start=start,
            dry_run=dry_run,
        )
        if told is None:
            return
        milliseconds, sequence = order(start) if start != "latest" else (0, 0)
        before = f"{milliseconds}-{sequence - 1}" if sequence else f"{milliseconds - 1}-{(1 << 64) - 1}"
        position = stream.last_id if start == "latest" else before
        assert told["effect"]["last_delivered_id"] == position
        passed = [
            one
            for one in stream.entries
            if min(order(position), order(state.position))
            < order(one)
            <= max(order(position), order(state.position))
        ]
        moved = told["effect"]["skipped"] + told["effect"]["repeated"]
        assert moved == len(passed)
        if not dry_run:
            state.position = position

    @rule(name=STREAMS, group=GROUPS, limit=st.sampled_from([1, 2, 5, 0]), dry_run=st.booleans())
    def set_max_deliveries(self, name: str, group: str, limit: int, dry_run: bool) -> None:
        told = self.expect(
            self.world.missing(name, group),
            "group_manage",
            stream=name,
            group=group,
            action="set_max_deliveries",
            max_deliveries=limit,
            dry_run=dry_run,
        )
        if told is None:
            return
        state = self.world.group(name, group)
        before = state.max_deliveries
        assert told["effect"] == {"max_deliveries": limit, "max_deliveries_before": before}
        if not dry_run:
            state.max_deliveries = limit

    @rule(
        name=STREAMS,
        group=GROUPS,
        consumer=CONSUMERS,
        pending=st.sampled_from(["refuse", "release", "hand_over", "lose"]),
    )
    def remove_consumer(self, name: str, group: str, consumer: str, pending: str) -> None:
        code = self.world.missing(name, group)
        state = None if code else self.world.streams[name].groups[group]
        held = {} if state is None else {o: p for o, p in state.pending.items() if p.owner == consumer}
        refused = pending == "refuse" and held
        if code is None and (refused or consumer not in self.consumers(name, group)):
            code = "INVALID_ARGUMENT"
        self.world.deliveries += 1
        heir = "b" if consumer == "a" else "a"
        more = {"to_consumer": heir} if pending == "hand_over" else {}
        told = self.expect(
            code,
            "group_manage",
            stream=name,
            group=group,
            action="remove_consumer",
            consumer=consumer,
            pending=pending,
            dry_run=False,
            **more,
        )
        if told is None:
            return
        assert state is not None
        alive = held.keys() & self.world.streams[name].entries.keys()
        for one, was in held.items():
            del state.pending[one]
            if pending == "lose":
                if was.held and was.leased:
                    state.lost.add((one, was.attempt))
            else:
                state.forget(one, was.attempt)
            if pending in ("release", "hand_over") and one in alive:
                released = pending == "release"
                owner = RELEASED if released else heir
                # A retry that was put off for long stays so.
                put_off = not was.held and not was.due
                state.pending[one] = Pending(
                    owner,
                    was.attempt,
                    due=released and not put_off,
                    held=not released and not put_off,
                    delivery=self.world.deliveries,
                )
        if pending == "lose":
            assert told["effect"].get("lost", 0) == len(held)
        else:
            moved = "handed_over" if pending == "hand_over" else "released"
            assert told["effect"].get(moved, 0) == len(alive)

    @rule(name=STREAMS, most=st.integers(0, 8), force=st.booleans(), dry_run=SELDOM_DONE)
    def trim(self, name: str, most: int, force: bool, dry_run: bool) -> None:
        entries = list(self.world.streams.get(name, Stream()).entries)
        self.cut(name, entries[: max(0, len(entries) - most)], force, dry_run, action="trim", max_length=most)

    @rule(name=STREAMS, force=st.booleans(), dry_run=SELDOM_DONE, data=st.data())
    def delete_entries(self, name: str, force: bool, dry_run: bool, data: st.DataObject) -> None:
        entries = list(self.world.streams.get(name, Stream()).entries)
        chosen = data.draw(st.lists(st.sampled_from([*entries, "1-1"]), min_size=1, max_size=4, unique=True))
        gone = [one for one in chosen if one != "1-1"]
        self.cut(name, gone, force, dry_run, action="delete_entries", entry_ids=chosen)

    @rule(name=STREAMS, force=st.booleans(), dry_run=SELDOM_DONE, letters=st.booleans())
    def delete_stream(self, name: str, force: bool, dry_run: bool, letters: bool) -> None:
        stream = self.world.streams.get(name, Stream())
        how = {"action": "delete", "delete_dead_letters": letters}
        if self.cut(name, list(stream.entries), force, dry_run, **how):
            del self.world.streams[name]
            for group in stream.groups if letters else ():
                self.world.dead.pop((name, group), None)

    def cut(self, name: str, gone: list[str], force: bool, dry_run: bool, **how: Any) -> bool:
        code = self.world.missing(name)
        needed_by = set() if code else self.world.streams[name].needed_by(gone)
        if needed_by and not force and not dry_run:
            code = "INVALID_ARGUMENT"
        told = self.expect(code, "stream_manage", stream=name, force=force, dry_run=dry_run, **how)
        if told is None:
            return False
        assert {need["group"] for need in told.get("needed_by", [])} == needed_by
        if not dry_run:
            assert told["effect"]["removed"] == len(gone)
            for one in gone:
                del self.world.streams[name].entries[one]
        return not dry_run

    @rule(
        name=STREAMS,
        group=GROUPS,
        action=st.sampled_from(["list", "replay", "delete"]),
        count=COUNTS,
        dry_run=st.booleans(),
    )
    def dead_letters(self, name: str, group: str, action: str, count: int, dry_run: bool) -> None:
        letters = self.world.dead.get((name, group), {})
        code = None if letters else self.world.missing(name, group)
        told = self.expect(
            code,
            "dead_letter_replay",
            stream=name,
            group=group,
            action=action,
            count=count,
            dry_run=dry_run,
        )
        if told is None:
            return
        assert told["total"] == len(letters)
        chosen = list(letters)[:count]
        if action == "list":
            ids = [entry["id"] for entry in told["entries"]]
            assert ids == chosen[: len(ids)]
            assert told["has_more"] is (len(ids) < len(letters))
            return
        if action == "delete":
            assert told.get("deleted", []) == chosen
        else:
            assert [line["id"] for line in told.get("replayed", [])] == chosen
        if dry_run:
            return
        for letter_id, line in zip(chosen, told.get("replayed", [None] * len(chosen)), strict=True):
            letter = letters.pop(letter_id)
            if line is not None:
                stream = self.world.streams.setdefault(name, Stream())
                stream.add(line["new_id"], letter.members)

    @rule(name=STREAMS, action=st.sampled_from(["release", "discard"]))
    def quarantine(self, name: str, action: str) -> None:
        """What waits is released or discarded once; nothing is left waiting for other rules."""
        key = companion_key(name, Kind.QUARANTINE)
        fields = ("_rs.quarantine", name, "n", "1", "_rs.v", "1")
        waiting = self.server.command("XADD", key, "*", *fields).decode()
        shown = self.call("quarantine_release", stream=name)
        assert [(entry["id"], entry["fields"]) for entry in shown["entries"]] == [(waiting, {"n": "1"})]
        how = {"stream": name, "action": action, "entry_ids": [waiting]}
        tried = self.call("quarantine_release", **how)
        assert tried.get("released", []) + tried.get("discarded", [])
        told = self.call("quarantine_release", **how, dry_run=False)
        if action == "release":
            (line,) = told["released"]
            self.world.streams.setdefault(name, Stream()).add(line["new_id"], {"n": "1"})
        else:
            assert told["discarded"] == [waiting]
        assert self.call("quarantine_release", **how, dry_run=False)["gone"] == [waiting]
        assert self.server.command("DEL", key) == 1
