"""What work_done, work_extend and work_fail say of a lease whose consumer an operator removed."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.streams.bus import Bus
from tests.support.calls import answer, call
from tests.support.servers import Server
from tests.tools.test_work_beside_others import TOOLS, said_of

GROUP = {"stream": "s", "group": "g"}

#: What becomes of the entries, in order, and what all tools say of the old lease then: the member of the
#: result that names the entries, or the code of the error and what its message says.
AFTERWARDS: dict[str, tuple[tuple[str, ...], str]] = {
    "released": (("release a",), "LEASE_LOST another attempt owns"),
    "released and taken": (("release a", "take b"), "LEASE_LOST another attempt owns"),
    "released and taken by a consumer of the same name": (
        ("release a", "take a"),
        "LEASE_LOST another attempt owns",
    ),
    "released, taken and finished": (("release a", "take b", "finish"), "already_done"),
    "handed over": (("hand_over a",), "LEASE_LOST another attempt owns"),
    "handed over and resumed": (("hand_over a", "resume b"), "LEASE_LOST another attempt owns"),
    "handed over, resumed and finished": (("hand_over a", "resume b", "finish"), "already_done"),
    "handed over, and lost with the heir": (("hand_over a", "lose b"), "LEASE_LOST not pending any more"),
    "handed over, resumed, and lost with the heir": (("hand_over a", "resume b", "lose b"), "already_done"),
    "lost": (("lose a",), "LEASE_LOST not pending any more"),
    "lost, and the group set back": (("lose a", "set_back"), "LEASE_LOST not pending any more"),
    "lost, and delivered again": (("lose a", "set_back", "take b"), "LEASE_LOST another attempt owns"),
    "lost, delivered again and finished": (("lose a", "set_back", "take b", "finish"), "already_done"),
    # Nothing tells this from an acknowledgement.
    "lost, and the consumer takes other entries": (("lose a", "add", "take a"), "already_done"),
    "given back and lost": (("give_back", "lose a"), "already_done"),
}


class Operator:
    """Does what the cases name; what it takes is settled by what follows."""

    def __init__(self, bus: Bus, lease: str, first: str) -> None:
        self.bus = bus
        self.lease = lease
        self.first = first

    async def do(self, what: str) -> None:
        action, _, consumer = what.partition(" ")
        if action in ("take", "resume"):
            more = {"resume": True} if action == "resume" else {}
            taken = await call(self.bus, "work_take", **GROUP, consumer=consumer, count=9, **more)
            self.lease = taken["lease"]
        elif action == "finish":
            await call(self.bus, "work_done", lease=self.lease)
        elif action == "give_back":
            await call(self.bus, "work_fail", lease=self.lease, delay_seconds=600)
        elif action == "add":
            await call(self.bus, "stream_add", stream="s", entries=[{"n": 0}])
        elif action == "set_back":
            how = {"action": "set_position", "start": self.first, "dry_run": False}
            await call(self.bus, "group_manage", **GROUP, **how)
        else:
            await remove(self.bus, consumer, action)


async def remove(bus: Bus, consumer: str, pending: str) -> None:
    heir = {"to_consumer": "b"} if pending == "hand_over" else {}
    how = {"action": "remove_consumer", "consumer": consumer, "pending": pending, "dry_run": False}
    await call(bus, "group_manage", **GROUP, **how, **heir)


async def lease_of(bus: Bus, count: int) -> dict[str, Any]:
    await call(bus, "stream_add", stream="s", entries=[{"n": n} for n in range(count)])
    taken = await call(bus, "work_take", **GROUP, consumer="a", count=count)
    assert len(taken["entries"]) == count
    # A further delivery within the same millisecond looks like the first.
    await trio.sleep(0.002)
    return taken


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("became", AFTERWARDS)
async def test_what_a_lease_of_a_removed_consumer_holds(
    bus: Bus, server: Server, became: str, part: bool
) -> None:
    steps, said = AFTERWARDS[became]
    code, _, message = said.partition(" ")
    for tool, arguments in TOOLS.items():
        server.flush()
        taken = await lease_of(bus, 3)
        ids = [entry["id"] for entry in taken["entries"]]
        operator = Operator(bus, taken["lease"], ids[0])
        for step in steps:
            await operator.do(step)
        before = server.command("XPENDING", "s", "g", "-", "+", 9)
        named = {"entry_ids": ids[1:]} if part else {}
        for _ in range(2):
            told = await answer(bus, tool.partition(" ")[0], **arguments, **named, lease=taken["lease"])
            content = told["structuredContent"]
            for one in ids[1:]:
                assert (tool, said_of(content, one)) == (tool, code), content
            assert message in content.get("message", "")
        after = server.command("XPENDING", "s", "g", "-", "+", 9)
        assert [line[:2] for line in after] == [line[:2] for line in before]


async def test_of_a_lease_finished_in_part_the_rest_is_lost(bus: Bus) -> None:
    taken = await lease_of(bus, 3)
    ids = [entry["id"] for entry in taken["entries"]]
    await call(bus, "work_done", lease=taken["lease"], entry_ids=ids[:1])
    await remove(bus, "a", "lose")
    for tool, arguments in TOOLS.items():
        told = await call(bus, tool.partition(" ")[0], **arguments, lease=taken["lease"])
        assert (tool, told["already_done"], told["lost"]) == (tool, ids[:1], ids[1:])


async def test_what_is_lost_is_told_from_what_another_attempt_owns(bus: Bus) -> None:
    taken = await lease_of(bus, 3)
    ids = [entry["id"] for entry in taken["entries"]]
    await remove(bus, "a", "lose")
    await Operator(bus, taken["lease"], ids[0]).do("set_back")
    await call(bus, "work_take", **GROUP, consumer="b", count=1)
    for tool, arguments in TOOLS.items():
        told = await answer(bus, tool.partition(" ")[0], **arguments, lease=taken["lease"])
        content = told["structuredContent"]
        assert (tool, content["code"]) == (tool, "LEASE_LOST")
        assert f"{ids[1]}, {ids[2]} are not pending any more" in content["message"]
        assert f"another attempt owns {ids[0]} now" in content["message"]
