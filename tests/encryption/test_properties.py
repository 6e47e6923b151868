"""What goes in comes out, whatever the entries, the rules and the keys; and Redis sees no value of it.

Hypothesis lets agents publish, ask, answer, take, fail and replay through the tools, while an operator
changes the rules, makes keys, changes which one writes, takes keys away and brings them back. A model knows
what each entry holds and which key it needs. At the end all that Redis executed and wrote to its files is
searched for the values of the fields that were to be encrypted.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from redstreamd.encryption.encryption_rules import EncryptionRule
from redstreamd.settings import LeasesSettings, Settings, ToolsSettings
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import Toolbox, toolbox_over
from tests.encryption.marks import Marks, Monitor, files_of, open_redis
from tests.encryption.opened import members_in
from tests.encryption.rings import InForce, KeyDirectory
from tests.support.buses import BusThread
from tests.support.calls import ME, no_progress
from tests.support.counts import counts
from tests.support.json_values import json_objects, json_text, text
from tests.support.servers import Server

NAMES = ["shop:orders:paid", "shop:orders:{7}", "täglich {x}", "open"]
STREAMS = st.sampled_from(NAMES)
GROUP = {"group": "g", "consumer": "c"}
#: Names that a rule may leave clear; others are any text.
CLEAR_NAMES = ["n", "kind", "größe", "_rs.v"]
PATTERNS = st.sampled_from(["*", "shop:*", "*:paid", "täglich*"])


#: To draw any JSON costs more than all that is done with it here; see the other property.
VALUES = st.sampled_from(
    [
        *("", "a", "null", "0", "[]", "ß\0\U0010fffd", "x" * 3_000, 0, -1, 7, (1 << 53) - 1, 0.1, -1.5e300),
        *(True, False, None, [], {}, [1, [2, {"a": None}]], {"_rs.v": "1", "ä": [""]}, ["_rs.enc 1"]),
    ]
)
ENTRIES = st.dictionaries(
    st.sampled_from([*CLEAR_NAMES, "", "_rs.=", "_rs.enc", "b", "c"]), VALUES, max_size=5
)


@st.composite
def rules(draw: st.DrawFn) -> tuple[str, ...]:
    """Return any rules, as the settings hold them."""
    made = []
    for _ in range(draw(st.sampled_from([0, 1, 2, 2, 3, 3]))):
        pattern = draw(PATTERNS)
        if draw(st.integers(0, 4)) == 0:
            made.append(f"{pattern} are clear")
            continue
        names = draw(st.lists(st.sampled_from(CLEAR_NAMES), unique=True))
        hidden = " with names" if draw(st.booleans()) else ""
        excepted = " ".join([" except", *names]) if names else ""
        made.append(f"{pattern} are encrypted{hidden}{excepted}")
    return tuple(made)


@attrs.frozen
class Written:
    """An entry: its members, the key that it was written with, and the names of what stayed clear."""

    members: dict[str, Any]
    key: str | None = None
    clear: frozenset[str] = frozenset()


class EncryptionMachine(RuleBasedStateMachine):
    """Four streams, a group on each, and a ring of keys."""

    server: Server
    threads: BusThread
    toolbox: Toolbox[Any]
    directory: Path
    secret: Marks
    #: What was seen of each thing that must happen now and then.
    seen: defaultdict[str, int]
    errors: list[str]
    _runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.server.flush()
        EncryptionMachine._runs += 1
        self.ring = KeyDirectory(self.directory / f"ring-{EncryptionMachine._runs}", "first")
        self.writing = "first"
        self.rules: tuple[str, ...] = ()
        self.away: set[str] = set()
        self.entries: defaultdict[str, dict[str, Written]] = defaultdict(dict)
        self.reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.dead: set[tuple[str, str]] = set()
        self.questions = 0

    # What an operator does

    @initialize(chosen=rules(), data=st.data())
    def begin(self, chosen: tuple[str, ...], data: st.DataObject) -> None:
        """Each run has entries of two keys, and dead letters."""
        self.change_rules(chosen)
        for number in range(2):
            for stream in NAMES:
                self.add(stream, 1, False, data)
            self.change_key(number)
        self.fail(NAMES[0], "dead_letter", 10)

    @rule(chosen=rules())
    def change_rules(self, chosen: tuple[str, ...]) -> None:
        self.rules = chosen
        self.reload()

    @rule(number=st.integers(0, 3))
    def change_key(self, number: int) -> None:
        key_id = f"key-{number}"
        if key_id not in self.ring.known:
            self.ring.make(key_id)
        self.writing = key_id
        self.reload()

    @rule(data=st.data())
    def a_key_is_away(self, data: st.DataObject) -> None:
        """What needs it cannot be read, and everything else can; it is brought back."""
        others = sorted(self.ring.known.keys() - {self.writing})
        self.without_key(data.draw(st.sampled_from(others)))

    def without_key(self, key_id: str) -> None:
        self.ring.remove(key_id)
        self.away.add(key_id)
        self.reload()
        for stream in list(self.entries):
            self.read(stream)
        self.ring.put(key_id)
        self.away.clear()
        self.reload()

    def reload(self) -> None:
        chosen = InForce(self.ring, self.writing, *self.rules)
        for bus in self.threads.buses:
            self.threads.call(chosen.reload, bus)

    # What agents do

    @rule(stream=STREAMS, count=st.integers(1, 3), key=st.booleans(), data=st.data())
    def add(self, stream: str, count: int, key: bool, data: st.DataObject) -> None:
        written = [self.entry(stream, data) for _ in range(count)]
        arguments: dict[str, Any] = {"stream": stream, "entries": [each.members for each in written]}
        if key:
            arguments["idempotency_key"] = f"k{len(self.entries[stream])}"
        first = self.call("stream_add", **arguments)
        for entry_id, each in zip(first["ids"], written, strict=True):
            self.entries[stream][entry_id] = each
        if key:
            again = self.call("stream_add", **arguments)
            assert (again["ids"], again["duplicate"]) == (first["ids"], True)

    @rule(stream=STREAMS, data=st.data())
    def add_as_the_original_did(self, stream: str, data: st.DataObject) -> None:
        written = self.entry(stream, data)
        told = self.texts("add_stream_message", stream=stream, message=written.members)
        self.entries[stream][told["id"]] = written

    @rule(stream=STREAMS, data=st.data())
    def ask_and_answer(self, stream: str, data: st.DataObject) -> None:
        self.questions += 1
        asked, answer = self.entry(stream, data), self.entry(stream, data)
        question: dict[str, Any] = {"stream": stream, "entry": asked.members, "timeout_seconds": 0}
        question["correlation_id"] = f"q{self.questions}"
        told = self.call("request_reply", **question)
        self.entries[stream][told["request_id"]] = asked
        name = f"answerers {self.questions}"
        start = {"start": told["request_id"], "consumer": "c", "group": name}
        taken = self.call("work_take", stream=stream, **start)
        self.check(stream, taken["entries"])
        assert [entry["id"] for entry in taken["entries"]] == [told["request_id"]]
        done = self.call("work_done", lease=taken["lease"], reply=answer.members)
        found = self.call("request_reply", **question)
        assert found["reply"]["id"] == done["reply"]["id"]
        assert json_text(found["reply"]["fields"]) == json_text(answer.members)
        self.call("group_manage", stream=stream, group=name, action="destroy", dry_run=False)

    @rule(
        stream=STREAMS,
        action=st.sampled_from(["release", "dead_letter"]),
        length=st.sampled_from([0, 10, 200, 950]),
    )
    def fail(self, stream: str, action: str, length: int) -> None:
        taken = self.call("work_take", stream=stream, **GROUP, count=3)
        self.entries.setdefault(stream, {})
        self.check(stream, taken["entries"])
        if not taken["entries"]:
            return
        reason = self.reason(stream) + "ä" * length
        failed = self.call("work_fail", lease=taken["lease"], action=action, reason=reason)
        for entry in taken["entries"]:
            self.reasons[stream, entry["id"]].append(reason)
        for entry_id in failed["dead_lettered"]:
            self.dead.add((stream, entry_id))
            self.seen["dead letters"] += 1
        self.look_at_dead_letters(stream)

    @rule(stream=STREAMS)
    def replay(self, stream: str) -> None:
        if not any(place == stream for place, _ in self.dead):
            return
        place = {"stream": stream, "group": "g"}
        origin = {entry["id"]: entry["dead_letter"]["id"] for entry in self.look_at_dead_letters(stream)}
        told = self.call("dead_letter_replay", **place, action="replay", count=100, dry_run=False)
        for line in told["replayed"]:
            former = origin[line["id"]]
            self.dead.remove((stream, former))
            self.entries[stream][line["new_id"]] = self.entries[stream][former]
            self.seen["replayed"] += 1

    @rule(stream=STREAMS)
    def read(self, stream: str) -> None:
        found, cursor = [], {}
        if not self.entries[stream]:
            return
        while True:
            page = self.call("stream_read", stream=stream, count=100, **cursor)
            found += page["entries"]
            if not page["has_more"]:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert [entry["id"] for entry in found] == list(self.entries[stream])
        self.check(stream, found)

    @rule(stream=STREAMS)
    def read_in_other_ways(self, stream: str) -> None:
        if not self.entries[stream] or self.away:
            return
        waited = self.call("stream_wait", streams=[stream], cursor="0-0", count=100, timeout_seconds=0)
        self.check(stream, waited["entries"])
        told = self.texts("get_stream_messages", stream=stream, count=1_000)
        assert [each["id"] for each in told] == list(self.entries[stream])
        for each in told:
            assert json_text(each["message"]) == json_text(self.entries[stream][each["id"]].members)

    def teardown(self) -> None:
        # After a failure a second one would hide the first.
        if sys.exception() is None:
            self.without_key("first")
            for stream in NAMES:
                self.replay(stream)
                self.read(stream)
                self.read_in_other_ways(stream)
        super().teardown()

    # The model

    def rule_for(self, stream: str) -> EncryptionRule | None:
        for text_of in self.rules:
            found = EncryptionRule.parse(text_of)
            (pattern,) = found.streams
            begin, _, end = pattern.partition("*")
            if stream.startswith(begin) and stream.endswith(end):
                return found if found.is_encrypted else None
        return None

    def entry(self, stream: str, data: st.DataObject) -> Written:
        """Return any entry, with a mark in each value that is to be encrypted."""
        found = self.rule_for(stream)
        drawn = data.draw(ENTRIES)
        if found is None:
            return Written(drawn)
        members = {
            name: value if name in found.clear else self.marked(value) for name, value in drawn.items()
        }
        if found.hide_names:
            members[self.secret.text()] = None
        self.seen["encrypted"] += 1
        return Written(members, self.writing, found.clear)

    def marked(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, str):
            return self.secret.text() + value
        if isinstance(value, int):
            return self.secret.number()
        return [value, self.secret.text()] if isinstance(value, list) else {**value, "": self.secret.text()}

    def reason(self, stream: str) -> str:
        return "because " if self.rule_for(stream) is None else self.secret.text()

    def check(self, stream: str, shown: list[dict[str, Any]]) -> None:
        """Each entry shows what was written, or says which key it lacks, and shows what is clear."""
        for entry in shown:
            written = self.entries[stream][entry["id"]]
            self.check_one(entry, written)

    def check_one(self, entry: dict[str, Any], written: Written) -> None:
        members = written.members
        if written.key in self.away:
            assert entry["unreadable"]["key"] == written.key
            assert entry["unreadable"]["cause"]
            assert entry["unreadable"]["next_step"]
            members = {name: value for name, value in members.items() if name in written.clear}
            self.seen["unreadable"] += 1
        else:
            assert "unreadable" not in entry
        assert json_text(entry["fields"]) == json_text(members)

    def look_at_dead_letters(self, stream: str) -> list[dict[str, Any]]:
        told = self.call("dead_letter_replay", stream=stream, group="g", count=100)
        assert {entry["dead_letter"]["id"] for entry in told["entries"]} == {
            entry_id for place, entry_id in self.dead if place == stream
        }
        for entry in told["entries"]:
            note = entry["dead_letter"]
            self.check_one(entry, self.entries[stream][note["id"]])
            reasons = self.reasons[stream, note["id"]]
            assert reasons[-1].startswith(note["reason"][:10])
            assert note["reason"] == reasons[-1]
            for delivery, reason in zip(note.get("history", []), reasons, strict=False):
                # What is kept of an earlier one is shorter.
                assert reason.startswith(delivery["reason"])
                assert len(delivery["reason"].encode()) >= min(len(reason.encode()), 60)
        entries: list[dict[str, Any]] = told["entries"]
        return entries

    # Calls

    def answer(self, tool: str, **arguments: Any) -> dict[str, Any]:
        found = self.toolbox.find(tool, ME)
        given = json.loads(json.dumps(arguments))
        result = self.threads.call(partial(self.toolbox.call, found, given, ME, no_progress))
        whole: dict[str, Any] = json.loads(result.opened + b"}")
        assert not whole["isError"], whole["content"]
        return whole

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        content: dict[str, Any] = self.answer(tool, **arguments)["structuredContent"]
        return content

    def texts(self, tool: str, **arguments: Any) -> Any:
        return json.loads(self.answer(tool, **arguments)["content"][0]["text"])


@pytest.fixture(scope="module")
def seen_redis() -> Iterator[tuple[Server, Monitor]]:
    """A Redis of this module, whose commands are seen."""
    with open_redis() as (server, monitor):
        yield server, monitor


@pytest.mark.parametrize("examples", counts(12, ci=75, full=1_000))
def test_what_goes_in_comes_out_and_redis_sees_no_value(
    seen_redis: tuple[Server, Monitor], tmp_path: Path, examples: int
) -> None:
    server, monitor = seen_redis
    secret, seen = Marks(), defaultdict[str, int](int)
    chosen = Settings(
        tools=ToolsSettings(max_result_bytes=1 << 20),
        leases=LeasesSettings(max_deliveries=0),
    )
    threads = BusThread(server, 1, chosen)
    try:
        toolbox = toolbox_over(threads.buses[0], REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM])
        attributes = {"server": server, "threads": threads, "toolbox": toolbox, "secret": secret}
        attributes |= {"directory": tmp_path, "seen": seen}
        # It is no test unless each of these happened: more examples, until they have.
        while min(seen[what] for what in ("encrypted", "unreadable", "dead letters", "replayed")) == 0:
            run_state_machine_as_test(
                type("Machine", (EncryptionMachine,), attributes),
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=25,
                    deadline=None,
                    database=None,
                    phases=[Phase.explicit, Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
            examples *= 2
    finally:
        threads.close()
    assert not secret.found_in(monitor.shown())
    assert not secret.found_in(files_of(server))


@pytest.mark.parametrize("examples", counts(60, ci=150, full=2_000))
@pytest.mark.limit(120)
def test_any_object_comes_out_as_it_went_in(redis: Server, tmp_path: Path, examples: int) -> None:
    keys = KeyDirectory(tmp_path / "keys", "k1")
    rules = ("open:* are encrypted except n", "hidden:* are encrypted with names except n _rs.v")
    threads = BusThread(redis, 1, encryption=InForce(keys, "k1", *rules).encryption)
    toolbox = toolbox_over(threads.buses[0], REGISTRY, [Profile.OPERATOR])

    def call(name: str, **arguments: Any) -> Any:
        found = toolbox.find(name, ME)
        result = threads.call(partial(toolbox.call, found, arguments, ME, no_progress))
        whole = json.loads(result.opened + b"}")
        assert not whole["isError"], whole["content"]
        return whole["structuredContent"]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        stream=st.sampled_from(["open:s", "hidden:s"]),
        members=json_objects() | st.dictionaries(text(), text()),
    )
    def check(stream: str, members: dict[str, Any]) -> None:
        ids = call("stream_add", stream=stream, entries=[members, {"n": 1, **members}])["ids"]
        read = call("stream_read", stream=stream, start=ids[0])
        assert [entry["id"] for entry in read["entries"]] == ids
        for entry, wanted in zip(read["entries"], [members, {"n": 1, **members}], strict=True):
            assert "unreadable" not in entry
            assert json_text(entry["fields"]) == json_text(wanted)
            (_, flat), *_ = redis.command("XRANGE", stream, entry["id"], entry["id"])
            assert json_text(members_in(stream, flat, keys)) == json_text(wanted)

    try:
        check()
    finally:
        threads.close()
