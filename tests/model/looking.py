"""Tools that change nothing: reading, waiting, listing, diagnosing. Each example ends with all of them."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from redstreamd.streams.bounds import DEFAULT_BOUNDS
from redstreamd.tools.catalog import REGISTRY
from tests.model.choices import COUNTS, GROUPS, NAMES, NO_STREAM, STREAMS
from tests.model.reading import Reading
from tests.model.world import Stream

LOOKS = st.sampled_from(["list", "wrong", "pending", "health", "health", "old groups", "old read"])
FILTERS = st.none() | st.sampled_from(
    [
        {"n": 1},
        {"n": 1, "at": 0},
        {"at": 1},
        {"text": "Grüße", "list": [1, None, {"x": 0.5}]},
        {"n": "1"},
        {"n": True},
        {"absent": None},
        {},
    ]
)
#: Positions that are no entry IDs; those of entries are drawn from the model.
WORDS = ["earliest", "latest"]
#: What a tool needs beside a stream.
NEEDED: dict[str, dict[str, Any]] = {
    "stream_read": {},
    "stream_health": {},
    "stream_add": {"entries": [{"n": 1}]},
    "work_take": {"group": "g", "consumer": "a"},
    "request_reply": {"entry": {"n": 1}, "timeout_seconds": 0},
}


class Looking(Reading):
    """Tools without side effects."""

    def teardown(self) -> None:
        # After a failure the two differ anyway, and a second failure would hide the first.
        if sys.exception() is None:
            self.look_at_everything()

    def look_at_everything(self) -> None:
        self.list_streams()
        self.wait_for_what_comes_next(NAMES)
        for wanted in ({"n": 1}, None):
            self.follow(3, wanted)
        for name in NAMES:
            stream = self.world.streams.get(name, Stream())
            self.list_groups(name)
            self.diagnose(name)
            self.get_stream_messages(name, 3)
            for wanted in ({"n": 1}, None):
                self.read_all_pages(name, wanted is None, 3, filter=wanted)
                self.wait_from_the_beginning(name, 3, wanted)
            ids = [*stream.entries, stream.last_id]
            self.read_all_pages(name, False, 3, start=ids[len(ids) // 4], end=ids[3 * len(ids) // 4])
            for group in stream.groups:
                self.list_pending(name, group)

    @rule(name=STREAMS, backward=st.booleans(), count=COUNTS, wanted=FILTERS, data=st.data())
    def read(
        self, name: str, backward: bool, count: int, wanted: dict[str, Any] | None, data: st.DataObject
    ) -> None:
        ids = [one for stream in self.world.streams.values() for one in stream.entries]
        # Without its second part an ID stands for a whole millisecond.
        positions = st.none() | st.sampled_from([*WORDS, *ids, *(one.split("-")[0] for one in ids)])
        start, end = data.draw(positions), data.draw(positions)
        self.read_all_pages(name, backward, count, start=start, end=end, filter=wanted)

    @rule(name=STREAMS, count=COUNTS, wanted=FILTERS)
    def wait(self, name: str, count: int, wanted: dict[str, Any] | None) -> None:
        self.wait_for_what_comes_next([name])
        self.wait_from_the_beginning(name, count, wanted)

    @rule(count=COUNTS, wanted=FILTERS)
    def follow_both(self, count: int, wanted: dict[str, Any] | None) -> None:
        self.follow(count, wanted)

    @rule(look=LOOKS, name=STREAMS, group=GROUPS, count=COUNTS, tool=st.sampled_from(sorted(NEEDED)))
    def look(self, look: str, name: str, group: str, count: int, tool: str) -> None:
        if look == "old read":
            self.get_stream_messages(name, count)
        elif look == "list":
            self.list_streams()
        elif look == "wrong":
            self.a_key_that_is_no_stream(tool)
        elif look == "pending":
            self.list_pending(name, group)
        elif look == "health":
            self.diagnose(name)
        else:
            self.list_groups(name)

    def list_streams(self) -> None:
        listed = self.call("stream_list")
        assert [(line["stream"], line["length"], line["groups"]) for line in listed["streams"]] == [
            (name, len(stream.entries), len(stream.groups))
            for name, stream in sorted(self.world.streams.items())
        ]
        assert self.texts("list_streams") == {"streams": sorted(self.world.streams)}

    def a_key_that_is_no_stream(self, tool: str) -> None:
        self.expect("WRONG_TYPE", tool, stream=NO_STREAM, **NEEDED[tool])

    def list_pending(self, name: str, group: str) -> None:
        told = self.expect(
            self.world.missing(name, group), "pending_list", stream=name, group=group, count=100
        )
        if told is None:
            return
        pending = self.world.group(name, group).pending
        assert told["pending"] == len(pending)
        lines = {line["id"]: line for line in told["entries"]}
        assert told["has_more"] or lines.keys() == pending.keys()
        for one, line in lines.items():
            held = pending[one]
            assert (line["consumer"], line["deliveries"]) == (held.owner, held.attempt)
            assert ("lease_expires" in line) is (held.leased and held.held)

    def diagnose(self, name: str) -> None:
        told = self.expect(self.world.missing(name), "stream_health", stream=name, detail="full")
        if told is None:
            return
        stream = self.world.streams[name]
        assert told["stream"]["length"] == len(stream.entries)
        assert told["stream"]["groups"] == len(stream.groups)
        dead = {finding["group"] for finding in told["findings"] if finding["code"] == "dead_letters"}
        for line in told["groups"]:
            group = line["group"]
            assert line["pending"] == len(stream.groups[group].pending)
            assert line["max_deliveries"] == stream.groups[group].max_deliveries
            assert line["dead_letters"] == len(self.world.dead.get((name, group), {}))
            unread = len(stream.unread(group))
            low, high = line.get("lag_between", (line["lag"], line["lag"]))
            assert low <= unread <= high
            assert "lag_between" not in line or unread >= DEFAULT_BOUNDS.lag_counted
            assert (group in dead) is bool(line["dead_letters"]) or "findings" in told["left_out"]
        for finding in told["findings"]:
            assert "next_call" not in finding or finding["next_call"]["tool"] in REGISTRY

    def list_groups(self, name: str) -> None:
        told = self.texts("list_groups", self.world.missing(name), stream=name)
        if told is not None:
            assert [(line["name"], line["pending"], line["lastDeliveredId"]) for line in told] == [
                (group, len(state.pending), state.position)
                for group, state in sorted(self.world.streams[name].groups.items())
            ]
