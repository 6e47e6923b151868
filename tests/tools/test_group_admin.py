"""group_manage on real servers: it does what it reports, and loses nothing unless asked to."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.policy import Principal
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import RELEASED, Kind, companion_key
from tests.support.calls import add, call, refusal
from tests.support.servers import Server
from tests.support.waiting import until

GROUP = {"stream": "s", "group": "g"}
DUE, DEAD, TRIES = (companion_key("s", kind, "g") for kind in (Kind.DUE, Kind.DEAD, Kind.TRIES))


async def take(bus: Bus, consumer: str, count: int = 100) -> dict[str, Any]:
    return await call(bus, "work_take", **GROUP, consumer=consumer, count=count)


async def manage(bus: Bus, action: str, **how: Any) -> dict[str, Any]:
    return await call(bus, "group_manage", **GROUP, action=action, **how)


def holders(server: Server) -> dict[bytes, int]:
    consumers = server.command("XPENDING", "s", "g")[3] or []
    return {name: int(held) for name, held in consumers}


@pytest.mark.parametrize("with_letters", [False, True])
async def test_destroying_takes_the_leases_along_and_letters_only_if_told(
    bus: Bus, server: Server, with_letters: bool
) -> None:
    await add(bus, 5)
    dead = await take(bus, "c", 1)
    await call(bus, "work_fail", lease=dead["lease"], action="dead_letter")
    await take(bus, "c", 2)
    how = {"delete_dead_letters": with_letters}
    plan = await manage(bus, "destroy", **how)
    assert server.command("EXISTS", DUE, DEAD) == 2
    assert holders(server) == {b"c": 2}
    done = await manage(bus, "destroy", **how, dry_run=False)
    assert server.command("XINFO", "GROUPS", "s") == []
    assert server.command("EXISTS", DUE) == 0
    assert server.command("XLEN", DEAD) == (0 if with_letters else 1)
    assert server.command("XLEN", "s") == 5
    assert plan["dry_run"] is True
    assert plan["effect"] == done["effect"]
    assert (plan["effect"]["pending_lost"], plan["effect"]["not_delivered"]) == (2, 2)
    assert plan["effect"]["dead_letters_deleted" if with_letters else "dead_letters_kept"] == 1


async def test_a_position_says_what_is_skipped_and_what_is_repeated(bus: Bus) -> None:
    ids = await add(bus, 10)
    await take(bus, "c", 4)
    skip = await manage(bus, "set_position", start=ids[7])
    repeat = await manage(bus, "set_position", start=ids[1])
    latest = await manage(bus, "set_position", start="latest")
    earliest = await manage(bus, "set_position", start="earliest")
    stay = await manage(bus, "set_position", start=ids[4])
    assert (await take(bus, "d", 1))["entries"][0]["id"] == ids[4]
    await manage(bus, "set_position", start=ids[7], dry_run=False)
    assert (await take(bus, "d", 1))["entries"][0]["id"] == ids[7]
    await manage(bus, "set_position", start="earliest", dry_run=False)
    assert (await take(bus, "d", 1))["entries"][0]["id"] == ids[0]
    assert (skip["effect"]["skipped"], skip["effect"]["repeated"]) == (3, 0)
    assert (repeat["effect"]["skipped"], repeat["effect"]["repeated"]) == (0, 3)
    assert (latest["effect"]["skipped"], latest["effect"]["repeated"]) == (6, 0)
    assert (earliest["effect"]["skipped"], earliest["effect"]["repeated"]) == (0, 4)
    assert (stay["effect"]["skipped"], stay["effect"]["repeated"]) == (0, 0)
    assert "note" in repeat
    assert "note" not in skip


async def test_whoever_waits_gets_what_a_new_position_repeats(bus: Bus) -> None:
    got: list[str] = []
    async with trio.open_nursery() as nursery:
        (first,) = await add(bus, 1)
        done = await take(bus, "c")
        await call(bus, "work_done", lease=done["lease"])

        async def wait() -> None:
            work = await call(bus, "work_take", **GROUP, consumer="d", timeout_seconds=20)
            got.extend(entry["id"] for entry in work["entries"])

        nursery.start_soon(wait)
        await until(lambda: bus.hub.statistics().watches)
        await manage(bus, "set_position", start="earliest", dry_run=False)
    assert got == [first]


@pytest.mark.bounds(Bounds(counted_at_once=40, counted=120))
async def test_long_stretches_are_counted_up_to_a_bound(bus: Bus) -> None:
    await add(bus, 119)
    await call(bus, "group_create", **GROUP)
    exact = await manage(bus, "set_position", start="latest")
    await add(bus, 100)
    bounded = await manage(bus, "set_position", start="latest")
    assert exact["effect"]["skipped"] == 119
    assert bounded["effect"]["skipped_at_least"] == 120
    assert "skipped" not in bounded["effect"]


async def test_large_entries_are_counted_a_few_at_a_time(bus: Bus, server: Server) -> None:
    """A script reads at most 16 MiB, and the next one continues."""
    # Logged in first: to write so much may take a busy machine, and this process, longer than a login may.
    await bus.redis.ping()
    server.commands(*[("XADD", "s", f"{n}-1", "f", "v" * 3_000_000) for n in range(1, 16)])
    await call(bus, "group_create", **GROUP)
    moved = await manage(bus, "set_position", start="latest")
    trimmed = await call(bus, "stream_manage", stream="s", action="trim", max_length=2, force=True)
    assert moved["effect"]["skipped"] == 15
    assert trimmed["effect"]["first_kept"] == "13-2"


@pytest.mark.bounds(Bounds(counted_at_once=10, counted=20))
async def test_what_a_destroyed_group_did_not_get_is_a_bound_where_it_cannot_be_counted(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus, 50)
    # In the middle, and with entries removed, so that only counting gives the number.
    server.command("XGROUP", "CREATE", "s", "g", ids[9])
    server.command("XDEL", "s", ids[30])
    plan = await manage(bus, "destroy")
    assert plan["effect"]["not_delivered_at_least"] == 20
    assert "not_delivered" not in plan["effect"]


async def test_a_consumer_that_holds_entries_is_not_removed_unless_told_what_becomes_of_them(
    bus: Bus, server: Server
) -> None:
    await add(bus, 3)
    await take(bus, "c")
    plan = await manage(bus, "remove_consumer", consumer="c")
    refused = await refusal(
        bus, "group_manage", **GROUP, action="remove_consumer", consumer="c", dry_run=False
    )
    assert holders(server) == {b"c": 3}
    lost = await manage(bus, "remove_consumer", consumer="c", pending="lose", dry_run=False)
    assert holders(server) == {}
    assert server.command("XINFO", "CONSUMERS", "s", "g") == []
    server.command("XGROUP", "CREATECONSUMER", "s", "g", "idle")
    gone = await manage(bus, "remove_consumer", consumer="idle", dry_run=False)
    assert plan["effect"]["pending"] == 3
    assert "refused" in plan["note"]
    assert refused["code"] == "INVALID_ARGUMENT"
    assert "hand_over" in refused["next_step"]
    assert lost["effect"] == {"removed": "c", "lost": 3}
    assert gone["effect"] == {"removed": "idle"}


async def test_the_name_of_a_removed_consumer_is_free_for_another_principal(bus: Bus, server: Server) -> None:
    await add(bus, 2)
    await take(bus, "c")
    record = ("HGET", companion_key("s", Kind.GROUP, "g"), "consumer c")
    assert server.command(*record) == b"me"
    await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)
    assert server.command(*record) is None
    other = Principal("other", "unix")
    taken = await call(bus, "work_take", other, **GROUP, consumer="c", count=2)
    assert len(taken["entries"]) == 2
    assert server.command(*record) == b"other"
    assert holders(server) == {b"c": 2}


async def test_released_entries_stay_pending_and_go_to_whoever_takes_next(bus: Bus, server: Server) -> None:
    ids = await add(bus, 3)
    old = await take(bus, "c")
    done = await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)
    assert holders(server) == {RELEASED.encode(): 3}
    again = await call(bus, "work_take", **GROUP, consumer="d", count=10, timeout_seconds=10)
    late = await refusal(bus, "work_done", lease=old["lease"])
    assert holders(server) == {b"d": 3}
    assert done["effect"] == {"removed": "c", "released": 3}
    assert [(entry["id"], entry["attempt"]) for entry in again["entries"]] == [(one, 2) for one in ids]
    assert late["code"] == "LEASE_LOST"


async def test_entries_handed_over_are_resumed_by_the_other_and_by_nobody_else_for_a_while(bus: Bus) -> None:
    ids = await add(bus, 3)
    await take(bus, "c")
    done = await manage(
        bus, "remove_consumer", consumer="c", pending="hand_over", to_consumer="d", dry_run=False
    )
    assert (await take(bus, "e"))["entries"] == []
    resumed = await call(bus, "work_take", **GROUP, consumer="d", count=10, resume=True)
    assert done["effect"] == {"removed": "c", "handed_over": 3}
    assert [entry["id"] for entry in resumed["entries"]] == ids


@pytest.mark.bounds(Bounds(moved_at_once=2))
async def test_a_removal_that_was_cut_off_goes_on_and_loses_nothing(bus: Bus, server: Server) -> None:
    entries, partial = 95, False
    await add(bus, entries)
    await take(bus, "c")
    rounds = 0
    while b"c" in holders(server):
        rounds += 3
        moved = holders(server).get(RELEASED.encode(), 0)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def remove() -> None:
                    await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)

                nursery.start_soon(remove)
                for _ in range(rounds):
                    await trio.lowlevel.checkpoint()
                    # A server that was slow at first may be quick enough for all of it.
                    if holders(server).get(RELEASED.encode(), 0) > moved + 10:
                        break
                scope.cancel()
        await bus.redis.ping()
        assert sum(holders(server).values()) == entries
        partial |= len(holders(server)) == 2
    assert holders(server) == {RELEASED.encode(): entries}
    # One due time of each, and one mark of a released entry.
    assert server.command("ZCARD", DUE) == 2 * entries
    assert partial


async def test_entries_whose_content_was_deleted_do_not_hold_up_a_removal(bus: Bus, server: Server) -> None:
    ids = await add(bus, 3)
    await take(bus, "c")
    server.command("XDEL", "s", ids[1])
    done = await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)
    assert holders(server) == {RELEASED.encode(): 2}
    assert server.command("ZCARD", DUE) == 2 * 2
    assert done["effect"] == {"removed": "c", "released": 2, "content_gone": 1}


async def test_what_is_released_already_is_not_released_to_itself(bus: Bus, server: Server) -> None:
    how: dict[str, Any] = {"action": "remove_consumer", "consumer": RELEASED, "dry_run": False}
    ids = await add(bus, 120)
    await take(bus, "c")
    await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)
    for pending in ("release", "refuse"):
        refused = await refusal(bus, "group_manage", **GROUP, **how, pending=pending)
        assert refused["code"] == "INVALID_ARGUMENT"
        assert "work_take" in refused["next_step"]
    with pytest.raises(ServerReplied, match="cannot keep"):
        await bus.groups.remove_consumer("s", "g", RELEASED, heir=RELEASED, heir_seconds=None)
    assert holders(server) == {RELEASED.encode(): 100}
    done = await call(bus, "group_manage", **GROUP, **how, pending="hand_over", to_consumer="d")
    resumed = await call(bus, "work_take", **GROUP, consumer="d", count=100, resume=True)
    assert done["effect"] == {"removed": RELEASED, "handed_over": 100}
    assert [entry["id"] for entry in resumed["entries"]] == ids[:100]


@pytest.mark.parametrize("pending", ["release", "hand_over"])
async def test_a_retry_that_was_put_off_keeps_its_time_when_its_consumer_goes(
    bus: Bus, server: Server, pending: str
) -> None:
    to: dict[str, Any] = {"to_consumer": "d"} if pending == "hand_over" else {}
    later, sooner = await add(bus, 2)
    taken = await take(bus, "c")
    await call(bus, "work_fail", lease=taken["lease"], entry_ids=[later], delay_seconds=3_600)
    before = server.command("ZSCORE", DUE, f"{later}/1")
    await manage(bus, "remove_consumer", consumer="c", pending=pending, dry_run=False, **to)
    assert server.command("ZSCORE", DUE, f"{later}/1") == before
    got = await call(
        bus,
        "work_take",
        **GROUP,
        consumer="d",
        count=10,
        timeout_seconds=5,
        resume=pending == "hand_over",
    )
    assert [entry["id"] for entry in got["entries"]] == [sooner]


async def test_nothing_is_remembered_of_what_was_gone_when_its_consumer_went(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus, 2)
    taken = await take(bus, "c")
    await call(bus, "work_fail", lease=taken["lease"], reason="no paper", delay_seconds=60)
    server.command("XDEL", "s", ids[1])
    await manage(bus, "remove_consumer", consumer="c", pending="release", dry_run=False)
    (kept,) = server.command("ZRANGE", TRIES, 0, -1)
    assert kept.startswith(ids[0].encode())


async def test_full_memory_moves_nothing_half(bus: Bus, server: Server) -> None:
    await add(bus, 3)
    await take(bus, "c")
    due = server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")
    server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        full = await refusal(
            bus,
            "group_manage",
            **GROUP,
            action="remove_consumer",
            consumer="c",
            pending="release",
            dry_run=False,
        )
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert holders(server) == {b"c": 3}
    assert server.command("ZRANGE", DUE, 0, -1, "WITHSCORES") == due
    assert full["code"] == "BACKEND_OUT_OF_MEMORY"


async def test_wrong_calls_say_what_is_right(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    await take(bus, "worker-1")
    server.command("SET", "string", "x")

    async def refused(**how: Any) -> dict[str, Any]:
        return await refusal(bus, "group_manage", **(GROUP | how))

    removal = {"action": "remove_consumer", "consumer": "worker-1"}
    assert (await refused(action="destroy", stream="t"))["code"] == "STREAM_NOT_FOUND"
    assert (await refused(action="destroy", stream="string"))["code"] == "WRONG_TYPE"
    assert (await refused(action="destroy", group="h"))["code"] == "GROUP_NOT_FOUND"
    assert "start" in (await refused(action="set_position"))["message"]
    assert (await refused(action="set_position", start="soon"))["code"] == "INVALID_START"
    assert "consumer" in (await refused(action="remove_consumer"))["message"]
    assert "worker-1" in (await refused(**removal | {"consumer": "worker-2"}))["cause"]
    assert "together" in (await refused(**removal, pending="hand_over"))["message"]
    assert "together" in (await refused(**removal, to_consumer="x"))["message"]
    same = await refused(**removal, pending="hand_over", to_consumer="worker-1")
    assert "same" in same["message"]
