"""An answer tells all that its call did, however many commands the call was made of.

Each case is called at once and waiting, woken again and again; in large parts and in the smallest; and with
the reply to each of its commands lost in turn. What it says is the same every time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from redstreamd.policy import Principal
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.request_reply import Request
from redstreamd.tools.catalog import REGISTRY
from tests.faults.calling import QUICK, bus_at
from tests.redisio.running import through
from tests.support.buses import ON_REDIS, running_bus
from tests.support.calls import ME, answer, call
from tests.support.proxy import proxy_to
from tests.support.servers import Server
from tests.support.waiting import until

STREAM = "shop:orders:paid"
PLACE: dict[str, Any] = {"stream": STREAM, "group": "g"}
DUE = companion_key(STREAM, Kind.DUE, "g")
ASKER, WORKER = Principal("asker", "unix"), Principal("me", "unix")
#: A setting under which two deliveries are too many, so that a take finds something to dead-letter.
ONCE = Settings(leases=LeasesSettings(max_deliveries=1))
#: Members that differ each time: the server's times, random names, and values derived from them.
VOLATILE = {
    "id",
    "ids",
    "time",
    "lease",
    "lease_expires",
    "next_cursor",
    "idle_seconds",
    "durability",
    "retry_at",
}

ENTRY_ID = re.compile(r"\d+-\d+")

Prepare = Callable[[Bus, Server], Awaitable[dict[str, Any]]]


@attrs.frozen
class Case:
    """A call and what there is before it.

    Attributes:
        name: What the answer is to tell of.
        tool: The tool.
        prepare: Prepares the server and returns the arguments.
        tells: Members of the answer that show that the case happened.
    """

    name: str
    tool: str
    prepare: Prepare
    tells: tuple[str, ...]


CASES: list[Case] = []


def case(tool: str, *tells: str) -> Callable[[Prepare], Prepare]:
    def define(prepare: Prepare) -> Prepare:
        CASES.append(Case(prepare.__name__, tool, prepare, tells))
        return prepare

    return define


async def add(bus: Bus, count: int = 1, **members: Any) -> list[str]:
    entries = [{"n": n} | members for n in range(count)]
    ids: list[str] = (await call(bus, "stream_add", stream=STREAM, entries=entries))["ids"]
    return ids


async def take(bus: Bus, consumer: str = "c", **how: Any) -> dict[str, Any]:
    return await call(bus, "work_take", **PLACE, consumer=consumer, **how)


def all_due(server: Server) -> None:
    server.commands(*[("ZADD", DUE, 1, member) for member in server.command("ZRANGE", DUE, 0, -1)])


# What there is before each call


@case("work_take", "entries", "group_created")
async def nothing_in_a_new_group(bus: Bus, server: Server) -> dict[str, Any]:
    return PLACE | {"consumer": "c", "idempotency_key": "k"}


@case("work_take", "group_created", "warning")
async def nothing_in_a_new_stream_of_an_odd_name(bus: Bus, server: Server) -> dict[str, Any]:
    return {"stream": "odd", "group": "g", "consumer": "c", "idempotency_key": "k"}


@case("work_take", "dead_lettered")
async def only_what_was_delivered_too_often(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 3)
    await take(bus, count=3)
    all_due(server)
    return PLACE | {"consumer": "d", "idempotency_key": "k"}


@case("work_take", "entries", "lease", "lease_expires", "dead_lettered")
async def something_beside_what_was_delivered_too_often(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus)
    await take(bus)
    all_due(server)
    await add(bus, 2)
    return PLACE | {"consumer": "d", "count": 5, "idempotency_key": "k"}


@case("work_take", "warning")
async def nothing_for_a_limit_that_does_not_count(bus: Bus, server: Server) -> dict[str, Any]:
    await call(bus, "group_create", **PLACE, max_deliveries=7)
    return PLACE | {"consumer": "c", "max_deliveries": 3, "idempotency_key": "k"}


@case("work_take", "duplicate", "entries")
async def what_the_key_took_before(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus)
    await take(bus, idempotency_key="k")
    return PLACE | {"consumer": "c", "idempotency_key": "k"}


@case("work_take", "duplicate", "warning")
async def what_the_key_took_is_finished(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 2)
    taken = await take(bus, idempotency_key="k")
    await call(bus, "work_done", lease=taken["lease"])
    return PLACE | {"consumer": "c", "idempotency_key": "k"}


@case("work_take", "still_held")
async def more_than_is_resumed(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 3)
    await take(bus, count=3)
    return PLACE | {"consumer": "c", "resume": True, "count": 1, "idempotency_key": "k"}


@case("stream_wait", "timed_out", "absent", "entries", "next_cursor")
async def streams_that_do_not_exist(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus)
    return {"streams": [STREAM, "no:such:one", "nor:this:one"]}


@case("stream_wait", "entries", "timed_out")
async def one_among_many_that_the_filter_wants(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 9)
    await add(bus, wanted=True)
    return {"streams": [STREAM], "cursor": "0-0", "filter": {"wanted": True}}


@case("stream_wait", "timed_out", "next_cursor")
async def none_that_the_filter_wants(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 9)
    return {"streams": [STREAM], "cursor": "0-0", "filter": {"wanted": True}}


@case("request_reply", "answered", "next_call", "request_id", "correlation_id", "reply_to")
async def a_question_that_nobody_answers(bus: Bus, server: Server) -> dict[str, Any]:
    return {"stream": STREAM, "entry": {"q": 1}, "correlation_id": "q"}


@case("request_reply", "answered", "reply", "resumed")
async def a_question_that_was_answered(bus: Bus, server: Server) -> dict[str, Any]:
    asked = {"stream": STREAM, "entry": {"q": 1}, "correlation_id": "q"}
    await call(bus, "request_reply", **asked, timeout_seconds=0)
    # Among others, so that the answer is looked for in several parts.
    for number in range(5):
        await call(bus, "request_reply", **asked | {"correlation_id": f"{number}"}, timeout_seconds=0)
    taken = await take(bus, count=6)
    for entry in reversed(taken["entries"]):
        await call(bus, "work_done", lease=taken["lease"], entry_ids=[entry["id"]], reply={"a": entry["id"]})
    return asked


@case("request_reply", "answered", "resumed", "waiting")
async def a_question_that_waits_in_quarantine(bus: Bus, server: Server) -> dict[str, Any]:
    asked = Request(STREAM, {"q": 1}, ME, correlation_id="q", waits=True)
    await bus.requests.request(asked, timeout_seconds=0)
    return {"stream": STREAM, "entry": {"q": 1}, "correlation_id": "q"}


@case("request_reply", "warning")
async def a_question_on_a_new_stream_of_an_odd_name(bus: Bus, server: Server) -> dict[str, Any]:
    return {"stream": "odd", "entry": {"q": 1}, "reply_to": "strange", "correlation_id": "q"}


@case("group_create", "created", "max_deliveries")
async def a_new_group(bus: Bus, server: Server) -> dict[str, Any]:
    return PLACE | {"max_deliveries": 3}


@case("group_create", "created", "warning")
async def a_group_that_there_is(bus: Bus, server: Server) -> dict[str, Any]:
    await call(bus, "group_create", **PLACE)
    return PLACE | {"max_deliveries": 3}


@case("stream_add", "ids", "duplicate", "deduplicated_for_seconds")
async def new_entries(bus: Bus, server: Server) -> dict[str, Any]:
    return {"stream": STREAM, "entries": [{"n": 1}, {"n": 2}], "idempotency_key": "k"}


@case("stream_add", "duplicate")
async def entries_that_were_added_before(bus: Bus, server: Server) -> dict[str, Any]:
    asked = {"stream": STREAM, "entries": [{"n": 1}], "idempotency_key": "k"}
    await call(bus, "stream_add", **asked)
    return asked


@case("stream_add", "kept_for", "durability")
async def entries_that_a_group_has_not_finished(bus: Bus, server: Server) -> dict[str, Any]:
    await call(bus, "group_create", **PLACE)
    await add(bus, 3)
    how = {"max_length": 1, "durability": "fsynced", "idempotency_key": "k"}
    return {"stream": STREAM, "entries": [{"n": 1}], **how}


@case("work_done", "done", "reply")
async def a_reply_to_a_question(bus: Bus, server: Server) -> dict[str, Any]:
    await call(bus, "request_reply", ASKER, stream=STREAM, entry={"q": 1}, timeout_seconds=0)
    taken = await take(bus)
    return {"lease": taken["lease"], "reply": {"a": 1}}


@case("work_done", "done", "kept_for")
async def entries_that_another_group_needs(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 3)
    await call(bus, "group_create", stream=STREAM, group="h")
    taken = await take(bus, count=3)
    return {"lease": taken["lease"], "delete": True}


@case("work_fail", "retried", "dead_lettered", "lost", "already_done", "retry_at")
async def entries_of_every_fate(bus: Bus, server: Server) -> dict[str, Any]:
    ids = await add(bus, 4)
    await call(bus, "group_create", **PLACE, max_deliveries=2)
    await take(bus)
    all_due(server)
    # One has its last delivery, one its first, one is another consumer's by now, and one is finished.
    taken = await take(bus, count=4)
    server.command("XCLAIM", STREAM, "g", "other", 0, ids[2])
    server.command("XACK", STREAM, "g", ids[3])
    return {"lease": taken["lease"], "reason": "no paper"}


@case("work_fail", "dead_lettered")
async def entries_that_are_given_up(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 3)
    taken = await take(bus, count=3)
    return {"lease": taken["lease"], "action": "dead_letter"}


@case("work_extend", "extended", "warning")
async def a_lease_that_is_shortened(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 2)
    taken = await take(bus, count=2, lease_seconds=600)
    return {"lease": taken["lease"], "lease_seconds": 60}


def removal(pending: str, *tells: str) -> None:
    async def prepare(bus: Bus, server: Server) -> dict[str, Any]:
        ids = await add(bus, 7)
        await take(bus, count=7)
        server.command("XDEL", STREAM, ids[2])
        to = {"to_consumer": "d"} if pending == "hand_over" else {}
        how = {"action": "remove_consumer", "consumer": "c", "pending": pending, "dry_run": False}
        return PLACE | how | to

    CASES.append(Case(f"a consumer whose entries are to {pending}", "group_manage", prepare, tells))


removal("release", "dry_run", "effect")
removal("hand_over", "note")
removal("lose", "effect")


@case("group_manage", "effect", "note")
async def a_position_that_skips_some(bus: Bus, server: Server) -> dict[str, Any]:
    ids = await add(bus, 9)
    await take(bus, count=4)
    return PLACE | {"action": "set_position", "start": ids[1]}


@case("stream_manage", "effect", "needed_by", "note")
async def a_trim_that_a_group_forbids(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 9)
    await take(bus)
    return {"stream": STREAM, "action": "trim", "max_length": 3}


@case("dead_letter_replay", "replayed", "other_groups", "total")
async def letters_that_would_be_put_back(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 5)
    await call(bus, "group_create", stream=STREAM, group="h")
    taken = await take(bus, count=5)
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    return PLACE | {"action": "replay"}


@case("stream_read", "entries", "has_more")
async def a_page_that_a_filter_fills(bus: Bus, server: Server) -> dict[str, Any]:
    await add(bus, 9, wanted=True)
    return {"stream": STREAM, "filter": {"wanted": True}, "count": 4}


@case("stream_list", "streams", "has_more")
async def a_list_of_streams(bus: Bus, server: Server) -> dict[str, Any]:
    for name in ("a:b:c", "a:b:d", "a:b:e", "x:y:z"):
        server.command("XADD", name, "*", "n", "1")
    return {"pattern": "a:*", "count": 2}


# The same call in another way


def plain(value: Any) -> Any:
    """Return an answer without the members that differ each time."""
    if isinstance(value, dict):
        return {
            name: name if name in VOLATILE or name.endswith(("_id", "_time", "age_seconds")) else plain(one)
            for name, one in value.items()
            if name not in ("cursor", "last_delivered_id_before", "first_kept", "new_id", "a")
        }
    if isinstance(value, list):
        return ["an ID" if isinstance(one, str) and ENTRY_ID.fullmatch(one) else plain(one) for one in value]
    return value


def names(each: Case) -> str:
    return f"{each.tool}: {each.name.replace('_', ' ')}"


WAITING = [
    each
    for each in CASES
    if any(field.name == "timeout_seconds" for field in attrs.fields(REGISTRY.get(each.tool).arguments))
]
#: Only these can leave out what they did; the others do nothing.
WRITING = [each for each in CASES if not REGISTRY.get(each.tool).hints.read_only.value]


def test_every_tool_that_waits_is_tried_with_all_that_it_tells() -> None:
    for tool in REGISTRY:
        arguments = {field.name for field in attrs.fields(tool.arguments)}
        if "timeout_seconds" not in arguments:
            continue
        told = {name for each in CASES if each.tool == tool.name for name in each.tells}
        assert tool.result is not None
        assert told >= {field.name for field in attrs.fields(tool.result)}, tool.name


async def told_by(bus: Bus, server: Server, each: Case, **how: Any) -> Any:
    """Prepare a case, make its call, and return what it says."""
    arguments = await each.prepare(bus, server) | how
    content = await call(bus, each.tool, **arguments)
    assert content.keys() >= set(each.tells)
    return plain(content)


@asynccontextmanager
async def woken_often(bus: Bus) -> AsyncIterator[None]:
    """Wake all waits, every few milliseconds."""

    async def wake() -> None:
        while True:
            await trio.sleep(0.01)
            for name in (STREAM, "odd", companion_key(STREAM, Kind.REPLY, "me")):
                bus.hub.notify(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("each", WAITING, ids=names)
@pytest.mark.settings(ONCE)
async def test_a_call_that_waits_tells_what_it_tells_without_waiting(
    bus: Bus, server: Server, each: Case
) -> None:
    at_once = await told_by(bus, server, each, timeout_seconds=0)
    server.flush()
    server.command("CONFIG", "RESETSTAT")
    async with woken_often(bus):
        waiting = await told_by(bus, server, each, timeout_seconds=0.06)
    assert waiting == at_once


@pytest.mark.settings(ONCE)
async def test_what_a_wait_did_at_first_is_told_beside_what_it_got_at_last(bus: Bus, server: Server) -> None:
    async with trio.open_nursery() as nursery:
        await add(bus, 3)
        await take(bus, count=3)
        all_due(server)
        told: dict[str, dict[str, Any]] = {}

        async def wait(group: str, **how: Any) -> None:
            told[group] = await call(
                bus, "work_take", stream=STREAM, group=group, consumer="d", timeout_seconds=10, **how
            )

        nursery.start_soon(wait, "g")
        nursery.start_soon(lambda: wait("new", start="latest"))
        await until(lambda: len(told) >= 2 or bus.hub.statistics().watches >= 2)
        await until(lambda: server.command("XLEN", companion_key(STREAM, Kind.DEAD, "g")) == 3)
        await until(lambda: len(server.command("XINFO", "GROUPS", STREAM)) >= 2)
        await add(bus)
    assert (told["g"]["dead_lettered"], len(told["g"]["entries"])) == (3, 1)
    assert (told["new"]["group_created"], len(told["new"]["entries"])) == (True, 1)


@ON_REDIS
@pytest.mark.settings(ONCE)
async def test_an_error_tells_what_the_wait_had_done_before(bus: Bus, server: Server) -> None:
    async with trio.open_nursery() as nursery:
        await add(bus, 2)
        await take(bus, count=2)
        all_due(server)
        failed: list[dict[str, Any]] = []

        async def wait() -> None:
            whole = await answer(bus, "work_take", **PLACE, consumer="d", timeout_seconds=10)
            assert whole["isError"]
            failed.append(whole["structuredContent"])

        nursery.start_soon(wait)
        await until(lambda: server.command("XLEN", companion_key(STREAM, Kind.DEAD, "g")) >= 2)
        server.commands(("DEL", STREAM), ("SET", STREAM, "x"))
    assert failed[0]["code"] == "WRONG_TYPE"
    assert "dead-lettered 2 entries" in failed[0]["cause"]


#: Every command of a call deals with one thing.
SMALLEST = Bounds(**{name: 1 for name in Bounds.__struct_fields__ if name.endswith("_at_once")})


@pytest.mark.parametrize("each", CASES, ids=names)
@ON_REDIS
@pytest.mark.settings(ONCE)
async def test_a_call_in_the_smallest_parts_tells_what_it_tells_in_large_ones(
    bus: Bus, server: Server, each: Case
) -> None:
    assert DEFAULT_BOUNDS != SMALLEST
    how = {"timeout_seconds": 0} if each in WAITING else {}
    large = await told_by(bus, server, each, **how)
    server.flush()
    async with running_bus(server, ONCE, bounds=SMALLEST) as piecemeal:
        small = await told_by(piecemeal, server, each, **how)
    assert small == large


@pytest.mark.parametrize("each", WRITING, ids=names)
@pytest.mark.limit(60)
@ON_REDIS
async def test_a_call_whose_replies_are_lost_tells_what_it_tells_otherwise(
    server: Server, each: Case
) -> None:
    """One after the other: the reply to its first command, to its second, ... is lost with the connection."""
    few = Bounds(moved_at_once=3)
    how = {"timeout_seconds": 0} if each in WAITING else {}
    async with (
        running_bus(server, ONCE, bounds=few) as direct,
        proxy_to(server.path) as proxy,
        bus_at(through(proxy), settings=ONCE, bounds=few, **QUICK) as bus,
    ):
        undisturbed = await told_by(direct, server, each, **how)
        # Every connection is open, so that the lost reply is one of the call.
        await call(bus, "work_take", stream="other", group="g", consumer="c")
        await call(bus, "stream_add", stream="other", entries=[{}], durability="fsynced")
        for nth in range(20):
            server.flush()
            arguments = await each.prepare(direct, server) | how
            seen = [0]

            def decide(seen: list[int] = seen, nth: int = nth) -> float:
                if seen[0] == nth:
                    proxy.to_client.cut_after(0)
                seen[0] += 1
                return 0.0

            proxy.to_client.delay = decide
            whole = await answer(bus, each.tool, WORKER, **arguments)
            proxy.to_client.delay = lambda: 0.0
            proxy.to_client._cut_at = float("inf")
            assert not whole["isError"], (nth, whole["structuredContent"])
            told = plain(whole["structuredContent"])
            if each.tool == "work_done" and not arguments.get("delete"):
                # What is acknowledged leaves nothing behind by which to tell who did it.
                told["done"] += told["already_done"]
                told["already_done"] = []
            assert told == undisturbed, nth
            if seen[0] <= nth:
                break
    assert nth > 0
