"""Tools that change nothing: reading, waiting, listing, diagnosing.

They are one rule together, or little else would happen in a run.
"""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from redstreamd.streams.diagnosis.shape import MOST_COUNTED
from redstreamd.tools.catalog import REGISTRY
from tests.model.calling import Calling
from tests.model.choices import COUNTS, GROUPS, NAMES, NO_STREAM, STREAMS
from tests.model.world import Stream

LOOKS = st.sampled_from(["read", "wait", "old read", "list", "wrong", "pending", "health", "old groups"])


class Looking(Calling):
    """Tools without side effects."""

    def teardown(self) -> None:
        # After a failure the two differ anyway, and a second failure would hide the first.
        if sys.exception() is None:
            self.look_at_everything()

    def look_at_everything(self) -> None:
        self.list_streams()
        for name in NAMES:
            self.list_groups(name)
            self.diagnose(name)
            self.read_all_pages(name, False, 3)
            self.wait_from_the_beginning([name], 3)
            self.get_stream_messages(name, 3)
            for group in self.world.streams.get(name, Stream()).groups:
                self.list_pending(name, group)

    @rule(look=LOOKS, name=STREAMS, group=GROUPS, count=COUNTS, backward=st.booleans(), data=st.data())
    def look(self, look: str, name: str, group: str, count: int, backward: bool, data: st.DataObject) -> None:
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
        self.expect("WRONG_TYPE", tool, stream=NO_STREAM, **more.get(tool, {}))

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
