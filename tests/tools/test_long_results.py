"""A long result is made in parts: the same bytes, and nobody waits for the whole of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.redisio.unexpected_replies import UnexpectedReply
from redstreamd.streams.bus import Bus
from redstreamd.streams.long_lists import FEW
from redstreamd.streams.plans import Plan, UnfinishedError
from redstreamd.tools.long_results import PART_BYTES, list_in_parts, member_in_parts
from redstreamd.tools.results import success
from tests.support.buses import ON_REDIS
from tests.support.longest_step import longest_step, unit_seconds
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.two_ways import call_line, running_way, surface_over

_REVISION = "2025-06-18"
_LISTS: dict[str, list[Any]] = {
    "nothing": [],
    "a few": [{"a": 1}, {"b": [None, "ä"]}],
    "many": [{"name": f'group "{number}"', "n": number} for number in range(3_000)],
    "hidden characters": [f"a\x7f\u202e\U000e0041{number}\n" for number in range(3_000)],
    "one that is larger than a part": ["x", "漢\u200b" * PART_BYTES, "\x7f" * PART_BYTES, "y"],
}


@pytest.mark.parametrize("kind", _LISTS)
async def test_a_result_made_in_parts_is_that_of_the_whole(kind: str) -> None:
    items = _LISTS[kind]
    assert await list_in_parts(iter(items)) == success(items)
    assert await member_in_parts("the items", items) == success({"the items": items})


@pytest.mark.parametrize("groups", [3, FEW + 1])
async def test_groups_in_a_form_that_none_have_are_told_as_that_however_many(bus: Bus, groups: int) -> None:
    group: Any = {b"name": b"g", b"consumers": 0, b"pending": 0, b"last-delivered-id": b"0-0"}
    plan = bus.direct.plan_groups("s")
    assert len(await _read(plan, [group] * groups)) == groups
    with pytest.raises(UnexpectedReply):
        await _read(plan, [group] * (groups - 1) + [7])


async def _read(plan: Plan[list[GroupInfo]], reply: Any) -> list[GroupInfo]:
    try:
        return plan.read(reply)
    except UnfinishedError as rest:
        found: list[GroupInfo] = await rest.go_on()
        return found


_SCRIPTS = (
    "for i = 1, 60000 do redis.call('XADD', 'team:' .. (i % 97) .. ':s' .. i, '1-1', 'a', 'b') end",
    "for i = 1, 10000 do redis.call('XGROUP', 'CREATE', 'grouped', 'group:' .. i, 0, 'MKSTREAM') end",
    """
    redis.call('XGROUP', 'CREATE', 'long', 'g', 0, 'MKSTREAM')
    for i = 1, 1000 do redis.call('XADD', 'long', '*', 'n', i, 'text', string.rep('\\195\\164', 450)) end
    """,
    """
    local pairs = {}
    for i = 1, 2000 do pairs[2 * i - 1] = 'f' .. i pairs[2 * i] = i end
    for i = 1, 20 do redis.call('XADD', 'wide', '*', unpack(pairs)) end
    """,
)


def _fill(server: Server) -> None:
    for script in _SCRIPTS:
        reply = server.command("EVAL", script, 0)
        assert reply is None, reply


#: The argument by which a tool finds nothing.
_EMPTY = dict.fromkeys(("list_groups", "get_stream_messages", "read_group"), "stream") | {
    "list_streams": "pattern"
}
_CALLS: dict[str, dict[str, Any]] = {
    "list_streams": {},
    "list_groups": {"stream": "grouped"},
    "get_stream_messages": {"stream": "long", "count": 1_000},
    "read_group": {"stream": "long", "group": "g", "consumer": "c", "count": 1_000},
    "get_stream_messages of many fields": {"stream": "wide", "count": 1_000},
}


@ON_REDIS
@pytest.mark.limit(90)
async def test_no_answer_of_the_original_tools_is_made_in_one_step(bus: Bus, server: Server) -> None:
    # In a thread: the connections of the bus must not wait for it.
    await trio.to_thread.run_sync(_fill, server)
    steps = {}
    async with running_way(surface_over(bus), direct=True, revision=_REVISION) as way:
        for kind, arguments in _CALLS.items():
            tool = kind.partition(" ")[0]
            # The first call compiles what is compiled once.
            await way.talk(
                call_line(_REVISION, 0, tool, {"pattern": "x"} if not arguments else {"stream": "s"})
            )
            with longest_step(but=("test_no_answer",)) as step:
                (answer,) = await way.talk(call_line(_REVISION, 1, tool, arguments))
            result = json.loads(answer)["result"]
            assert not result["isError"]
            assert len(answer) > 300_000
            steps[kind] = step.seconds / unit_seconds()
    # They take 5 to 9 units, and in one step took 45 to 75.
    with measured:
        assert max(steps.values()) < 25, steps
