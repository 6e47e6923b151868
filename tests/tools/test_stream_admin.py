"""stream_manage on real servers: it removes what it says, and not what a group still needs."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.streams.admin.stream_admin import Removal
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.names import Kind, companion_key
from tests.support.buses import running_bus
from tests.support.calls import add, call, refusal
from tests.support.counts import long
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}


async def work(bus: Bus, count: int, *, done: bool, group: str = "g") -> dict[str, Any]:
    taken = await call(bus, "work_take", stream="s", group=group, consumer="c", count=count)
    if done:
        await call(bus, "work_done", lease=taken["lease"])
    return taken


async def manage(bus: Bus, action: str, **how: Any) -> dict[str, Any]:
    return await call(bus, "stream_manage", stream="s", action=action, **how)


async def refused(bus: Bus, action: str, **how: Any) -> dict[str, Any]:
    return await refusal(bus, "stream_manage", stream="s", action=action, **how)


def left(server: Server) -> list[str]:
    return [raw.decode() for raw, _ in server.command("XRANGE", "s", "-", "+")]


@pytest.mark.parametrize("bound", ["max_length", "min_id", "max_age_seconds"])
async def test_a_trim_removes_what_its_dry_run_said(bus: Bus, server: Server, bound: str) -> None:
    now = int(server.command("TIME")[0])
    ids = [f"{(now - 1_000 + 100 * n) * 1000}-0" for n in range(10)]
    server.commands(*[("XADD", "s", one, "n", "x") for one in ids])
    how = {"max_length": 4, "min_id": ids[6], "max_age_seconds": 450}
    plan = await manage(bus, "trim", **{bound: how[bound]})
    assert left(server) == ids
    done = await manage(bus, "trim", **{bound: how[bound]}, dry_run=False)
    assert left(server) == ids[6:]
    assert plan["dry_run"] is True
    assert plan["effect"]["removed"] == done["effect"]["removed"] == 6


@pytest.mark.parametrize(("max_length", "kept"), [(0, 0), (1, 1), (9, 9), (10, 10), (11, 10)])
@pytest.mark.bounds(Bounds(counted_at_once=3))
async def test_a_length_is_met_exactly_also_among_deleted_entries(
    bus: Bus, server: Server, max_length: int, kept: int
) -> None:
    ids = await add(bus, 14)
    server.command("XDEL", "s", ids[0], ids[3], ids[4], ids[13])
    rest = left(server)
    await manage(bus, "trim", max_length=max_length, dry_run=False)
    assert left(server) == rest[len(rest) - kept :]


async def test_what_a_group_has_pending_or_did_not_get_is_removed_only_by_force(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus, 10)
    await work(bus, 5, done=True)
    await work(bus, 2, done=False)
    # All done below ids[5]; pending are 5 and 6, unread 7 to 9.
    for how in (
        {"action": "trim", "min_id": ids[6]},
        {"action": "trim", "max_length": 4},
        {"action": "trim", "max_age_seconds": 0},
        {"action": "delete_entries", "entry_ids": [ids[0], ids[5]]},
        {"action": "delete_entries", "entry_ids": [ids[8]]},
        {"action": "delete"},
    ):
        plan = await manage(bus, **how)
        assert "refused" in plan["note"]
        error = await refused(bus, **how, dry_run=False)
        assert error["code"] == "INVALID_ARGUMENT"
        assert "'g'" in error["cause"]
        assert left(server) == ids
    pending = (await manage(bus, "trim", max_length=4))["needed_by"]
    unread = (await manage(bus, "delete_entries", entry_ids=[ids[8]]))["needed_by"]
    assert pending == [{"group": "g", "why": "pending", "entry_id": ids[5]}]
    assert unread == [{"group": "g", "why": "unread", "entry_id": ids[8]}]
    assert "needed_by" not in await manage(bus, "trim", min_id=ids[5])
    await manage(bus, "trim", min_id=ids[5], dry_run=False)
    assert left(server) == ids[5:]
    await manage(bus, "delete_entries", entry_ids=[ids[8]], force=True, dry_run=False)
    await manage(bus, "trim", min_id=ids[7], force=True, dry_run=False)
    assert left(server) == [ids[7], ids[9]]


@pytest.mark.parametrize("how", [{"min_id": "0"}, {"max_length": 99}, {"max_age_seconds": 10**10}])
async def test_a_bound_below_which_nothing_lies_removes_nothing(
    bus: Bus, server: Server, how: dict[str, Any]
) -> None:
    ids = await add(bus, 3)
    await work(bus, 3, done=False)
    server.command("XGROUP", "SETID", "s", "g", "18446744073709551615-18446744073709551615")
    for dry_run in (True, False):
        done = await manage(bus, "trim", **how, dry_run=dry_run)
        assert done["effect"]["removed"] == 0
        assert "needed_by" not in done
    assert left(server) == ids
    await refused(bus, "trim", max_length=0, dry_run=False)


async def test_every_group_counts(bus: Bus, server: Server) -> None:
    await add(bus, 4)
    for number in range(15):
        await work(bus, 4, done=True, group=f"g{number}")
    server.command("XGROUP", "CREATE", "s", "slow", "0")
    error = await refused(bus, "trim", max_length=0, dry_run=False)
    assert "'slow'" in error["cause"]
    for number in range(15):
        server.command("XGROUP", "SETID", "s", f"g{number}", "0")
    plan = await manage(bus, "trim", max_length=0)
    assert "16 group(s)" in plan["note"]
    assert len(plan["needed_by"]) == 10


async def test_a_pending_entry_whose_content_is_gone_needs_nothing(bus: Bus, server: Server) -> None:
    ids = await add(bus, 3)
    await work(bus, 3, done=False)
    server.command("XDEL", "s", *ids)
    await add(bus, 1)
    await work(bus, 1, done=True)
    done = await manage(bus, "trim", max_length=0, dry_run=False)
    assert done["effect"]["removed"] == 1


async def test_a_dry_run_counts_the_entries_that_are_there_each_once(bus: Bus) -> None:
    ids = await add(bus, 3)
    chosen = ["1-1", ids[0], ids[0], f"0{ids[0]}"]
    plan = await manage(bus, "delete_entries", entry_ids=chosen)
    done = await manage(bus, "delete_entries", entry_ids=chosen, dry_run=False)
    assert plan["effect"] == {"length_before": 3, "removed": 1}
    assert done["effect"] == plan["effect"]


async def test_looks_at_pending_entries_are_bounded_for_all_groups_together(bus: Bus, server: Server) -> None:
    groups, pending = 80, 99
    ids = await add(bus, pending)
    last = server.command("XADD", "s", "*", "n", "x").decode()
    commands: list[tuple[Any, ...]] = []
    for n in range(groups):
        commands.append(("XGROUP", "CREATE", "s", f"g{n:02}", "0"))
        commands.append(("XREADGROUP", "GROUP", f"g{n:02}", "c", "STREAMS", "s", ">"))
        commands.append(("XACK", "s", f"g{n:02}", last))
    server.commands(*commands)
    server.command("XDEL", "s", *ids)
    server.command("CONFIG", "RESETSTAT")
    plan = await manage(bus, "trim", max_length=0)
    stats = server.command("INFO", "commandstats").decode()
    looks = int(stats.split("cmdstat_xrange:calls=")[1].split(",")[0])
    assert looks < 5_000 + 2 * groups
    # Those that were not looked at count as needed.
    assert plan["note"].startswith(f"{groups - 5_000 // pending} group(s)")


async def test_deleted_entries_are_counted_as_far_as_they_were_there(bus: Bus, server: Server) -> None:
    ids = await add(bus, 3)
    done = await manage(bus, "delete_entries", entry_ids=[ids[1], "5-5"], dry_run=False)
    again = await manage(bus, "delete_entries", entry_ids=[ids[1]], dry_run=False)
    assert left(server) == [ids[0], ids[2]]
    assert done["effect"]["removed"] == 1
    assert again["effect"]["removed"] == 0


@pytest.mark.parametrize("with_letters", [False, True])
async def test_a_deleted_stream_takes_its_leases_along_and_letters_only_if_told(
    bus: Bus, server: Server, with_letters: bool
) -> None:
    due, dead = companion_key("s", Kind.DUE, "g"), companion_key("s", Kind.DEAD, "g")
    await add(bus, 3)
    given_up = await work(bus, 1, done=False)
    await call(bus, "work_fail", lease=given_up["lease"], action="dead_letter")
    await work(bus, 2, done=False)
    how = {"force": True, "delete_dead_letters": with_letters}
    plan = await manage(bus, "delete", **how)
    assert server.command("EXISTS", "s", due, dead) == 3
    await manage(bus, "delete", **how, dry_run=False)
    assert server.command("EXISTS", "s", due) == 0
    assert server.command("EXISTS", dead) == (0 if with_letters else 1)
    assert plan["effect"]["removed"] == 3
    assert plan["effect"]["groups_destroyed"] == 1


@pytest.mark.limit(60)
async def test_no_entry_is_missed_by_a_taker_while_another_daemon_trims_without_force(server: Server) -> None:
    finished: list[int] = []
    added = trims = refusals = 0
    enough = False
    async with running_bus(server) as one, running_bus(server) as two:
        await call(one, "group_create", **GROUP)

        async def worker() -> None:
            while not enough or len(finished) < added:
                taken = await call(two, "work_take", **GROUP, consumer="c", count=7, timeout_seconds=5)
                finished.extend(entry["fields"]["n"] for entry in taken["entries"])
                if taken["entries"]:
                    await call(two, "work_done", lease=taken["lease"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker)
            # Until both have happened often: a trim between two takes, and one refused by a take.
            while trims < 10 or refusals < 10:
                batch = [{"n": n} for n in range(added, added + 10)]
                await one.publisher.add("s", batch, Stamp())
                added += 10
                while True:
                    shape = await one.streams.info("s")
                    boundary = await one.streams.boundary(shape, 3)
                    cut = await one.streams.remove(shape, Removal.TRIM, [boundary], execute=True, force=False)
                    trims += cut.removed > 0
                    refusals += cut.needed_by > 0
                    if not cut.needed_by:
                        break
            last = {"n": added}
            added, enough = added + 1, True
            await one.publisher.add("s", [last], Stamp())
    assert finished == list(range(added))


async def test_wrong_calls_say_what_is_right(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    server.command("SET", "string", "x")
    absent = await refusal(bus, "stream_manage", stream="t", action="delete")
    wrong = await refusal(bus, "stream_manage", stream="string", action="delete")
    none = await refused(bus, "trim")
    two = await refused(bus, "trim", max_length=1, min_id="1-1")
    no_id = await refused(bus, "trim", min_id="yesterday")
    which = await refused(bus, "delete_entries")
    server.command("ACL", "SETUSER", "default", "-xtrim")
    try:
        denied = await refused(bus, "trim", max_length=0, dry_run=False)
    finally:
        server.command("ACL", "SETUSER", "default", "+xtrim")
    assert server.command("XLEN", "s") == 1
    assert absent["code"] == "STREAM_NOT_FOUND"
    assert wrong["code"] == "WRONG_TYPE"
    assert none["code"] == two["code"] == no_id["code"] == which["code"] == "INVALID_ARGUMENT"
    assert denied["code"] == "PERMISSION_DENIED"


@long
@pytest.mark.limit(60)
async def test_a_million_entries_are_trimmed_within_a_bound_beside_as_many_groups_as_there_may_be(
    server: Server, clock: Clock
) -> None:
    for _ in range(20):
        server.command("EVAL", "for n = 1, 50000 do redis.call('XADD', 's', '*', 'n', n) end", 0)
    server.commands(*[("XGROUP", "CREATE", "s", f"g{n}", "$") for n in range(256)])
    # Not before: what is made above holds up this loop, and the connections of a bus with it.
    async with running_bus(server) as bus:
        began = clock()
        plan = await manage(bus, "trim", max_length=500_000)
        planned = clock() - began
        began = clock()
        await manage(bus, "trim", max_length=500_000, dry_run=False)
        took = clock() - began
        assert server.command("XLEN", "s") == 500_000
        # Other programs may make more. To ask all of them in one step would stop the server.
        server.commands(*[("XGROUP", "CREATE", "s", f"g{n}", "$") for n in range(256, 5_000)])
        error = await refused(bus, "trim", max_length=0, dry_run=False)
        assert error["code"] == "TOO_LARGE"
        assert server.command("XLEN", "s") == 500_000
        await manage(bus, "trim", max_length=0, dry_run=False, force=True)
        assert server.command("XLEN", "s") == 0
    print(f"1,000,000 entries, 256 groups: dry run {planned * 1000:.0f} ms, trim {took * 1000:.0f} ms")
    assert plan["effect"]["removed"] == 500_000
    with measured:
        assert took < 20


@pytest.mark.parametrize(
    ("action", "given", "belongs_to"),
    [
        ("delete", {"entry_ids": ["1-1"]}, "delete_entries"),
        ("delete", {"max_length": 1}, "trim"),
        ("trim", {"max_length": 0, "entry_ids": ["1-1"]}, "delete_entries"),
        ("trim", {"max_length": 0, "delete_dead_letters": True}, "delete"),
        ("delete_entries", {"entry_ids": ["1-1"], "min_id": "9-9"}, "trim"),
    ],
)
async def test_an_argument_of_another_action_is_refused(
    bus: Bus, server: Server, action: str, given: dict[str, Any], belongs_to: str
) -> None:
    ids = await add(bus, 3)
    error = await refused(bus, action, **given, force=True, dry_run=False)
    assert left(server) == ids
    assert error["code"] == "INVALID_ARGUMENT"
    assert belongs_to in error["cause"]
