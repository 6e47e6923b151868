"""A reply of another type or form is one error, wherever it is read, and never a defect."""

from __future__ import annotations

import re
import traceback
from typing import Any

import pytest

from redstreamd.errors import BusError, Code
from redstreamd.errors.defects import Defect
from redstreamd.redisio.unexpected_replies import UnexpectedReply
from redstreamd.streams.bus import Bus
from redstreamd.streams.plans import UnfinishedError
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import toolbox_over
from tests.support.buses import ON_REDIS
from tests.support.calls import ME, add, call

S, GROUP = {"stream": "s"}, {"stream": "s", "group": "g"}
WRONG: tuple[Any, ...] = (
    None,
    5,
    -1,
    1.5,
    True,
    b"",
    b"text",
    b"[[1]]",
    [],
    {},
    [None],
    [5],
    [b"1-1"],
    [[b"1-1", [b"a"]]],
    [[]],
    {b"a": 1},
    [b"1"] * 18,
    [[None]] * 18,
    [5] * 18,
    [5, 5, b"", b"", b"", [[1]], 5, 5, b"0-0", 5, 5, 5, 5, b"x", 5, 5, 5, b"c"],
)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "stream_read": S,
    "stream_add": S | {"entries": [{"n": 1}], "idempotency_key": "k"},
    "pending_list": GROUP,
    "group_create": GROUP,
    "work_take": GROUP | {"consumer": "c"},
    "work_done": {},
    "work_extend": {},
    "work_fail": {},
    "add_stream_message": S | {"message": {"n": 1}},
    "get_stream_messages": S,
    "create_consumer_group": GROUP,
    "read_group": GROUP | {"consumer": "c"},
    "list_groups": S,
}


def test_every_tool_with_a_plan_is_tried() -> None:
    assert ARGUMENTS.keys() == {tool.name for tool in REGISTRY if tool.plan is not None}


@ON_REDIS
@pytest.mark.parametrize("name", ARGUMENTS)
async def test_what_no_server_replies_is_one_error_and_reported(
    bus: Bus, name: str, defects: list[Defect]
) -> None:
    ids = await add(bus, 2)
    taken = await call(bus, "work_take", **GROUP, consumer="c", count=2)
    toolbox = toolbox_over(bus, REGISTRY, [Profile.OPERATOR, Profile.RED_STREAM])
    tool = REGISTRY.get(name)
    assert tool.plan is not None
    arguments = ARGUMENTS[name] or {"lease": taken["lease"], "entry_ids": ids[:1]}
    outcomes = set()
    for reply in WRONG:
        invocation = toolbox.begin(tool, arguments, ME)
        plan = tool.plan(invocation, invocation.arguments)
        assert plan is not None
        try:
            plan.read(reply)
        except UnfinishedError:
            outcomes.add("goes on")
        except UnexpectedReply as error:
            known = error.code is Code.CONNECTION_ERROR
            outcomes.add("as promised" if known == plan.retry_safe else "as not promised")
        except BusError as error:
            outcomes.add(error.code)
    assert "as promised" in outcomes
    assert "as not promised" not in outcomes
    told = {line for each in defects for line in traceback.format_exception(each.error)}
    assert any("/redstreamd/" in line for line in told)
    # Places in the code, and of the exception only its class.
    last = [line.strip() for line in told if not line.startswith(("  ", "Traceback"))]
    assert all(re.fullmatch(r"TypeError: \w+", line) for line in last), last
