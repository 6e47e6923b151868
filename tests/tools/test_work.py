"""work_take on real servers: what it does where others left something odd, and where it was asked before."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.support.buses import running_bus
from tests.support.calls import add, call, refusal
from tests.support.server_clock import next_millisecond
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}
DUE, DEAD, TRIES, ABOUT = (
    companion_key("s", kind, "g") for kind in (Kind.DUE, Kind.DEAD, Kind.TRIES, Kind.GROUP)
)
GREATEST = f"{2**64 - 1}-{2**64 - 1}"
NEVER = Settings(leases=LeasesSettings(max_deliveries=0))


async def take(bus: Bus, consumer: str = "c", **how: Any) -> dict[str, Any]:
    return await call(bus, "work_take", **GROUP, consumer=consumer, **how)


async def limit(bus: Bus, max_deliveries: int) -> None:
    how: dict[str, Any] = {"action": "set_max_deliveries", "max_deliveries": max_deliveries, "dry_run": False}
    await call(bus, "group_manage", **GROUP, **how)


def ids_of(taken: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in taken["entries"]]


def all_due(server: Server) -> None:
    """Let every lease run out now."""
    server.commands(*[("ZADD", DUE, 1, member) for member in server.command("ZRANGE", DUE, 0, -1)])


@pytest.mark.settings(Settings(leases=LeasesSettings(max_lease_seconds=1_234_567)))
async def test_a_lease_beyond_the_setting_is_refused_with_both_numbers_written_out(bus: Bus) -> None:
    error = await refusal(bus, "work_take", **GROUP, consumer="c", lease_seconds=2_592_000)
    assert error["message"] == "lease_seconds=2592000 is too long."
    assert "is 1234567." in error["cause"]


# What other programs may leave


@pytest.mark.parametrize("settings", [None, NEVER], ids=["limited", "never"])
@pytest.mark.parametrize("counter", [2**31, 2**53, 2**63 - 1])
async def test_a_delivery_counter_beyond_belief_makes_a_dead_letter_and_holds_up_nobody(
    server: Server, settings: Settings | None, counter: int
) -> None:
    async with running_bus(server, settings) as bus:
        good, poisoned = await add(bus, 2)
        await take(bus, count=2)
        server.command("XCLAIM", "s", "g", "cli", 0, poisoned, "RETRYCOUNT", counter, "IDLE", 10**8)
        all_due(server)
        taken = await take(bus, "d", count=10)
        letters = (await call(bus, "dead_letter_replay", **GROUP))["entries"]
        assert server.command("XPENDING", "s", "g")[0] == 1
    assert ids_of(taken) == [good]
    assert taken["dead_lettered"] == 1
    (note,) = [letter["dead_letter"] for letter in letters]
    assert note["id"] == poisoned
    assert "counter" in note["reason"]
    assert [each["attempt"] for each in note["history"]] == [9_999_999]


async def test_what_cannot_be_read_of_earlier_deliveries_is_left_out(bus: Bus, server: Server) -> None:
    (entry_id,) = await add(bus)
    taken = await take(bus, max_deliveries=1)
    nested = "[" * 500 + "]" * 500
    for odd in ("-12 {}", "x", "0000002 no JSON", "0000003 1", f'0000004 {{"reason": {nested}}}'):
        server.command("ZADD", TRIES, 0, f"{entry_id}/{odd}")
    told = await call(bus, "work_fail", lease=taken["lease"], reason="no paper")
    (letter,) = (await call(bus, "dead_letter_replay", **GROUP))["entries"]
    assert told["dead_lettered"] == [entry_id]
    assert letter["dead_letter"]["history"] == [{"attempt": 4}]


@pytest.mark.parametrize("key", [DEAD, TRIES, ABOUT])
async def test_a_key_of_another_type_is_found_before_anything_is_taken(
    bus: Bus, server: Server, key: str
) -> None:
    await add(bus, 2)
    await take(bus, count=2)
    all_due(server)
    pending = [row[3] for row in server.command("XPENDING", "s", "g", "-", "+", 10)]
    due = server.command("ZRANGE", DUE, 0, -1)
    await limit(bus, 1)
    server.command("SET", key, "x")
    refused = await refusal(bus, "work_take", **GROUP, consumer="d", count=2)
    assert [row[3] for row in server.command("XPENDING", "s", "g", "-", "+", 10)] == pending
    assert server.command("ZRANGE", DUE, 0, -1) == due
    assert refused["code"] == "WRONG_TYPE"


async def test_dead_letters_that_can_have_no_more_hold_up_only_what_would_be_one(
    bus: Bus, server: Server
) -> None:
    """The stream of dead letters has the greatest entry ID, so Redis refuses every other."""
    server.command("XADD", DEAD, GREATEST, "n", "1")
    first, second = await add(bus, 2)
    await take(bus)
    all_due(server)
    await limit(bus, 1)
    taken = await take(bus, "d", count=2)
    await refusal(bus, "work_take", **GROUP, consumer="d")
    assert server.command("XPENDING", "s", "g")[0] == 2
    await limit(bus, 10)
    assert ids_of(await take(bus, "d")) == [first]
    assert ids_of(taken) == [second]


async def test_members_that_are_no_entry_ids_are_removed(bus: Bus, server: Server) -> None:
    ids = await add(bus, 2)
    await take(bus)
    odd = ["x", "x/1", "/1", "-/1", "+/1", f"{2**70}-1/1", "1-1/x", f"{ids[0]}/01", f"0{ids[0]}/1"]
    server.commands(*[("ZADD", DUE, 1, member) for member in odd])
    server.command("ZADD", DUE, "-inf", "1-1/1")
    all_due(server)
    assert ids_of(await take(bus, "d", count=10)) == ids
    assert server.command("ZCARD", DUE) == 2


@pytest.mark.settings(Settings(leases=LeasesSettings(foreign_idle_seconds=0.001)))
async def test_the_greatest_entry_id_pending_elsewhere_fails_no_take(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "1-1", "n", "1")
    server.command("XADD", "s", GREATEST, "n", "2")
    await call(bus, "group_create", **GROUP)
    server.command("XREADGROUP", "GROUP", "g", "cli", "STREAMS", "s", ">")
    for entry_id in ("1-1", GREATEST):
        server.command("XCLAIM", "s", "g", "cli", 0, entry_id, "IDLE", 10**6, "JUSTID")
    assert [ids_of(await take(bus)) for _ in range(4)] == [["1-1"], [GREATEST], [], []]
    assert ids_of(await take(bus, resume=True)) == ["1-1", GREATEST]


async def test_stale_members_hide_nothing_that_is_due(bus: Bus, server: Server) -> None:
    await add(bus, 5)
    await take(bus, count=5)
    all_due(server)
    server.commands(*[("ZADD", DUE, 0.5, f"{n}-1/1") for n in range(1, 1_001)])
    taken = await take(bus, "d", count=5)
    assert server.command("ZCARD", DUE) == 5
    assert len(taken["entries"]) == 5


async def test_new_entries_do_not_hide_what_another_program_left(bus: Bus, server: Server) -> None:
    """However many stale members there are, and although something new is there at each take."""
    ids = await add(bus, 350)
    await call(bus, "group_create", **GROUP)
    server.command("XREADGROUP", "GROUP", "g", "cli", "COUNT", 300, "STREAMS", "s", ">")
    server.command("XCLAIM", "s", "g", "cli", 0, ids[299], "IDLE", 10**8, "JUSTID")
    server.commands(*[("ZADD", DUE, 10**14, f"{n}-1/1") for n in range(1, 1_001)])
    taken = [ids_of(await take(bus)) for _ in range(20)]
    assert [ids[299]] in taken
    assert [ids[300]] in taken


async def test_a_take_reads_no_list_whole(bus: Bus, server: Server) -> None:
    """Of 5,000 pending entries that another program works on, 1,020 are looked at, and the rest later."""
    ids = await add(bus, 5_000)
    await call(bus, "group_create", **GROUP)
    server.command("XREADGROUP", "GROUP", "g", "cli", "COUNT", 5_000, "STREAMS", "s", ">")
    server.command("XCLAIM", "s", "g", "cli", 0, ids[-1], "IDLE", 10**8, "JUSTID")
    server.command("CONFIG", "RESETSTAT")
    taken = [ids_of(await take(bus)) for _ in range(5)]
    calls = str(server.command("INFO", "commandstats"))
    assert taken == [[], [], [], [], [ids[-1]]]
    assert int(calls.partition("cmdstat_xpending:calls=")[2].partition(",")[0]) < 5 * 15


async def test_a_call_dead_letters_so_many_and_so_much(bus: Bus, server: Server) -> None:
    await add(bus, 150)
    for count in (100, 50):
        await take(bus, count=count)
    await add(bus)
    all_due(server)
    await limit(bus, 1)
    told = [await take(bus, "d", count=2) for _ in range(3)]
    assert server.command("XLEN", DEAD) == 150
    large = [("XADD", "s", "*", "n", "x" * 400_000) for _ in range(5)]
    server.commands(*large)
    for _ in large:
        await take(bus, "e")
    all_due(server)
    more = await take(bus, "d", count=100)
    assert [(each.get("dead_lettered", 0), len(each["entries"])) for each in told] == [
        (100, 1),
        (50, 0),
        (0, 0),
    ]
    assert more["dead_lettered"] == 4  # three large ones and the one that was taken before


# Fences


async def test_an_old_lease_does_not_settle_what_a_group_that_was_set_back_delivers(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus)
    old = await take(bus)
    await call(bus, "group_manage", **GROUP, action="set_position", start="earliest", dry_run=False)
    next_millisecond(server)
    new = await take(bus)
    assert [(entry["id"], entry["attempt"]) for entry in new["entries"]] == [(ids[0], 1)]
    for tool in ("work_done", "work_extend", "work_fail"):
        assert (await refusal(bus, tool, lease=old["lease"]))["code"] == "LEASE_LOST"
    assert (await call(bus, "work_done", lease=new["lease"]))["done"] == ids


async def test_an_old_lease_does_not_settle_what_a_group_of_the_same_name_delivers(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus)
    old = await take(bus)
    await call(bus, "group_manage", **GROUP, action="destroy", dry_run=False)
    next_millisecond(server)
    new = await take(bus)
    assert (await refusal(bus, "work_done", lease=old["lease"]))["code"] == "LEASE_LOST"
    assert (await call(bus, "work_done", lease=new["lease"]))["done"] == ids


async def test_an_entry_is_taken_once_though_two_leases_of_it_ran_out(bus: Bus, server: Server) -> None:
    """One of them was of the attempt that the other's end leads to, before the group was set back."""
    ids = await add(bus)
    await take(bus)
    all_due(server)
    await take(bus)
    server.command("XGROUP", "SETID", "s", "g", "0")
    await take(bus)
    assert server.command("ZCARD", DUE) == 2
    all_due(server)
    taken = await take(bus, count=10)
    assert server.command("ZCARD", DUE) == 1
    assert [(entry["id"], entry["attempt"]) for entry in taken["entries"]] == [(ids[0], 2)]


