"""The naming rule at every tool that can create a stream, and only when it does."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.settings import Settings, StreamsSettings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from redstreamd.tools.catalog import REGISTRY
from tests.support.buses import ON_REDIS, running_bus
from tests.support.calls import ME, call, refusal, texts
from tests.support.servers import Server

ODD = "Orders"
CREATING: dict[str, dict[str, Any]] = {
    "stream_add": {"entries": [{"n": 1}]},
    "group_create": {"group": "g"},
    "work_take": {"group": "g", "consumer": "c"},
    "request_reply": {"entry": {"n": 1}, "timeout_seconds": 0},
}
WARNING = ["stream_add", "group_create", "work_take"]
OLD: dict[str, dict[str, Any]] = {
    "add_stream_message": {"message": {"n": 1}},
    "create_consumer_group": {"group": "g"},
}
EVERY = pytest.mark.parametrize("tool", [*CREATING, *OLD])


def naming(rule: Any) -> Settings:
    return Settings(streams=StreamsSettings(naming=rule))


@EVERY
@pytest.mark.settings(naming("error"))
async def test_where_the_rule_is_demanded_no_tool_creates_a_stream_against_it(
    bus: Bus, server: Server, tool: str
) -> None:
    arguments = {**CREATING, **OLD}[tool]
    refused = await refusal(bus, tool, stream=ODD, **arguments)
    assert refused["code"] == "INVALID_STREAM"
    assert "service:purpose:stream" in refused["cause"]
    assert server.command("DBSIZE") == 0
    # A stream that is there already is used under the name that it has.
    server.command("XADD", ODD, "1-1", "n", "1")
    await texts(bus, tool, stream=ODD, **arguments)
    await texts(bus, tool, stream="shop:orders:paid", **arguments)


@pytest.mark.parametrize("tool", ["stream_add", "request_reply"])
@ON_REDIS
@pytest.mark.settings(naming("error"))
async def test_who_asks_for_a_reply_names_a_stream_that_others_may_make(
    bus: Bus, server: Server, tool: str
) -> None:
    arguments = {"stream": "shop:orders:paid", **CREATING[tool]}
    for name in (ODD, companion_key("s", Kind.DEAD, "g"), "\x07"):
        refused = await refusal(bus, tool, **arguments, reply_to=name)
        assert refused["code"] == "INVALID_STREAM"
    assert server.command("DBSIZE") == 0
    server.command("XADD", ODD, "1-1", "n", "1")
    for name in (ODD, "shop:orders:answers", companion_key("s", Kind.REPLY, "me")):
        await call(bus, tool, **arguments, reply_to=name)


@pytest.mark.parametrize("tool", WARNING)
@pytest.mark.settings(naming("warn"))
async def test_a_name_against_the_rule_is_warned_of_when_the_stream_is_made(
    bus: Bus, server: Server, tool: str
) -> None:
    first = await call(bus, tool, stream=ODD, **CREATING[tool])
    assert "service:purpose:stream" in first["warning"]
    again = await call(bus, tool, stream=ODD, **CREATING[tool])
    other = await call(bus, tool, stream="shop:orders:paid", **CREATING[tool])
    assert "warning" not in again | other
    async with running_bus(server, naming("off")) as bus:
        assert "warning" not in await call(bus, tool, stream="Others", **CREATING[tool])


def test_no_other_tool_can_create_a_stream() -> None:
    writing = {tool.name for tool in REGISTRY if not tool.hints.read_only.value}
    on_what_is_there = {
        *("work_done", "work_fail", "work_extend", "read_group"),
        *("group_manage", "stream_manage", "dead_letter_replay", "quarantine_release"),
    }
    assert writing - on_what_is_there == {*CREATING, *OLD}


@EVERY
async def test_no_tool_adds_to_what_redstreamd_keeps_beside_a_stream(
    bus: Bus, server: Server, tool: str
) -> None:
    arguments = {**CREATING, **OLD}[tool]
    for kind in (Kind.DUE, Kind.DEAD):
        refused = await refusal(bus, tool, stream=companion_key("s", kind, "g"), **arguments)
        assert refused["code"] == "INVALID_STREAM"
    assert server.command("DBSIZE") == 0
    await texts(bus, tool, stream=companion_key("s", Kind.REPLY, ME.name), **arguments)
    # If it was created by hand, the error names the key beside the stream.
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    server.command("XADD", companion_key("s", Kind.DUE, "g"), "*", "n", "1")
    wrong = await refusal(bus, "work_take", stream="s", group="g", consumer="c")
    assert wrong["code"] == "WRONG_TYPE"
    assert "s:rs:..." in wrong["cause"]
