"""The tools of the original Red-Stream server answer as they did, within what one message can hold."""

from __future__ import annotations

import pytest

from redstreamd.settings import LimitsSettings, Settings
from redstreamd.streams.bus import Bus
from tests.support.calls import refusal, texts
from tests.support.servers import Server


async def test_messages_are_added_read_and_taken_as_before(bus: Bus) -> None:
    message = {"type": "login", "user": {"id": 7}}
    first = await texts(bus, "add_stream_message", stream="auth-service-events", message=message)
    stream = {"stream": "auth-service-events"}
    assert await texts(bus, "get_stream_messages", **stream) == [first | {"message": message}]
    assert await texts(bus, "get_stream_messages", **stream, start="+") == []
    group = {**stream, "group": "g"}
    assert await texts(bus, "create_consumer_group", **group) == {"success": True}
    again = await texts(bus, "create_consumer_group", **group, start="0")
    assert again["success"] is True
    assert "exists" in again["note"]
    # The group was made for what comes after it.
    assert await texts(bus, "read_group", **group, consumer="c") == []
    second = await texts(bus, "add_stream_message", **stream, message={"n": 2})
    assert await texts(bus, "read_group", **group, consumer="c") == [second | {"message": {"n": 2}}]
    (listed,) = await texts(bus, "list_groups", **stream)
    assert listed == {"name": "g", "consumers": 1, "pending": 1, "lastDeliveredId": second["id"]}
    assert await texts(bus, "list_streams", pattern="auth*") == {"streams": [stream["stream"]]}


@pytest.mark.settings(Settings(limits=LimitsSettings(max_message_bytes=65_536)))
async def test_of_large_messages_as_many_come_as_one_answer_can_hold(bus: Bus, server: Server) -> None:
    server.commands(*[("XADD", "s", f"{n}-1", "f", "v" * 10_000) for n in range(1, 11)])
    first = await texts(bus, "get_stream_messages", stream="s", count=1_000)
    assert [line["id"] for line in first] == ["1-1", "2-1", "3-1", "4-1"]
    # Only entries in the answer are delivered: the next call continues after them.
    server.command("XGROUP", "CREATE", "s", "g", "0")
    for ids in (["1-1", "2-1", "3-1", "4-1"], ["5-1", "6-1", "7-1", "8-1"], ["9-1", "10-1"], []):
        taken = await texts(bus, "read_group", stream="s", group="g", consumer="c", count=1_000)
        assert [line["id"] for line in taken] == ids
    assert server.command("XPENDING", "s", "g")[0] == 10


async def test_what_does_not_fit_is_refused_with_a_code_of_the_original(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "*", "f", "v")
    for tool, arguments, code in [
        ("get_stream_messages", {}, "STREAM_NOT_FOUND"),
        ("list_groups", {}, "STREAM_NOT_FOUND"),
        ("read_group", {"group": "g", "consumer": "c"}, "STREAM_NOT_FOUND"),
        ("read_group", {"stream": "s", "group": "g", "consumer": "c"}, "GROUP_NOT_FOUND"),
        ("create_consumer_group", {"group": "g", "start": "now"}, "INVALID_START"),
    ]:
        refused = await refusal(bus, tool, **{"stream": "absent"} | arguments)
        assert refused["code"] == code


@pytest.mark.settings(Settings(limits=LimitsSettings(max_message_bytes=65_536)))
async def test_more_names_than_an_answer_holds_are_refused_with_a_way_on(bus: Bus, server: Server) -> None:
    server.commands(*[("XADD", f"{n:03}" + "n" * 500, "*", "f", "v") for n in range(100)])
    error = await refusal(bus, "list_streams")
    assert error["code"] == "TOO_LARGE"
    assert "pattern" in error["next_step"]
    assert len((await texts(bus, "list_streams", pattern="00*"))["streams"]) == 10
