"""Tools that change nothing: reading, waiting, listing, diagnosing.

They are one rule together, or little else would happen in a run.
"""

from __future__ import annotations

import sys

from hypothesis import strategies as st
from hypothesis.stateful import rule

from redstreamd.streams.diagnosis.shape import MOST_COUNTED
from redstreamd.tools.catalog import REGISTRY
from tests.model.choices import COUNTS, GROUPS, NAMES, NO_STREAM, STREAMS
from tests.model.reading import FILTERS, Reading
from tests.model.world import Stream

LOOKS = st.sampled_from(
    [
        *("read", "read", "wait", "follow", "follow", "old read"),
        *("list", "wrong", "pending", "health", "health", "old groups"),
    ]
)
#: What a tool needs beside a stream.
NEEDED = {
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
        self.follow(3)
        self.wait_for_what_comes_next(NAMES)
        for name in NAMES:
            self.list_groups(name)
            self.diagnose(name)
            self.read_all_pages(name, False, 3)
            self.get_stream_messages(name, 3)
            for group in self.world.streams.get(name, Stream()).groups:
                self.list_pending(name, group)

    @rule(look=LOOKS, name=STREAMS, group=GROUPS, count=COUNTS, backward=st.booleans(), data=st.data())
    def look(self, look: str, name: str, group: str, count: int, backward: bool, data: st.DataObject) -> None:
        if look == "read":
            self.read_a_part(name, backward, count, data)
        elif look == "wait":
            self.wait_for_what_comes_next([name])
            self.wait_from_the_beginning(name, count, data.draw(FILTERS))
        elif look == "follow":
            self.follow(count, data.draw(FILTERS))
        elif look == "old read":
            self.get_stream_messages(name, count)
        elif look == "list":
            self.list_streams()
        elif look == "wrong":
            self.a_key_that_is_no_stream(data.draw(st.sampled_from(sorted(NEEDED))))
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
            assert line["dead_letters"] == len(self.world.dead.get((name, group), {}))
            unread = len(stream.unread(group))
            low, high = line.get("lag_between", (line["lag"], line["lag"]))
            assert low <= unread <= high
            assert "lag_between" not in line or unread >= MOST_COUNTED
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
