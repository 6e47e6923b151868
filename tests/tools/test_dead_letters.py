"""dead_letter_replay on real servers: once, complete, and by the first caller."""

from __future__ import annotations

from typing import Any

import trio

from redstreamd.streams.admin.dead_letters import DeadLetterAction, DeadLetterOutcome, DeadLetterResult
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.names import Kind, companion_key
from tests.support.buses import running_bus
from tests.support.calls import call, refusal
from tests.support.server_clock import next_millisecond
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}
DEAD = companion_key("s", Kind.DEAD, "g")
#: More field and value pairs than a script can pass on.
HUGE = 4_000


async def bury(bus: Bus, entries: list[dict[str, Any]], stamp: Stamp | None = None) -> list[str]:
    """Add entries and dead-letter them; return their IDs."""
    ids = (await bus.publisher.add("s", entries, stamp or Stamp(sender="writer"))).ids
    taken = await call(bus, "work_take", **GROUP, consumer="c", count=100)
    assert [entry["id"] for entry in taken["entries"]] == ids
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter", reason="cannot be parsed")
    return ids


def fields_of(server: Server, key: str) -> list[list[bytes]]:
    return [flat for _, flat in server.command("XRANGE", key, "-", "+")]


async def test_a_list_says_why_each_entry_was_given_up(bus: Bus) -> None:
    ids = await bury(bus, [{"n": n} for n in range(5)])
    first = await call(bus, "dead_letter_replay", **GROUP, count=3)
    second = await call(bus, "dead_letter_replay", **GROUP, cursor=first["next_cursor"])
    assert first["total"] == 5
    assert first["has_more"] is True
    assert second["has_more"] is False
    listed = first["entries"] + second["entries"]
    assert [entry["dead_letter"]["id"] for entry in listed] == ids
    assert [entry["fields"] for entry in listed] == [{"n": n} for n in range(5)]
    note = listed[0]["dead_letter"]
    assert (note["reason"], note["consumer"], note["attempts"]) == ("cannot be parsed", "c", 1)


async def test_a_dry_run_changes_nothing_and_is_the_default(bus: Bus, server: Server) -> None:
    await bury(bus, [{"n": 1}, {"n": 2}])
    before = [server.command("XRANGE", key, "-", "+") for key in ("s", DEAD)]
    replay = await call(bus, "dead_letter_replay", **GROUP, action="replay", count=1)
    delete = await call(bus, "dead_letter_replay", **GROUP, action="delete")
    assert [server.command("XRANGE", key, "-", "+") for key in ("s", DEAD)] == before
    assert replay["dry_run"] is delete["dry_run"] is True
    assert [line.get("new_id") for line in replay["replayed"]] == [None]
    assert len(delete["deleted"]) == 2


async def test_a_replayed_entry_is_what_it_was_and_is_delivered_again(bus: Bus, server: Server) -> None:
    stamp = Stamp(sender="writer", correlation_id="c-1", reply_to="answers")
    entry = {"text": "Grüße", "n": 1.5, "_rs.dead": "mine", "deep": {"a": [None]}}
    (old,) = await bury(bus, [entry], stamp)
    server.command("XGROUP", "CREATE", "s", "other", "$")
    done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    taken = await call(bus, "work_take", **GROUP, consumer="d")
    first, second = fields_of(server, "s")
    assert first == second
    assert fields_of(server, DEAD) == []
    (line,) = done["replayed"]
    (again,) = taken["entries"]
    assert again["id"] == line["new_id"] != old
    assert again["attempt"] == 1
    assert again["fields"] == entry
    assert (again["sender"], again["correlation_id"], again["reply_to"]) == ("writer", "c-1", "answers")
    assert done["other_groups"] == 1