# The same key again


async def test_a_repeated_take_says_so(bus: Bus) -> None:
    ids = await add(bus, 2)
    await call(bus, "group_create", **GROUP)
    first = await take(bus, idempotency_key="k")
    again = await take(bus, idempotency_key="k")
    await call(bus, "work_done", lease=first["lease"])
    finished = await take(bus, idempotency_key="k", timeout_seconds=60)
    assert ids_of(await take(bus, idempotency_key="l")) == ids[1:]
    assert "duplicate" not in first
    assert again == first | {"duplicate": True}
    assert (finished["entries"], finished["duplicate"]) == ([], True)
    assert "new key" in finished["warning"]


async def test_a_repeated_take_tells_which_max_deliveries_counts(bus: Bus) -> None:
    await add(bus, 1)
    first = await take(bus, idempotency_key="k", max_deliveries=50)
    assert first["group_created"]
    await add(bus, 1)
    assert "warning" not in await take(bus, idempotency_key="l", max_deliveries=60)
    for asked, used in ((60, True), (70, False), (3, False), (0, False)):
        again = await take(bus, idempotency_key="l", max_deliveries=asked)
        assert again["duplicate"]
        assert ("warning" not in again) is used
        assert used or f"max_deliveries={asked} was not used: the lease of this key" in again["warning"]


