"""All tools against a model: JSON in, JSON out, over a real server; the two never disagree.

Hypothesis lets agents publish, share, finish, fail, ask and answer, and operators trim, replay, move and
destroy, in any order and with leases of any age. A model predicts each answer or the code of each error;
after each step the server holds exactly what the model says. Every answer fits its output schema and the
byte bound. Time stands still here (leases are long); what it does is in tests/streams/test_lease_model.py.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from redstreamd.errors import Code
from redstreamd.settings import LeasesSettings, Settings, ToolsSettings
from redstreamd.streams.codec import decode
from redstreamd.streams.diagnosis.group_facts import RELEASED
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.schema import result_schema
from redstreamd.tools.server import Toolbox
from tests.model.world import MAX_DELIVERIES, Group, Letter, Pending, Stream, World, order
from tests.support.buses import BusThread
from tests.support.calls import ME, no_progress
from tests.support.servers import Server

MAX_RESULT_BYTES = 2_048
#: What an answer has beside its entries: a lease token, cursors, the names of members.
BESIDE = 2_048
#: Seconds; nothing runs out in a test.
LONG = 50_000.0

NAMES = ["shop:orders:paid", "täglich {x}"]
#: The first of each is the busy one, so that what one rule leaves is met by the next.
STREAMS = st.sampled_from([*NAMES, NAMES[0], NAMES[0]])
GROUPS = st.sampled_from(["g", "h{1}", "g", "g"])
#: What destroys much is done seldom, or little would ever happen in between.
SELDOM_DONE = st.sampled_from([True, True, True, True, False])
LOOKS = st.sampled_from(["read", "wait", "old read", "list", "wrong", "pending", "health", "old groups"])
CONSUMERS = st.sampled_from(["a", "b"])
COUNTS = st.integers(1, 6)
ACTIONS = st.sampled_from(["done", "extend", "retry", "release", "dead_letter"])
#: The third is larger than an answer may be.
MEMBERS = st.sampled_from([{"n": 1}, {"text": "Grüße", "list": [1, None, {"x": 0.5}]}, {"big": "x" * 3_000}])


class ToolsMachine(RuleBasedStateMachine):
    """Two streams, two groups, two agents and an operator."""

    server: Server
    threads: BusThread
    toolbox: Toolbox[Any]

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        self.server.command("SET", "no-stream", "x")
        self.world = World()

    # How a tool is called

    def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool with JSON, check the form of its answer, and return the whole."""
        found = self.toolbox.find(tool)
        given = json.loads(json.dumps(arguments))
        whole = json.loads(
            json.dumps(self.threads.call(partial(self.toolbox.call, found, given, ME, no_progress)))
        )
        content = whole.get("structuredContent")
        if whole["isError"]:
            assert content.keys() == {"code", "message", "cause", "next_step"}
            assert content["code"] in set(Code) - {Code.INTERNAL}, content
        if found.result is not None:
            jsonschema.Draft202012Validator(result_schema(found.result)).validate(content)
            assert len(json.dumps(content, ensure_ascii=False).encode()) <= MAX_RESULT_BYTES + BESIDE
        answered: dict[str, Any] = whole
        return answered

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed."""
        whole = self.answer(tool, **arguments)
        assert not whole["isError"], whole["content"]
        content: dict[str, Any] = whole["structuredContent"]
        return content

    def expect(self, code: str | None, tool: str, **arguments: Any) -> dict[str, Any] | None:
        """Call a tool that must fail with `code`, and return None; with None it must succeed."""
        if code is None:
            return self.call(tool, **arguments)
        whole = self.answer(tool, **arguments)
        assert whole["isError"], (code, whole["structuredContent"])
        assert whole["structuredContent"]["code"] == code, whole["content"]
        return None

    def texts(self, tool: str, code: str | None = None, **arguments: Any) -> Any:
        """Call a tool of the original Red-Stream server; return the JSON in its text, None if refused."""
        whole = self.answer(tool, **arguments)
        if code is not None:
            assert whole["structuredContent"]["code"] == code, whole["content"]
            return None
        assert not whole["isError"], whole["content"]
        return json.loads(whole["content"][0]["text"])

    @initialize(target=leases, members=MEMBERS)
    def begin(self, members: dict[str, Any]) -> dict[str, Any]:
        """Some work is there, and some of it is taken."""
        self.add(NAMES[0], 4, members, None)
        return self.take_some(NAMES[0], "g", "a", 2, False)

    # Publishing and reading

    @rule(name=STREAMS, count=COUNTS, members=MEMBERS, key=st.none() | st.sampled_from(["k", "l"]))
    def add(self, name: str, count: int, members: dict[str, Any], key: str | None) -> None:
        known = self.world.keys.get((name, key or ""))
        entries = [members | {"at": n} for n in range(count)]
        more = {} if key is None else {"idempotency_key": key}
        same = known is not None and known[0] == (count, members)
        added = self.expect(
            None if known is None or same else "INVALID_ARGUMENT",
            "stream_add",
            stream=name,
            entries=entries,
            **more,
        )
        if added is None:
            return
        assert added["duplicate"] is same
        if same:
            assert known is not None
            assert added["ids"] == known[1]
            return
        if key is not None:
            self.world.keys[name, key] = ((count, members), added["ids"])
        stream = self.world.streams.setdefault(name, Stream())
        for entry_id, entry in zip(added["ids"], entries, strict=True):
            stream.add(entry_id, entry)

    @rule(name=STREAMS, members=MEMBERS, most=st.integers(1, 8))
    def add_and_trim(self, name: str, members: dict[str, Any], most: int) -> None:
        (entry_id,) = self.call("stream_add", stream=name, entries=[members], max_length=most)["ids"]
        stream = self.world.streams.setdefault(name, Stream())
        stream.add(entry_id, members)
        for gone in list(stream.entries)[:-most]:
            del stream.entries[gone]
            stream.was_cut = True

    @rule(name=STREAMS, members=MEMBERS)
    def add_stream_message(self, name: str, members: dict[str, Any]) -> None:
        entry_id = self.texts("add_stream_message", stream=name, message=members)["id"]
        self.world.streams.setdefault(name, Stream()).add(entry_id, members)

    @rule(look=LOOKS, name=STREAMS, group=GROUPS, count=COUNTS, backward=st.booleans(), data=st.data())
    def look(self, look: str, name: str, group: str, count: int, backward: bool, data: st.DataObject) -> None:
        """Use one of the tools that change nothing."""
        if look == "read":
            self.read_all_pages(name, backward, count)
        elif look == "wait":
            self.wait_from_the_beginning(data.draw(st.sampled_from([NAMES, [name]])), count)
        elif look == "old read":
            self.get_stream_messages(name, count)
        elif look == "list":
            self.list_streams()
        elif look == "wrong":
            tools = ["stream_read", "stream_health", "stream_add", "work_take", "request_reply"]
            self.a_key_that_is_no_stream(data.draw(st.sampled_from(tools)))
        elif look == "pending":
            self.list_pending(name, group)
        elif look == "health":
            self.diagnose(name)
        else:
            self.list_groups(name)

    def read_all_pages(self, name: str, backward: bool, count: int) -> None:
        code = self.world.missing(name)
        arguments: dict[str, Any] = {
            "stream": name,
            "count": count,
            "direction": "backward" if backward else "forward",
        }
        seen: list[str] = []
        while True:
            page = self.expect(code, "stream_read", **arguments)
            if page is None:
                return
            assert len(page["entries"]) <= count
            for entry in page["entries"]:
                self.check_shown(entry, self.world.streams[name].entries[entry["id"]])
            seen += [entry["id"] for entry in page["entries"]]
            if not page["has_more"]:
                break
            assert page["entries"]
            arguments["cursor"] = page["next_cursor"]
        entries = list(self.world.streams[name].entries)
        assert seen == (entries[::-1] if backward else entries)

    def wait_from_the_beginning(self, names: list[str], count: int) -> None:
        arguments: dict[str, Any] = {"streams": names, "count": count, "timeout_seconds": 0}
        first = self.call("stream_wait", **arguments)
        assert first["timed_out"] is True
        assert set(first.get("absent", [])) == {name for name in names if name not in self.world.streams}
        if len(names) > 1:
            return
        waited = self.call("stream_wait", **arguments, cursor="0-0")
        stream = self.world.streams.get(names[0], Stream())
        ids = [entry["id"] for entry in waited["entries"]]
        assert ids == list(stream.entries)[: len(ids)]
        assert bool(ids) is bool(stream.entries)

    def get_stream_messages(self, name: str, count: int) -> None:
        told = self.texts("get_stream_messages", self.world.missing(name), stream=name, count=count)
        if told is not None:
            stream = self.world.streams[name]
            expected = [{"id": one, "message": members} for one, members in stream.entries.items()]
            assert told == expected[:count]

    def list_streams(self) -> None:
        listed = self.call("stream_list")
        assert [(line["stream"], line["length"], line["groups"]) for line in listed["streams"]] == [
            (name, len(stream.entries), len(stream.groups))
            for name, stream in sorted(self.world.streams.items())
        ]
        assert self.texts("list_streams") == {"streams": sorted(self.world.streams)}

    def a_key_that_is_no_stream(self, tool: str) -> None:
        more: dict[str, dict[str, Any]] = {
            "stream_add": {"entries": [{"n": 1}]},
            "work_take": {"group": "g", "consumer": "a"},
            "request_reply": {"entry": {"n": 1}, "timeout_seconds": 0},
        }
        self.expect("WRONG_TYPE", tool, stream="no-stream", **more.get(tool, {}))

    # Groups and work

    @rule(name=STREAMS, group=GROUPS, start=st.sampled_from(["earliest", "latest"]), old=st.booleans())
    def create_group(self, name: str, group: str, start: str, old: bool) -> None:
        stream = self.world.streams.setdefault(name, Stream())
        if old:
            position = {"earliest": "0", "latest": "$"}[start]
            told = self.texts("create_consumer_group", stream=name, group=group, start=position)
            created = "note" not in told
        else:
            created = self.call("group_create", stream=name, group=group, start=start)["created"]
        assert created is (group not in stream.groups)
        if created:
            stream.groups[group] = Group("0-0" if start == "earliest" else stream.last_id)

    @rule(target=leases, name=STREAMS, group=GROUPS, consumer=CONSUMERS, count=COUNTS, resume=st.booleans())
    def take(self, name: str, group: str, consumer: str, count: int, resume: bool) -> Any:
        taken = self.take_some(name, group, consumer, count, resume)
        return taken if taken["lease"] is not None else multiple()

    @rule(
        name=STREAMS, group=GROUPS, consumer=CONSUMERS, times=st.integers(1, MAX_DELIVERIES), action=ACTIONS
    )
    def take_and_settle(self, name: str, group: str, consumer: str, times: int, action: str) -> None:
        """Work fails some times, and then ends as it may."""
        for turn in range(times):
            taken = self.take_some(name, group, consumer, 2, False)
            if taken["lease"] is not None:
                self.settle_one(taken, action if turn == times - 1 else "release")

    @rule(name=STREAMS, group=GROUPS, consumer=CONSUMERS)
    def take_and_reply(self, name: str, group: str, consumer: str) -> None:
        taken = self.take_some(name, group, consumer, 1, False)
        if taken["lease"] is not None:
            self.reply_to_one(taken)

    def take_some(self, name: str, group: str, consumer: str, count: int, resume: bool) -> dict[str, Any]:
        stream = self.world.streams.setdefault(name, Stream())
        new_group = group not in stream.groups
        state = stream.groups.setdefault(group, Group("0-0"))
        self.a_millisecond_passes()
        taken = self.call(
            "work_take",
            stream=name,
            group=group,
            consumer=consumer,
            count=count,
            lease_seconds=LONG,
            resume=resume,
        )
        assert taken.get("group_created", False) is new_group
        self.forget_what_has_no_content(name, group)
        if resume:
            owed = {one for one, held in state.pending.items() if held.owner == consumer and held.held}
        else:
            owed = {one for one, held in state.pending.items() if held.due}
        owed &= stream.entries.keys()
        spent = {one for one in owed if state.pending[one].attempt >= MAX_DELIVERIES and not resume}
        buried = self.note_letters(name, group)
        assert buried <= spent
        assert taken.get("dead_lettered", 0) == len(buried)
        unread = [] if resume else stream.unread(group)
        ids = [entry["id"] for entry in taken["entries"]]
        debts = [entry for entry in taken["entries"] if entry["attempt"] > 1]
        fresh = ids[len(debts) :]
        assert {entry["id"] for entry in debts} <= owed - spent
        assert fresh == unread[: len(fresh)]
        if len(ids) < count:
            assert (len(debts), len(fresh), buried) == (len(owed - spent), len(unread), spent)
        elif fresh:
            assert len(debts) == len(owed - spent)
        for entry in taken["entries"]:
            self.check_shown(entry, stream.entries[entry["id"]])
            before = state.pending.get(entry["id"])
            redelivered = entry["id"] in fresh or before is None
            assert entry["attempt"] == (1 if redelivered or before is None else before.attempt + 1)
            state.pending[entry["id"]] = Pending(consumer, entry["attempt"])
        if fresh:
            state.position = fresh[-1]
        assert ("lease" in taken) is bool(ids)
        attempts = {entry["id"]: entry["attempt"] for entry in taken["entries"]}
        return {"lease": taken.get("lease"), "place": (name, group, consumer), "attempts": attempts}

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
        unread = stream.unread(group)[:count]
        assert told == [{"id": one, "message": stream.entries[one]} for one in unread]
        for one in unread:
            stream.groups[group].pending[one] = Pending(consumer, 1, leased=False)
            stream.groups[group].position = one

    @rule(taken=leases, action=ACTIONS)
    def settle(self, taken: dict[str, Any], action: str) -> None:
        self.settle_one(taken, action)

    def settle_one(self, taken: dict[str, Any], action: str) -> None:
        name, group, _ = taken["place"]
        own, already, lost = self.fates(taken)
        code = self.world.missing(name, group)
        if code is None and not own and not already:
            code = "LEASE_LOST"
        tool, more = {
            "done": ("work_done", {}),
            "extend": ("work_extend", {"lease_seconds": LONG}),
        }.get(action, ("work_fail", {"action": action, "delay_seconds": LONG, "reason": "because"}))
        told = self.expect(code, tool, lease=taken["lease"], **more)
        if told is None:
            return
        assert (set(told["already_done"]), set(told["lost"])) == (already, lost)
        state = self.world.streams[name].groups[group]
        spent = {one for one in own if state.pending[one].attempt >= MAX_DELIVERIES}
        dead = own if action == "dead_letter" else spent if tool == "work_fail" else set()
        if action == "done":
            assert set(told["done"]) == own
        elif action == "extend":
            assert set(told["extended"]) == own
        else:
            assert (set(told["dead_lettered"]), set(told["retried"])) == (dead, own - dead)
            assert self.note_letters(name, group) == dead & self.world.streams[name].entries.keys()
        for one in own:
            if action == "done" or one in dead:
                state.pending.pop(one, None)
            else:
                held = action == "extend"
                state.pending[one] = Pending(
                    state.pending[one].owner, state.pending[one].attempt, action == "release", held
                )

    @rule(name=STREAMS, group=GROUPS)
    def list_pending(self, name: str, group: str) -> None:
        told = self.expect(
            self.world.missing(name, group), "pending_list", stream=name, group=group, count=100
        )
        if told is None:
            return
        state = self.world.streams[name].groups[group]
        assert told["pending"] == len(state.pending)
        lines = {line["id"]: line for line in told["entries"]}
        assert told["has_more"] or lines.keys() == state.pending.keys()
        for one, line in lines.items():
            held = state.pending[one]
            assert (line["consumer"], line["deliveries"]) == (held.owner, held.attempt)
            assert ("lease_expires" in line) is (held.leased and held.held)

    @rule(name=STREAMS)
    def diagnose(self, name: str) -> None:
        told = self.expect(self.world.missing(name), "stream_health", stream=name, detail="full")
        if told is None:
            return
        stream = self.world.streams[name]
        assert (told["stream"]["length"], told["stream"]["groups"]) == (
            len(stream.entries),
            len(stream.groups),
        )
        for line in told["groups"]:
            state = stream.groups[line["group"]]
            assert line["pending"] == len(state.pending)
            assert line["dead_letters"] == len(self.world.dead.get((name, line["group"]), {}))
            low, high = line.get("lag_between", (line["lag"], line["lag"]))
            # What was trimmed ahead of a group the server goes on counting, up to the stream's length.
            unread = len(stream.unread(line["group"]))
            assert unread <= high <= len(stream.entries)
            assert low <= unread or stream.was_cut
            dead = {f["group"] for f in told["findings"] if f["code"] == "dead_letters"}
            assert (line["group"] in dead) is bool(line["dead_letters"]) or "findings" in told["left_out"]
        for finding in told["findings"]:
            assert "next_call" not in finding or finding["next_call"]["tool"] in REGISTRY

    def list_groups(self, name: str) -> None:
        told = self.texts("list_groups", self.world.missing(name), stream=name)
        if told is not None:
            assert [(line["name"], line["pending"], line["lastDeliveredId"]) for line in told] == [
                (group, len(state.pending), state.position)
                for group, state in sorted(self.world.streams[name].groups.items())
            ]

    # Requests

    @rule(name=STREAMS, correlation=st.sampled_from(["q1", "q2"]))
    def ask(self, name: str, correlation: str) -> None:
        # The same correlation ID on another stream is another question.
        correlation = f"{correlation}@{name}"
        told = self.call(
            "request_reply",
            stream=name,
            entry={"question": correlation},
            correlation_id=correlation,
            timeout_seconds=0,
        )
        known = correlation in self.world.asked
        assert (told.get("resumed", False), told["answered"]) == (known, correlation in self.world.replied)
        if known:
            assert told["request_id"] == self.world.asked[correlation][1]
        else:
            self.world.asked[correlation] = (name, told["request_id"])
            self.world.streams.setdefault(name, Stream()).add(told["request_id"], {"question": correlation})

    @rule(taken=leases)
    def reply(self, taken: dict[str, Any]) -> None:
        self.reply_to_one(taken)

    def reply_to_one(self, taken: dict[str, Any]) -> None:
        name, group, _ = taken["place"]
        entry_id = min(taken["attempts"], key=order)
        own, already, _ = self.fates({**taken, "attempts": {entry_id: taken["attempts"][entry_id]}})
        code = self.world.missing(name, group)
        members = {} if code else self.world.streams[name].entries.get(entry_id)
        question = (members or {}).get("question")
        if code is None and not own and not already:
            code = "LEASE_LOST"
        elif code is None and (own or members is not None) and question is None:
            code = "INVALID_ARGUMENT"
        told = self.expect(
            code, "work_done", lease=taken["lease"], entry_ids=[entry_id], reply={"answer": entry_id}
        )
        if code == "INVALID_ARGUMENT" and own:
            # It was about to be answered, and stays under its lease.
            state = self.world.streams[name].groups[group].pending[entry_id]
            state.due, state.held, state.leased = False, True, True
        if told is None:
            return
        assert (told["done"], told["already_done"]) == (sorted(own), sorted(already))
        for one in own:
            del self.world.streams[name].groups[group].pending[one]
        if question is not None:
            self.world.replied.add(question)
            assert told["reply"].keys() >= {"stream", "duplicate"}

    # Administration

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
        state = self.world.streams[name].groups[group]
        assert told["effect"]["pending_lost"] == len(state.pending)
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
        if code is None:
            known = self.server.command("XINFO", "CONSUMERS", name, group)
            names = {dict(zip(one[::2], one[1::2], strict=True))[b"name"].decode() for one in known}
            if consumer not in names or (pending == "refuse" and held):
                code = "INVALID_ARGUMENT"
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
            if pending in ("release", "hand_over") and one in alive:
                released = pending == "release"
                owner = RELEASED if released else heir
                state.pending[one] = Pending(owner, was.attempt, released, not released)
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
                self.world.streams[name].was_cut = True
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

    # What the server says

    @invariant()
    def the_server_holds_what_the_model_says(self) -> None:
        for name, stream in self.world.streams.items():
            entries, groups = self.server.commands(("XRANGE", name, "-", "+"), ("XINFO", "GROUPS", name))
            found = {
                one.decode(): decode(list(zip(flat[::2], flat[1::2], strict=True))).members
                for one, flat in entries
            }
            assert found == stream.entries
            actual = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in groups]
            assert {line[b"name"].decode(): line[b"last-delivered-id"].decode() for line in actual} == {
                group: state.position for group, state in stream.groups.items()
            }
            for group, state in stream.groups.items():
                pending = self.server.command("XPENDING", name, group, "-", "+", 1_000)
                assert {one.decode(): (owner.decode(), n) for one, owner, _, n in pending} == {
                    one: (held.owner, held.attempt) for one, held in state.pending.items()
                }

    # Helpers of the rules

    def a_millisecond_passes(self) -> None:
        """What is released comes due half a millisecond later."""
        first = now = self.server.command("TIME")
        while int(now[1]) // 1_000 == int(first[1]) // 1_000 and now[0] == first[0]:
            now = self.server.command("TIME")

    def check_shown(self, shown: dict[str, Any], members: dict[str, Any]) -> None:
        """An entry is shown as it was given, or says what was cut and where the whole is."""
        if "cut" not in shown and "omitted" not in shown:
            assert shown["fields"] == members
        else:
            assert len(json.dumps(members)) > MAX_RESULT_BYTES // 10

    def fates(self, taken: dict[str, Any]) -> tuple[set[str], set[str], set[str]]:
        """Return the entries of a lease that are still its own, not pending any more, and another's."""
        name, group, consumer = taken["place"]
        if self.world.missing(name, group) is not None:
            return set(), set(), set()
        pending = self.world.streams[name].groups[group].pending
        already = {one for one in taken["attempts"] if one not in pending}
        own = {
            one
            for one, attempt in taken["attempts"].items()
            if one not in already and (pending[one].owner, pending[one].attempt) == (consumer, attempt)
        }
        return own, already, set(taken["attempts"]) - own - already

    def forget_what_has_no_content(self, name: str, group: str) -> None:
        """Entries that were deleted from the stream leave the pending list when somebody meets them."""
        listed = {row[0].decode() for row in self.server.command("XPENDING", name, group, "-", "+", 1_000)}
        stream = self.world.streams[name]
        pending = stream.groups[group].pending
        for one in [one for one in pending if one not in listed and one not in stream.entries]:
            del pending[one]

    def note_letters(self, name: str, group: str) -> set[str]:
        """Take over new dead letters, check what they say, and return which entries they were."""
        known = self.world.dead.setdefault((name, group), {})
        key = companion_key(name, Kind.DEAD, group)
        fresh: set[str] = set()
        for raw, flat in self.server.command("XRANGE", key, "-", "+"):
            if raw.decode() in known:
                continue
            letter = decode(list(zip(flat[::2], flat[1::2], strict=True)))
            assert letter.dead_letter is not None
            entry_id = letter.dead_letter["id"]
            held = self.world.streams[name].groups[group].pending.pop(entry_id)
            assert letter.members == self.world.streams[name].entries[entry_id]
            assert (letter.dead_letter["attempts"], letter.dead_letter["consumer"]) == (
                held.attempt,
                held.owner,
            )
            known[raw.decode()] = Letter(entry_id, letter.members, held.attempt)
            fresh.add(entry_id)
        return fresh


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("redis", 60),
        ("valkey", 20),
        pytest.param("redis", 300, marks=pytest.mark.soak),
        pytest.param("valkey", 100, marks=pytest.mark.soak),
    ],
)
def test_the_tools_do_what_the_model_says(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    server: Server = request.getfixturevalue(f"{kind}_server")
    server.flush()
    chosen = Settings(
        leases=LeasesSettings(max_deliveries=MAX_DELIVERIES),
        tools=ToolsSettings(max_result_bytes=MAX_RESULT_BYTES),
    )
    threads = BusThread(server, 1, chosen)
    try:
        toolbox = Toolbox(REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM], threads.buses[0])
        attributes = {"server": server, "threads": threads, "toolbox": toolbox}
        run_state_machine_as_test(
            type("Machine", (ToolsMachine,), attributes),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                database=None,
                # Shrinking and explaining repeat a failure very often, and each repetition talks to a server.
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        threads.close()
