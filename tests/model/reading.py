"""Reading and waiting: every entry is seen once, in order, whatever the range, the filter and the cursor."""

from __future__ import annotations

import json
from typing import Any

from redstreamd.streams.entry_ids import MAX_PART, ZERO
from tests.model.calling import Calling
from tests.model.choices import NAMES
from tests.model.world import Stream, order


class Reading(Calling):
    """stream_read and stream_wait, and what the original server had for reading.

    Attributes:
        cursor: Where somebody who follows both streams from the beginning is.
        followed: The same, as the model knows it.
    """

    def __init__(self) -> None:
        super().__init__()
        waited = self.call("stream_wait", streams=NAMES, timeout_seconds=0)
        assert set(waited["absent"]) == set(NAMES)
        self.cursor: str = waited["next_cursor"]
        self.followed = dict.fromkeys(NAMES, ZERO)

    def read_all_pages(self, name: str, backward: bool, count: int, **how: Any) -> None:
        """Read a stream page by page, from `start` to `end` and through a `filter` if these are given."""
        code = self.refusal_of(how.get("filter")) or self.world.missing(name)
        arguments: dict[str, Any] = {
            "stream": name,
            "count": count,
            "direction": "backward" if backward else "forward",
            **how,
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
            # What lies beyond need not pass the filter.
            assert page["entries"] or how.get("filter")
            arguments["cursor"] = page["next_cursor"]
            arguments.pop("start", None)
        low, high = how.get("start"), how.get("end")
        if backward:
            low, high = high, low
        stream = self.world.streams[name]
        expected = [
            one
            for one, members in stream.entries.items()
            if first(low) <= order(one) <= last(high) and passes(members, how.get("filter"))
        ]
        assert seen == (expected[::-1] if backward else expected)

    def wait_from_the_beginning(self, name: str, count: int, wanted: dict[str, Any] | None = None) -> None:
        seen, _ = self.wait_for_all([name], ZERO, count, wanted)
        if self.refusal_of(wanted):
            return
        assert seen[name] == self.following(name, ZERO, wanted)

    def follow(self, count: int, wanted: dict[str, Any] | None = None) -> None:
        """Take up what came since the last time; through a filter it is only looked at."""
        seen, cursor = self.wait_for_all(NAMES, self.cursor, count, wanted)
        if self.refusal_of(wanted):
            return
        assert seen == {name: self.following(name, self.followed[name], wanted) for name in NAMES}
        if wanted is None:
            self.cursor = cursor
            for name, ids in seen.items():
                self.followed[name] = [self.followed[name], *ids][-1]

    def wait_for_all(
        self, names: list[str], cursor: str, count: int, wanted: dict[str, Any] | None
    ) -> tuple[dict[str, list[str]], str]:
        """Wait again and again until nothing comes; return what came, and the last cursor."""
        seen: dict[str, list[str]] = {name: [] for name in names}
        while True:
            waited = self.expect(
                self.refusal_of(wanted),
                "stream_wait",
                streams=names,
                cursor=cursor,
                count=count,
                timeout_seconds=0,
                filter=wanted,
            )
            if waited is None:
                return seen, cursor
            assert len(waited["entries"]) <= count
            assert waited["timed_out"] is not bool(waited["entries"])
            cursor = waited["next_cursor"]
            for entry in waited["entries"]:
                self.check_shown(entry, self.world.streams[entry["stream"]].entries[entry["id"]])
                seen[entry["stream"]].append(entry["id"])
            if waited["timed_out"]:
                return seen, cursor

    def following(self, name: str, position: str, wanted: dict[str, Any] | None) -> list[str]:
        """Return the entries beyond a position that pass a filter."""
        entries = self.world.streams.get(name, Stream()).entries
        return [
            one
            for one, members in entries.items()
            if order(one) > order(position) and passes(members, wanted)
        ]

    def wait_for_what_comes_next(self, names: list[str]) -> None:
        """Without a cursor a wait begins now, and says which streams there are not."""
        waited = self.call("stream_wait", streams=names, timeout_seconds=0)
        assert waited["timed_out"] is True
        assert set(waited.get("absent", [])) == set(names) - self.world.streams.keys()

    def get_stream_messages(self, name: str, count: int) -> None:
        told = self.texts("get_stream_messages", self.world.missing(name), stream=name, count=count)
        if told is not None:
            stream = self.world.streams[name]
            expected = [{"id": one, "message": members} for one, members in stream.entries.items()]
            assert told == expected[:count]


def passes(members: dict[str, Any], wanted: dict[str, Any] | None) -> bool:
    """Whether an entry has these members. They are compared as JSON, in which 1 is neither true nor "1"."""
    return all(
        name in members and json.dumps(members[name], sort_keys=True) == json.dumps(value, sort_keys=True)
        for name, value in (wanted or {}).items()
    )


def first(position: str | None) -> tuple[int, int]:
    """Return the least ID from a position on."""
    if position is None or position == "earliest":
        return 0, 0
    if position == "latest":
        return MAX_PART + 1, 0
    return order(position if "-" in position else f"{position}-0")


def last(position: str | None) -> tuple[int, int]:
    """Return the greatest ID up to a position."""
    if position is None or position == "latest":
        return MAX_PART + 1, 0
    if position == "earliest":
        return -1, 0
    return order(position if "-" in position else f"{position}-{MAX_PART}")