@pytest.mark.parametrize("how", ["group made again", "set back", "stream made again"])
async def test_a_key_stands_for_nothing_in_a_group_that_has_yet_to_deliver_it(
    bus: Bus, server: Server, how: str
) -> None:
    await add(bus)
    first = await take(bus, idempotency_key="k")
    await call(bus, "work_done", lease=first["lease"])
    if how == "set back":
        server.command("XGROUP", "SETID", "s", "g", "0")
    else:
        server.command(*(("DEL", "s") if how == "stream made again" else ("XGROUP", "DESTROY", "s", "g")))
        await call(bus, "group_create", **GROUP)
        await add(bus)
    again = await take(bus, idempotency_key="k")
    assert len(again["entries"]) == 1
    assert "duplicate" not in again


# Resuming


async def test_resuming_returns_everything_and_says_what_is_left(bus: Bus) -> None:
    ids = await add(bus, 130)
    for count in (100, 30):
        await take(bus, count=count)
    all_of_it = await take(bus, resume=True)
    one = await take(bus, resume=True, count=1)
    await call(bus, "work_done", lease=all_of_it["lease"], entry_ids=ids[1:100])
    rest = await take(bus, resume=True)
    assert (ids_of(all_of_it), all_of_it["still_held"]) == (ids[:100], 30)
    assert (ids_of(one), one["still_held"]) == (ids[:1], 129)
    assert ids_of(rest) == [ids[0], *ids[100:]]
    assert "still_held" not in rest


async def test_resuming_finds_what_lies_behind_many_retries(bus: Bus) -> None:
    ids = await add(bus, 1_201)
    for _ in range(12):
        taken = await take(bus, count=100)
        await call(bus, "work_fail", lease=taken["lease"], delay_seconds=3_600)
    await take(bus)
    resumed = await take(bus, resume=True)
    assert ids_of(resumed) == ids[-1:]
    assert "still_held" not in resumed
