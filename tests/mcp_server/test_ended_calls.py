"""What is told of each call that ended: the same on the direct path and on the SDK's way."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.admission.accounts import Peer
from redstreamd.policy import Policy, Principal
from redstreamd.policy.rules import Rule
from redstreamd.streams.bus import Bus
from redstreamd.tools.invocation import CallEnded
from tests.support.buses import ON_REDIS
from tests.support.calls import ME
from tests.support.two_ways import Surface, Way, running_way, surface_over

pytestmark = ON_REDIS

PEER = Peer(uid=4711, pid=815)
READER = Principal("reader", "unix")
RULES = [
    Rule.parse("me may read publish consume manage on *"),
    Rule.parse("reader may read on s"),
]


async def ended(surface: Surface, way: Way, tool: str, **arguments: Any) -> CallEnded:
    surface.ended.clear()
    await way.call(1, tool, **arguments)
    await way.answer()
    (event,) = surface.ended
    account = event.account
    assert account is not None
    assert (account.name, account.peer) == (way.connection.id, PEER)
    assert event.seconds >= 0
    return event


@pytest.mark.parametrize("direct", [True, False])
async def test_each_call_tells_who_made_it_on_what_and_what_it_removed(bus: Bus, direct: bool) -> None:
    surface = surface_over(bus)
    async with running_way(surface, direct=direct, peer=PEER) as way:
        added = await ended(surface, way, "stream_add", stream="s", entries=[{"n": 1}])
        assert (added.principal, added.streams, added.group, added.action) == (ME, ("s",), None, None)
        assert added.answer_bytes > 0
        trimmed = await ended(surface, way, "stream_add", stream="s", entries=[{"n": 1}], max_length=5)
        assert trimmed.action == "max_length=5"
        # A wait that begins without its arguments, and one that is answered at once.
        for seconds in (0.01, 0):
            taken = await ended(
                surface, way, "work_take", stream="s", group="g", consumer="c", timeout_seconds=seconds
            )
            assert (taken.streams, taken.group, taken.action) == (("s",), "g", None)
        moved = {"stream": "s", "group": "g", "action": "set_position", "start": "latest"}
        assert (await ended(surface, way, "group_manage", **moved)).action is None
        done = await ended(surface, way, "group_manage", **moved, dry_run=False)
        assert (done.outcome, done.group, done.action) == ("ok", "g", "set_position")
        removed = await ended(
            surface, way, "stream_manage", stream="s", action="delete", dry_run=False, force=True
        )
        assert (removed.outcome, removed.action) == ("ok", "delete force")
        refused = await ended(surface, way, "stream_manage", stream="s", action="explode")
        assert (refused.outcome, refused.streams, refused.action) == ("INVALID_ARGUMENT", (), None)


@pytest.mark.parametrize("direct", [True, False])
async def test_the_group_of_a_lease_is_told(bus: Bus, direct: bool) -> None:
    surface = surface_over(bus)
    async with running_way(surface, direct=direct, peer=PEER) as way:
        await ended(surface, way, "stream_add", stream="s", entries=[{"n": 1}])
        await way.call(2, "work_take", stream="s", group="g", consumer="c", start="earliest")
        lease = (await way.answer())["result"]["structuredContent"]["lease"]
        done = await ended(surface, way, "work_done", lease=lease, delete=True)
        assert (done.streams, done.group, done.action) == (("s",), "g", "delete")


@pytest.mark.parametrize("direct", [True, False])
async def test_what_the_policy_refuses_is_told_also_where_the_tool_is_hidden(bus: Bus, direct: bool) -> None:
    surface = surface_over(bus, policy=Policy(RULES))
    async with running_way(surface, direct=direct, peer=PEER, principal=READER) as way:
        denied = await ended(surface, way, "stream_read", stream="other")
        assert (denied.principal, denied.outcome, denied.tool) == (READER, "PERMISSION_DENIED", "stream_read")
        assert denied.streams == ("other",)
        hidden = await ended(surface, way, "stream_manage", stream="s", action="delete")
        assert (hidden.outcome, hidden.tool) == ("PERMISSION_DENIED", "stream_manage")
