"""Tools on a stream whose last entry has the greatest possible ID."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_ids import LAST
from tests.support.buses import ON_REDIS
from tests.support.calls import answer, call
from tests.support.servers import Server

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("stream_read", {}),
    ("stream_read", {"cursor": LAST}),
    ("stream_read", {"direction": "backward", "cursor": "0-0"}),
    ("stream_read", {"start": LAST, "direction": "backward"}),
    ("stream_health", {}),
    ("stream_health", {"group": "g"}),
    ("pending_list", {"group": "g", "cursor": LAST}),
    ("work_take", {"group": "g", "consumer": "c", "resume": True}),
    ("work_take", {"group": "h", "consumer": "c", "start": LAST}),
    ("group_manage", {"group": "g", "action": "destroy"}),
    ("group_manage", {"group": "g", "action": "set_position", "start": "earliest"}),
    ("stream_manage", {"action": "trim", "min_id": LAST}),
    ("stream_manage", {"action": "trim", "max_length": 0}),
    ("stream_manage", {"action": "delete_entries", "entry_ids": [LAST]}),
    ("stream_manage", {"action": "delete"}),
    ("dead_letter_replay", {"group": "g", "cursor": LAST}),
    ("get_stream_messages", {"start": LAST}),
    ("read_group", {"group": "g", "consumer": "d"}),
]


@pytest.mark.parametrize(("tool", "arguments"), CALLS, ids=[f"{tool} {how}" for tool, how in CALLS])
@ON_REDIS
async def test_beyond_the_greatest_id_lies_nothing(
    bus: Bus, server: Server, tool: str, arguments: dict[str, Any]
) -> None:
    server.command("XADD", "s", LAST, "a", "b")
    taken = await call(bus, "work_take", stream="s", group="g", consumer="c")
    assert [entry["id"] for entry in taken["entries"]] == [LAST]
    whole = await answer(bus, tool, stream="s", **arguments)
    assert not whole["isError"], whole["content"]
    refused = await answer(bus, "stream_add", stream="s", entries=[{"n": 1}])
    assert refused["structuredContent"]["code"] == "INVALID_STREAM"
