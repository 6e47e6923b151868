"""work_done, work_extend and work_fail on real servers: each said twice does what it does once."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.policy import Principal
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.support.calls import ME, add, call, refusal
from tests.support.servers import Server
from tests.support.two_ways import running_way, surface_over

GROUP = {"stream": "s", "group": "g"}
DUE, DEAD, TRIES = (companion_key("s", kind, "g") for kind in (Kind.DUE, Kind.DEAD, Kind.TRIES))
ASKER = Principal("asker", "unix")
REPLIES = companion_key("s", Kind.REPLY, "asker")


async def take(bus: Bus, consumer: str = "c", **how: Any) -> dict[str, Any]:
    return await call(bus, "work_take", **GROUP, consumer=consumer, **how)


async def ask(bus: Bus, **how: Any) -> dict[str, Any]:
    return await call(
        bus, "request_reply", ASKER, stream="s", entry={"question": 1}, timeout_seconds=0, **how
    )


def due(server: Server) -> list[float]:
    return [float(score) for score in server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")[1::2]]


async def test_giving_back_twice_changes_nothing(bus: Bus, server: Server) -> None:
    (entry_id,) = await add(bus)
    taken = await take(bus)
    first = await call(bus, "work_fail", lease=taken["lease"], reason="no paper", delay_seconds=60)
    before = due(server)
    again = await call(bus, "work_fail", lease=taken["lease"], reason="no ink", delay_seconds=3_600)
    assert due(server) == before
    assert again == first
    assert server.command("ZCARD", TRIES) == 1
    extended = await call(bus, "work_extend", lease=taken["lease"])
    buried = await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    done = await call(bus, "work_done", lease=taken["lease"])
    assert due(server) == before
    assert server.command("XPENDING", "s", "g")[0] == 1
    assert first["retried"] == [entry_id]
    assert (extended["extended"], extended["already_done"]) == ([], [entry_id])
    assert "lease_expires" not in extended
    assert buried["already_done"] == done["already_done"] == [entry_id]


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "kernel"])
async def test_a_lone_acknowledgement_is_told_on_both_ways(bus: Bus, server: Server, direct: bool) -> None:
    ids = await add(bus, 3)
    leases = [(await take(bus, count=count))["lease"] for count in (1, 2)]
    async with running_way(surface_over(bus), direct=direct) as way:
        for number, (lease, done) in enumerate(zip(leases, (ids[:1], ids[1:]), strict=True)):
            await way.call(2 * number + 1, "work_done", lease=lease)
            assert (await way.answer())["result"]["structuredContent"]["done"] == done
            # Said again.
            await way.call(2 * number + 2, "work_done", lease=lease)
            again = (await way.answer())["result"]["structuredContent"]
            assert (again["done"], again["already_done"]) == ([], done)
    assert server.command("XPENDING", "s", "g")[0] == 0


async def test_what_was_deleted_makes_no_dead_letter_and_none_is_told_of(bus: Bus, server: Server) -> None:
    gone, there = await add(bus, 2)
    taken = await take(bus, count=2)
    server.command("XDEL", "s", gone)
    told = await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    assert server.command("XLEN", DEAD) == 1
    assert (told["dead_lettered"], told["already_done"]) == ([there], [gone])


async def test_nothing_is_remembered_of_what_another_program_finished(bus: Bus, server: Server) -> None:
    (entry_id,) = await add(bus)
    taken = await take(bus)
    await call(bus, "work_fail", lease=taken["lease"], action="release", reason="no paper")
    taken = await take(bus, timeout_seconds=5)
    assert server.command("ZCARD", TRIES) == 1
    server.command("XACK", "s", "g", entry_id)
    done = await call(bus, "work_done", lease=taken["lease"])
    assert done["already_done"] == [entry_id]
    assert server.command("EXISTS", TRIES) == 0


async def test_a_due_set_goes_by_itself_long_after_its_last_lease(bus: Bus, server: Server) -> None:
    await add(bus)
    taken = await take(bus)
    kept = [server.command("PTTL", DUE)]
    server.command("PERSIST", DUE)
    await call(bus, "work_extend", lease=taken["lease"])
    kept.append(server.command("PTTL", DUE))
    assert all(60 * 86_400_000 < each <= 90 * 86_400_000 for each in kept)


async def test_only_what_no_other_group_needs_is_deleted(bus: Bus, server: Server) -> None:
    ids = await add(bus, 3)
    for group in ("other", "third"):
        await call(bus, "group_create", stream="s", group=group)
    # One is pending there, one was finished, one was not delivered.
    theirs = await call(bus, "work_take", stream="s", group="other", consumer="c", count=2)
    await call(bus, "work_done", lease=theirs["lease"], entry_ids=[ids[1]])
    server.command("XGROUP", "SETID", "s", "third", "$")
    taken = await take(bus, count=3)
    done = await call(bus, "work_done", lease=taken["lease"], delete=True)
    left = [entry_id.decode() for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert done["done"] == ids
    assert done["kept_for"] == "other"
    assert left == [ids[0], ids[2]]


async def test_nothing_is_kept_for_a_group_where_an_operator_removed_it_before(
    bus: Bus, server: Server
) -> None:
    there, *gone = await add(bus, 3)
    await call(bus, "group_create", stream="s", group="other")
    taken = await take(bus, count=3)
    server.command("XDEL", "s", *gone)
    done = await call(bus, "work_done", lease=taken["lease"], entry_ids=gone, delete=True)
    assert done["done"] == gone
    assert "kept_for" not in done
    assert (await call(bus, "work_done", lease=taken["lease"], delete=True))["kept_for"] == "other"
    assert server.command("XRANGE", "s", "-", "+")[0][0].decode() == there


async def test_a_reply_never_shortens_a_lease(bus: Bus, server: Server) -> None:
    await ask(bus)
    await add(bus)
    question, plain = await take(bus, lease_seconds=3_600), await take(bus, lease_seconds=3_600)
    held = bus.work.read_lease(question["lease"], ME)
    before = due(server)
    for lease, reply in ((plain["lease"], {"a": 1}), (question["lease"], {"_": 2**70})):
        refused = await refusal(bus, "work_done", lease=lease, reply=reply)
        assert refused["code"] == "INVALID_ARGUMENT"
        assert due(server) == before
    await bus.replies.publish(held, None, {"a": 1}, authorise=lambda *_: None, quarantines=lambda _: False)
    assert due(server) == before
    # One that would end while the reply is on its way is held.
    server.command("ZADD", DUE, "XX", int(before[0]) - 3_599_000, f"{question['entries'][0]['id']}/1")
    await bus.replies.publish(held, None, {"a": 1}, authorise=lambda *_: None, quarantines=lambda _: False)
    assert min(due(server)) > before[0] - 3_599_000


async def test_a_worker_whose_reply_has_no_stream_is_told_how_to_finish_the_request(
    bus: Bus, server: Server
) -> None:
    server.command("SET", "no-stream", "x")
    await call(bus, "stream_add", ASKER, stream="s", entries=[{"question": 1}], reply_to="no-stream")
    taken = await take(bus)
    refused = await refusal(bus, "work_done", lease=taken["lease"], reply={"a": 1})
    assert refused["code"] == "WRONG_TYPE"
    assert "its reply_to; it is not acknowledged" in refused["cause"]
    assert "work_done without reply" in refused["next_step"]
    assert (await call(bus, "work_done", lease=taken["lease"]))["done"] == [taken["entries"][0]["id"]]


@pytest.mark.parametrize("how", ["given back", "acknowledged"])
async def test_what_is_settled_is_not_answered_any_more(bus: Bus, server: Server, how: str) -> None:
    await ask(bus)
    taken = await take(bus)
    (entry,) = taken["entries"]
    if how == "given back":
        await call(bus, "work_fail", lease=taken["lease"], delay_seconds=60)
    else:
        server.command("XACK", "s", "g", entry["id"])
    before = due(server)
    late = await call(bus, "work_done", lease=taken["lease"], reply={"late": 1})
    assert server.command("XLEN", REPLIES) == 0
    assert due(server) == (before if how == "given back" else [])
    assert late["already_done"] == [entry["id"]]
    assert "reply" not in late


async def test_dead_letters_of_another_type_are_found_before_anything_is_settled(
    bus: Bus, server: Server
) -> None:
    gone, _ = await add(bus, 2)
    taken = await take(bus, count=2)
    # What makes no dead letter is settled without asking for their stream.
    server.command("XDEL", "s", gone)
    server.command("SET", DEAD, "x")
    refused = await refusal(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    assert server.command("XPENDING", "s", "g")[0] == 2
    assert len(due(server)) == 2
    assert refused["code"] == "WRONG_TYPE"