async def test_an_entry_of_redis_cli_comes_back_with_its_repeated_and_binary_fields(
    bus: Bus, server: Server
) -> None:
    server.command("XADD", "s", "*", "a", "1", "a", b"\xff\x00", "_rs.dead", "not json")
    taken = await call(bus, "work_take", **GROUP, consumer="c")
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    first, second = fields_of(server, "s")
    assert first == second == [b"a", b"1", b"a", b"\xff\x00", b"_rs.dead", b"not json"]


async def test_of_two_operators_each_letter_is_replayed_by_one(server: Server) -> None:
    letters = 60
    fates: list[tuple[int, DeadLetterResult]] = []
    async with running_bus(server) as one, running_bus(server) as two:
        await bury(one, [{"n": n} for n in range(letters)])
        ids = [raw.decode() for raw, _ in server.command("XRANGE", DEAD, "-", "+")]

        async def operate(number: int, bus: Bus) -> None:
            # From both ends: they meet in the middle and continue.
            begins = range(0, letters, 5) if number == 1 else range(letters - 5, -1, -5)
            for begin in begins:
                some = ids[begin : begin + 5]
                done = await bus.dead_letters.settle("s", "g", DeadLetterAction.REPLAY, some, dry_run=False)
                fates.extend((number, each) for each in done)

        # Neither has yet to connect when the other begins.
        await two.redis.ping()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operate, 1, one)
            nursery.start_soon(operate, 2, two)
        values = [flat[1] for flat in fields_of(server, "s")]
        assert server.command("XLEN", DEAD) == 0
    assert sorted(each.id for _, each in fates if each.outcome is DeadLetterOutcome.ADDED) == sorted(ids)
    assert sorted(each.id for _, each in fates if each.outcome is DeadLetterOutcome.GONE) == sorted(ids)
    # The interleaving happened: both replayed some.
    assert {number for number, each in fates if each.outcome is DeadLetterOutcome.ADDED} == {1, 2}
    assert sorted(values) == sorted([str(n).encode() for n in range(letters)] * 2)


async def test_an_operator_cut_off_at_any_moment_leaves_nothing_twice_and_nothing_lost(
    bus: Bus, server: Server
) -> None:
    letters = 60
    untouched = finished_unseen = 0
    await bury(bus, [{"n": n} for n in range(letters)])
    left, rounds = letters, 1
    while left:
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:

            async def replay(scope: trio.CancelScope = scope) -> None:
                with scope:
                    await call(bus, "dead_letter_replay", **GROUP, action="replay", count=1, dry_run=False)

            nursery.start_soon(replay)
            for _ in range(rounds):
                await trio.lowlevel.checkpoint()
            scope.cancel()
        # The letters are the truth once whatever was sent has been executed.
        await bus.redis.ping()
        dead, live = server.command("XLEN", DEAD), server.command("XLEN", "s") - letters
        assert dead + live == letters
        assert dead in (left, left - 1)
        untouched += dead == left
        finished_unseen += dead < left and scope.cancelled_caught
        # Cut it off later if it got nowhere, and earlier if it got through: about where it matters,
        # which is to be found soon also where the server is slow to answer.
        if not scope.cancelled_caught:
            rounds = max(1, rounds - 3)
        else:
            rounds += 1 if dead < letters else 1 + rounds // 16
        left = dead
    values = [flat[1] for flat in fields_of(server, "s")]
    # It was cut off before the script ran, and after.
    assert untouched
    assert finished_unseen
    assert sorted(values) == sorted([str(n).encode() for n in range(letters)] * 2)


async def bury_huge(server: Server, bus: Bus) -> str:
    """Dead-letter an entry of more fields than a script can copy; return its ID."""
    flat = [part for n in range(HUGE) for part in (f"f{n}", str(n))]
    huge: str = server.command("XADD", "s", "*", *flat).decode()
    taken = await call(bus, "work_take", **GROUP, consumer="c")
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    return huge


