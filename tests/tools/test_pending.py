"""pending_list on real servers: who holds what, since when, and until when."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import trio

from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.settings import Settings
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.plans import run_plan
from tests.support.buses import KEY
from tests.support.calls import add, call, refusal
from tests.support.servers import Server

OTHER = Principal("other", "unix")
GROUP = {"stream": "s", "group": "g"}


async def pages(bus: Bus, **how: Any) -> list[dict[str, Any]]:
    """Follow next_cursor to the end."""
    found = [await call(bus, "pending_list", **GROUP, **how)]
    while found[-1]["has_more"]:
        found.append(await call(bus, "pending_list", **GROUP, **how, cursor=found[-1]["next_cursor"]))
    return found


def parsed(time: str) -> dt.datetime:
    return dt.datetime.fromisoformat(time)


async def test_each_entry_says_who_holds_it_and_until_when(bus: Bus, server: Server) -> None:
    ids = await add(bus, 4)
    leased = await call(bus, "work_take", **GROUP, consumer="a", lease_seconds=60)
    retried = await call(bus, "work_take", **GROUP, consumer="b")
    await call(bus, "work_fail", lease=retried["lease"], action="retry", delay_seconds=600)
    server.command("XREADGROUP", "GROUP", "g", "outsider", "COUNT", 1, "STREAMS", "s", ">")
    page = await call(bus, "pending_list", **GROUP)
    first, second, third = page["entries"]
    assert [line["id"] for line in page["entries"]] == ids[:3]
    assert [line["consumer"] for line in page["entries"]] == ["a", "b", "outsider"]
    assert [line["deliveries"] for line in page["entries"]] == [1, 1, 1]
    assert all(0 <= line["idle_seconds"] < 20 for line in page["entries"])
    assert first["lease_expires"] == leased["lease_expires"]
    assert "retry_at" not in first
    waits = parsed(second["retry_at"]) - parsed(second["time"])
    assert dt.timedelta(seconds=600) <= waits < dt.timedelta(seconds=620)
    assert "lease_expires" not in second
    assert "lease_expires" not in third
    assert "retry_at" not in third
    assert page["pending"] == 3
    assert page["has_more"] is False


@pytest.mark.parametrize("count", [1, 3, 10, 25])
async def test_pages_follow_one_another(bus: Bus, count: int) -> None:
    ids = await add(bus, 25)
    await call(bus, "work_take", **GROUP, consumer="a", count=100)
    found = await pages(bus, count=count)
    assert [line["id"] for page in found for line in page["entries"]] == ids
    assert len(found) == -(-25 // count)


@pytest.mark.bounds(Bounds(pending_scanned=7))
async def test_a_search_goes_on_where_its_bound_ended_it(bus: Bus, server: Server) -> None:
    ids = await add(bus, 25)
    await call(bus, "work_take", **GROUP, consumer="a", count=100)
    server.command("XCLAIM", "s", "g", "b", 0, ids[20])
    found = await pages(bus, min_deliveries=2)
    assert [page["entries"] != [] for page in found] == [False, False, True, False]
    (line,) = found[2]["entries"]
    assert (line["id"], line["consumer"], line["deliveries"]) == (ids[20], "b", 2)
    # Claimed around redstreamd: the old lease is not this attempt's.
    assert "lease_expires" not in line


async def test_the_filters_narrow_the_list(bus: Bus, server: Server) -> None:
    ids = await add(bus, 6)
    await call(bus, "work_take", **GROUP, consumer="a", count=3)
    await call(bus, "work_take", **GROUP, consumer="b", count=3)
    server.command("XCLAIM", "s", "g", "a", 0, ids[1], "IDLE", 100_000, "JUSTID")
    mine = await call(bus, "pending_list", **GROUP, consumer="b")
    idle = await call(bus, "pending_list", **GROUP, min_idle_seconds=99)
    nobody = await call(bus, "pending_list", **GROUP, consumer="c")
    assert [line["id"] for line in mine["entries"]] == ids[3:]
    assert [line["id"] for line in idle["entries"]] == [ids[1]]
    assert nobody["entries"] == []
    assert nobody["next_cursor"] == "0-0"
    assert nobody["pending"] == 6


async def test_a_consumer_is_the_callers_own_and_only_who_manages_sees_that_of_another(bus: Bus) -> None:
    ids = await add(bus, 4)
    await call(bus, "work_take", **GROUP, consumer="c")

    async def held(*, manages: bool) -> list[str]:
        page = await run_plan(
            bus.redis, bus.pending.plan_page(*GROUP.values(), OTHER, consumer="c", manages=manages)
        )
        return [item.entry.id for item in page.items]

    assert await held(manages=False) == []
    assert await held(manages=True) == ids[:1]
    await call(bus, "work_take", OTHER, **GROUP, consumer="c", count=2)
    assert await held(manages=False) == await held(manages=True) == ids[1:3]
    mine = await call(bus, "pending_list", **GROUP, consumer="c")
    assert [line["id"] for line in mine["entries"]] == ids[:1]
    named = await call(bus, "pending_list", **GROUP, consumer=f"_rs.of {OTHER.name} c")
    assert [line["id"] for line in named["entries"]] == ids[1:3]


@pytest.mark.settings(Settings())
async def test_long_lines_go_to_the_next_page(bus: Bus) -> None:
    ids = await add(bus, 100)
    await call(bus, "work_take", **GROUP, consumer="c" * 500, count=100)
    found = await pages(bus, count=100)
    assert len(found) > 1
    assert [line["id"] for page in found for line in page["entries"]] == ids


async def test_what_is_absent_or_of_another_type_is_said(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    server.command("SET", "string", "x")
    absent = await refusal(bus, "pending_list", stream="t", group="g")
    groupless = await refusal(bus, "pending_list", stream="s", group="h")
    wrong = await refusal(bus, "pending_list", stream="string", group="g")
    cursor = await refusal(bus, "pending_list", **GROUP, cursor="yesterday")
    assert absent["code"] == "STREAM_NOT_FOUND"
    assert groupless["code"] == "GROUP_NOT_FOUND"
    assert wrong["code"] == "WRONG_TYPE"
    assert cursor["code"] == "INVALID_ARGUMENT"


async def test_the_groups_that_there_are_are_named_once(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    for few in (True, False):
        for number in range(1 if few else 12):
            await call(bus, "group_create", stream="s", group=f"group-{number:02}")
        told = (await refusal(bus, "pending_list", stream="s", group="group-11x"))["cause"]
        assert ("nearest" in told) is not few
        assert told.count("'group-00'") == 1
    # One that is not among the first.
    assert "nearest names are: 'group-11'" in told


async def test_a_redis_user_without_the_right_is_told_so(server: Server) -> None:
    server.command("ACL", "SETUSER", "blind", "reset", "on", ">pw", "~*", "+@all", "-xpending")
    topology = Standalone.of(Target(path=server.path, username="blind", password="pw"))
    bus = Bus.over(Redis(topology), Settings(), KEY)
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(topology.run)
            denied = await refusal(bus, "pending_list", **GROUP)
            nursery.cancel_scope.cancel()
    finally:
        server.command("ACL", "DELUSER", "blind")
    assert denied["code"] == "PERMISSION_DENIED"


async def test_nothing_is_pending_beyond_the_greatest_entry_id(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", entry_ids.LAST, "f", "v")
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    page = await call(bus, "pending_list", **GROUP)
    assert [line["id"] for line in page["entries"]] == [entry_ids.LAST]
    after = await call(bus, "pending_list", **GROUP, cursor=entry_ids.LAST)
    assert (after["entries"], after["has_more"], after["pending"]) == ([], False, 1)