async def test_an_entry_too_large_to_copy_is_pending_again_in_its_group(bus: Bus, server: Server) -> None:
    huge = await bury_huge(server, bus)
    plan = await call(bus, "dead_letter_replay", **GROUP, action="replay")
    assert server.command("XPENDING", "s", "g")[0] == 0
    done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    # The next take gets it, as a first attempt and with all its fields.
    again = await call(bus, "work_take", **GROUP, consumer="d")
    assert server.command("XLEN", DEAD) == 0
    assert server.command("XLEN", "s") == 1
    assert plan["replayed"] == done["replayed"]
    assert done["replayed"][0]["returned"] == huge
    (entry,) = again["entries"]
    assert (entry["id"], entry["attempt"]) == (huge, 1)


async def test_a_large_entry_that_was_deleted_cannot_be_replayed_and_stays_a_dead_letter(
    bus: Bus, server: Server
) -> None:
    huge = await bury_huge(server, bus)
    server.command("XGROUP", "DESTROY", "s", "g")
    stuck = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    server.command("XGROUP", "CREATE", "s", "g", "$")
    server.command("XDEL", "s", huge)
    lost = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    assert server.command("XLEN", DEAD) == 1
    (line,) = stuck["not_replayable"]
    assert "group_create" in line["why"]
    (line,) = lost["not_replayable"]
    assert huge in line["why"]
    assert "deleted" in line["why"]


async def test_chosen_letters_are_deleted_and_the_others_stay(bus: Bus) -> None:
    await bury(bus, [{"n": n} for n in range(3)])
    letters = [entry["id"] for entry in (await call(bus, "dead_letter_replay", **GROUP))["entries"]]
    chosen = [letters[1], "1-1"]
    done = await call(bus, "dead_letter_replay", **GROUP, action="delete", entry_ids=chosen, dry_run=False)
    left = await call(bus, "dead_letter_replay", **GROUP)
    wrong = await refusal(bus, "dead_letter_replay", **GROUP, action="delete", entry_ids=["x"])
    assert done["deleted"] == [letters[1]]
    assert done["gone"] == ["1-1"]
    assert [entry["id"] for entry in left["entries"]] == [letters[0], letters[2]]
    assert wrong["code"] == "INVALID_ARGUMENT"


async def test_what_cannot_be_added_is_refused_before_anything_is_changed(bus: Bus, server: Server) -> None:
    await bury(bus, [{"n": 1}])
    server.command("DEL", "s")
    server.command("SET", "s", "no stream")
    wrong = await refusal(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    assert wrong["code"] == "WRONG_TYPE"
    assert server.command("XLEN", DEAD) == 1
    server.command("DEL", "s")
    # The stream was deleted, but not its dead letters; a replay creates it again.
    done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    assert done["replayed"]
    assert server.command("XLEN", "s") == 1


async def test_a_right_that_is_missing_or_memory_that_is_full_duplicates_nothing(
    bus: Bus, server: Server
) -> None:
    await bury(bus, [{"n": 1}])
    server.command("ACL", "SETUSER", "default", "-xdel")
    try:
        denied = await refusal(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    finally:
        server.command("ACL", "SETUSER", "default", "+xdel")
    server.command("CONFIG", "SET", "maxmemory", 1)
    try:
        full = await refusal(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert (server.command("XLEN", DEAD), server.command("XLEN", "s")) == (1, 1)
    assert denied["code"] == "PERMISSION_DENIED"
    assert full["code"] == "BACKEND_OUT_OF_MEMORY"


async def test_a_group_without_dead_letters_is_no_error_and_a_wrong_name_is(bus: Bus) -> None:
    await call(bus, "group_create", **GROUP)
    empty = await call(bus, "dead_letter_replay", **GROUP)
    nothing = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    group = await refusal(bus, "dead_letter_replay", stream="s", group="h")
    stream = await refusal(bus, "dead_letter_replay", stream="t", group="g")
    assert empty["entries"] == []
    assert empty["total"] == nothing["total"] == 0
    assert group["code"] == "GROUP_NOT_FOUND"
    assert stream["code"] == "STREAM_NOT_FOUND"


async def test_entry_ids_choose_nothing_in_a_list(bus: Bus) -> None:
    await bury(bus, [{"n": 1}])
    refused = await refusal(bus, "dead_letter_replay", **GROUP, entry_ids=["1-1"])
    assert refused["code"] == "INVALID_ARGUMENT"
    assert refused["cause"] == "entry_ids belongs to replay and delete."


async def test_a_large_entry_that_somebody_holds_again_stays_with_its_holder(
    bus: Bus, server: Server
) -> None:
    huge = await bury_huge(server, bus)
    server.command("XGROUP", "SETID", "s", "g", "0")
    held = await call(bus, "work_take", **GROUP, consumer="d")
    done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    assert server.command("XLEN", DEAD) == 0
    finished = await call(bus, "work_done", lease=held["lease"])
    assert [entry["id"] for entry in held["entries"]] == [huge]
    assert done["replayed"][0]["returned"] == huge
    assert finished["done"] == [huge]


async def test_a_letter_of_too_many_fields_is_reported_and_the_others_replayed(
    bus: Bus, server: Server
) -> None:
    await bury(bus, [{"n": 1}])
    flat = [part for n in range(5_000) for part in (f"f{n}", str(n))]
    large = server.command("XADD", DEAD, "*", *flat).decode()
    await bury(bus, [{"n": 2}])
    for dry_run in (True, False):
        done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=dry_run)
        assert len(done["replayed"]) == 2
        (line,) = done["not_replayable"]
        assert line["id"] == large
        assert "stream_add" in line["why"]
    assert server.command("XLEN", DEAD) == 1


async def test_a_replay_of_large_letters_ends_and_says_where(bus: Bus, server: Server) -> None:
    entries = 24
    server.command("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    ids = [server.command("XADD", DEAD, "*", "n", b"x" * 1_000_000).decode() for _ in range(entries)]
    how = {"action": "replay", "entry_ids": ids}
    plan = await call(bus, "dead_letter_replay", **GROUP, **how)
    first = await call(bus, "dead_letter_replay", **GROUP, **how, dry_run=False)
    rest = await call(
        bus, "dead_letter_replay", **GROUP, action="replay", entry_ids=first["left"], dry_run=False
    )
    assert (server.command("XLEN", "s"), server.command("XLEN", DEAD)) == (entries, 0)
    assert plan["left"] == first["left"] == ids[len(first["replayed"]) :]
    assert "left" not in rest


async def test_every_other_group_gets_what_is_replayed_also_if_the_own_one_is_gone(
    bus: Bus, server: Server
) -> None:
    await bury(bus, [{"n": 1}, {"n": 2}])
    for other in ("one", "two"):
        server.command("XGROUP", "CREATE", "s", other, "$")
    both = await call(bus, "dead_letter_replay", **GROUP, action="replay", count=1)
    server.command("XGROUP", "DESTROY", "s", "g")
    alone = await call(bus, "dead_letter_replay", **GROUP, action="replay", count=1)
    server.command("DEL", "s")
    nobody = await call(bus, "dead_letter_replay", **GROUP, action="replay", count=1)
    assert [told["other_groups"] for told in (both, alone, nobody)] == [2, 2, 0]


async def test_a_lease_of_before_a_replay_finishes_nothing_after_it(bus: Bus, server: Server) -> None:
    flat = [part for n in range(HUGE) for part in (f"f{n}", str(n))]
    huge = server.command("XADD", "s", "*", *flat).decode()
    old = await call(bus, "work_take", **GROUP, consumer="c")
    await call(bus, "work_fail", lease=old["lease"], action="dead_letter")
    # Deliveries are distinguished by their millisecond.
    next_millisecond(server)
    await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
    new = await call(bus, "work_take", **GROUP, consumer="c")
    late = await refusal(bus, "work_done", lease=old["lease"])
    done = await call(bus, "work_done", lease=new["lease"])
    assert late["code"] == "LEASE_LOST"
    assert done["done"] == [huge]
