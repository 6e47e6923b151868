"""request_reply and work_done's reply on real servers: one question, one answer, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio.redis_errors import OutcomeUnknown
from redstreamd.settings import LimitsSettings, Settings, StreamsSettings
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.names import Kind, companion_key
from tests.support.buses import running_bus
from tests.support.calls import call, refusal
from tests.support.servers import Server
from tests.support.waiting import until

ASKER, WORKER = Principal("asker", "unix"), Principal("worker", "unix")
MINE = companion_key("s", Kind.REPLY, "asker")
GROUP = {"stream": "s", "group": "g"}


async def ask(bus: Bus, seconds: float = 20.0, **how: Any) -> dict[str, Any]:
    arguments = {"stream": "s", "entry": {"question": 1}, "timeout_seconds": seconds} | how
    return await call(bus, "request_reply", ASKER, **arguments)


async def take(bus: Bus, consumer: str = "w") -> dict[str, Any]:
    return await call(bus, "work_take", WORKER, **GROUP, consumer=consumer, timeout_seconds=10)


async def test_a_worker_answers_and_the_asker_who_waits_gets_it(server: Server) -> None:
    answers: list[dict[str, Any]] = []
    async with running_bus(server) as one, running_bus(server) as two, trio.open_nursery() as nursery:

        async def wait() -> None:
            answers.append(await ask(one))

        nursery.start_soon(wait)
        taken = await take(two)
        assert answers == []
        done = await call(two, "work_done", WORKER, lease=taken["lease"], reply={"answer": [42]})
    (got,) = answers
    (asked,) = taken["entries"]
    assert asked["sender"] == "asker"
    assert asked["correlation_id"] == got["correlation_id"]
    assert asked["reply_to"] == got["reply_to"] == MINE == done["reply"]["stream"]
    assert got["answered"] is True
    assert got["request_id"] == asked["id"]
    assert got["reply"]["fields"] == {"answer": [42]}
    assert got["reply"]["sender"] == "worker"
    assert got["reply"]["id"] == done["reply"]["id"]
    assert done["done"] == [asked["id"]]
    assert "next_call" not in got


async def test_each_of_many_askers_gets_its_own_answer(bus: Bus) -> None:
    got: dict[int, Any] = {}
    askers = 50
    async with trio.open_nursery() as nursery:

        async def wait(number: int) -> None:
            got[number] = (await ask(bus, entry={"n": number}))["reply"]["fields"]

        for number in range(askers):
            nursery.start_soon(wait, number)
        tasks = []
        while len(tasks) < askers:
            tasks.append(await take(bus))
        for task in reversed(tasks):
            reply = {"n": task["entries"][0]["fields"]["n"]}
            await call(bus, "work_done", WORKER, lease=task["lease"], reply=reply)
    assert got == {number: {"n": number} for number in range(askers)}


@pytest.mark.parametrize("by", ["idempotency_key", "correlation_id", "returned correlation_id"])
async def test_asking_again_resumes_the_wait_and_adds_nothing(bus: Bus, server: Server, by: str) -> None:
    how = {} if by.startswith("returned") else {by: "k-1"}
    first = await ask(bus, 0, **how)
    assert first["answered"] is False
    again = how or {"correlation_id": first["correlation_id"]}
    waiting = await ask(bus, 0, **again)
    # The reply comes while no call waits.
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"late": True})
    late = await ask(bus, 0, **again)
    twice = await ask(bus, 0, **again)
    assert server.command("XLEN", "s") == 1
    assert waiting["resumed"] is late["resumed"] is True
    assert "resumed" not in first
    assert waiting["correlation_id"] == first["correlation_id"]
    assert late["reply"]["fields"] == {"late": True}
    assert twice == late


async def test_the_next_call_of_a_timeout_gets_the_late_answer(bus: Bus) -> None:
    # The stream has other replies already, and more arrive.
    await ask(bus, 0, entry={"other": 1})
    other = await take(bus)
    await call(bus, "work_done", WORKER, lease=other["lease"], reply={"for": "other"})
    missed = await ask(bus, 0)
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"for": "this"})
    late = missed["next_call"]
    waited = await call(bus, late["tool"], ASKER, **late["arguments"], timeout_seconds=0)
    (reply,) = waited["entries"]
    assert reply["fields"] == {"for": "this"}
    assert {name: reply[name] for name in late["match"]} == late["match"]


@pytest.mark.settings(Settings(streams=StreamsSettings(naming="error")))
async def test_an_answer_may_be_added_by_hand_and_by_redis_cli(bus: Bus, server: Server) -> None:
    stream = "a:b:c"
    named = {"stream": stream, "reply_to": "a:b:answers", "correlation_id": "one"}
    first = await ask(bus, 0, **named)
    by_hand = {"entries": [{"by": "stream_add"}], "correlation_id": "one"}
    await call(bus, "stream_add", WORKER, stream=first["reply_to"], **by_hand)
    answered = await ask(bus, 0, **named)
    # The stream that redstreamd makes for replies is the asker's alone.
    own = await ask(bus, 0, stream=stream, correlation_id="two")
    refused = await refusal(bus, "stream_add", WORKER, stream=own["reply_to"], **by_hand)
    assert refused["code"] == "STREAM_NOT_FOUND"
    added = await call(bus, "stream_add", ASKER, stream=own["reply_to"], **by_hand)
    assert "warning" not in added
    server.cli("XADD", own["reply_to"], "*", "correlation_id", "two", "by", "redis-cli")
    by_cli = await ask(bus, 0, stream=stream, correlation_id="two")
    listed = await call(bus, "stream_list")
    assert answered["reply"]["fields"] == {"by": "stream_add"}
    assert by_cli["reply"]["fields"]["by"] == "redis-cli"
    assert "sender" not in by_cli["reply"]
    # The reply stream is no stream of anybody's.
    assert [line["stream"] for line in listed["streams"]] == ["a:b:answers", stream]


@pytest.mark.bounds(Bounds(replies=100))
async def test_the_reply_stream_is_bounded_in_time_and_length(bus: Bus, server: Server) -> None:
    await ask(bus, 0)
    kept = server.command("PTTL", MINE)
    assert 0 < kept <= 86_400_000
    assert server.command("XLEN", MINE) == 0
    server.commands(*[("XADD", MINE, "*", "n", n) for n in range(1_000)])
    assert server.command("PTTL", MINE) > 0
    await ask(bus, 0)
    assert 100 <= server.command("XLEN", MINE) < 300
    # An answer that comes when the stream has gone makes it for a while only, too.
    taken = await take(bus)
    server.command("DEL", MINE)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"late": 1})
    assert server.command("XLEN", MINE) == 1
    assert server.command("PTTL", MINE) > 0


async def test_a_reply_stream_that_the_asker_names_is_left_as_it_is(bus: Bus, server: Server) -> None:
    first = await ask(bus, 0, reply_to="mine", correlation_id="c")
    assert first["reply_to"] == "mine"
    assert server.command("EXISTS", "mine") == 0
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    assert server.command("PTTL", "mine") == -1
    late = await ask(bus, 0, reply_to="mine", correlation_id="c")
    assert late["answered"] is True


async def test_finishing_twice_answers_once(bus: Bus, server: Server) -> None:
    await ask(bus, 0)
    taken = await take(bus)
    first = await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    again = await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    assert server.command("XLEN", MINE) == 1
    assert first["reply"]["duplicate"] is False
    assert again["reply"] == first["reply"] | {"duplicate": True}
    assert again["already_done"] == first["done"]


async def test_a_worker_that_died_between_reply_and_acknowledgement_has_answered_once(
    bus: Bus, server: Server
) -> None:
    await ask(bus, 0, correlation_id="c")
    first = await take(bus, "one")
    await bus.replies.publish(
        bus.work.read_lease(first["lease"], WORKER),
        None,
        {"from": "one"},
        authorise=lambda *_: None,
        quarantines=lambda _: False,
    )
    assert server.command("XPENDING", "s", "g")[0] == 1
    seconds = int(server.command("TIME")[0]) - 1
    (entry,) = first["entries"]
    server.command("ZADD", companion_key("s", Kind.DUE, "g"), seconds * 1000, f"{entry['id']}/1")
    second = await take(bus, "two")
    assert second["entries"][0]["attempt"] == 2
    done = await call(bus, "work_done", WORKER, lease=second["lease"], reply={"from": "two"})
    stale = await call(bus, "work_done", WORKER, lease=first["lease"], reply={"from": "one"})
    got = await ask(bus, 0, correlation_id="c")
    assert server.command("XLEN", MINE) == 1
    assert done["done"] == [entry["id"]]
    assert done["reply"] == {"stream": MINE, "duplicate": True}
    assert got["reply"]["fields"] == {"from": "one"}
    assert stale["already_done"] == done["done"]
    assert stale["reply"]["duplicate"] is True


async def test_an_attempt_that_lost_its_lease_does_not_answer(bus: Bus, server: Server) -> None:
    await ask(bus, 0)
    old = await take(bus, "one")
    server.command("XCLAIM", "s", "g", "two", 0, old["entries"][0]["id"])
    lost = await refusal(bus, "work_done", WORKER, lease=old["lease"], reply={"a": 1})
    assert server.command("XLEN", MINE) == 0
    assert lost["code"] == "LEASE_LOST"


async def test_a_reply_that_has_nowhere_to_go_leaves_the_work_unfinished(bus: Bus, server: Server) -> None:
    for reply_to in (None, "s:rs:dead:g:{s}"):
        # stream_add refuses such a name, but other programs can use it.
        await bus.publisher.add("s", [{"n": 1}], Stamp(reply_to=reply_to))
        taken = await take(bus)
        refused = await refusal(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
        assert refused["code"] == "INVALID_ARGUMENT"
        assert server.command("XPENDING", "s", "g")[0] == 1
        assert (await call(bus, "work_done", WORKER, lease=taken["lease"]))["done"]
    assert server.command("EXISTS", "s:rs:dead:g:{s}") == 0
    await call(bus, "stream_add", ASKER, stream="s", entries=[{}, {}], reply_to="r")
    both = await call(bus, "work_take", WORKER, **GROUP, consumer="w", count=2)
    several = await refusal(bus, "work_done", WORKER, lease=both["lease"], reply={"a": 1})
    for entry in both["entries"]:
        one = {"lease": both["lease"], "entry_ids": [entry["id"]], "reply": {"to": entry["id"]}}
        assert (await call(bus, "work_done", WORKER, **one))["done"] == [entry["id"]]
    assert server.command("XLEN", "r") == 2
    assert several["code"] == "INVALID_ARGUMENT"
    assert "entry_ids" in several["next_step"]


async def test_another_question_under_the_same_key_is_refused(bus: Bus, server: Server) -> None:
    await ask(bus, 0, idempotency_key="k")
    changed = {"stream": "s", "entry": {"x": 2}, "idempotency_key": "k", "timeout_seconds": 0}
    other = await refusal(bus, "request_reply", ASKER, **changed)
    server.command("SET", "string", "x")
    wrong = await refusal(
        bus, "request_reply", ASKER, stream="s", entry={}, reply_to="string", timeout_seconds=0
    )
    assert server.command("XLEN", "s") == 1
    assert other["code"] == "INVALID_ARGUMENT"
    assert wrong["code"] == "WRONG_TYPE"


@pytest.mark.settings(Settings(limits=LimitsSettings(max_waits=1)))
async def test_a_wait_that_is_refused_leaves_no_question_behind(bus: Bus, server: Server) -> None:
    with bus.hub.watch(("other",)):
        refused = await refusal(bus, "request_reply", ASKER, stream="s", entry={"a": 1})
    assert server.command("EXISTS", "s") == 0
    assert refused["code"] == "RATE_LIMITED"


async def test_a_lost_add_says_how_to_go_on_without_asking_twice(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*_: object, **__: object) -> None:
        raise OutcomeUnknown("EVALSHA", cause="the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(bus.publisher, "add", lose)
        lost = await refusal(bus, "request_reply", ASKER, stream="s", entry={"question": 1})
    correlation_id = lost["next_step"].split("'")[1]
    resumed = await ask(bus, 0, correlation_id=correlation_id)
    assert lost["code"] == "OUTCOME_UNKNOWN"
    assert resumed["correlation_id"] == correlation_id


async def test_a_wait_outlives_a_redis_that_cannot_be_asked_for_a_while(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[dict[str, Any]] = []
    real, failures = Pages.plan, 0

    def broken(pages: Pages, *args: Any, **how: Any) -> Any:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise BusError(Code.CONNECTION_ERROR, "down", cause="down", next_step="wait")
        return real(pages, *args, **how)

    monkeypatch.setattr(Pages, "plan", broken)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            answers.append(await ask(bus))

        nursery.start_soon(wait)
        await until(lambda: failures >= 2)
        taken = await take(bus)
        await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    assert answers[0]["answered"] is True


@pytest.mark.parametrize("kind", [Kind.DUE, Kind.DEAD, Kind.TRIES])
async def test_a_reply_stream_that_no_worker_could_answer_to_is_refused_at_once(
    bus: Bus, server: Server, kind: Kind
) -> None:
    reply_to = companion_key("s", kind, "g")
    refused = await refusal(bus, "request_reply", ASKER, stream="s", entry={}, reply_to=reply_to)
    assert server.command("DBSIZE") == 0
    assert refused["code"] == "INVALID_STREAM"


async def test_a_stream_with_a_long_name_is_answered(bus: Bus) -> None:
    stream = "s" * 400
    await ask(bus, 0, stream=stream, correlation_id="c")
    taken = await call(bus, "work_take", WORKER, stream=stream, group="g", consumer="w")
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    got = await ask(bus, 0, stream=stream, correlation_id="c")
    assert got["answered"] is True


async def test_a_request_is_not_its_own_answer(bus: Bus) -> None:
    how = {"reply_to": "s", "correlation_id": "c"}
    first = await ask(bus, 0, **how)
    resumed = await ask(bus, 0, **how)
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    got = await ask(bus, 0, **how)
    assert first["answered"] is resumed["answered"] is False
    assert got["reply"]["fields"] == {"a": 1}


@pytest.mark.parametrize("reply_to", [None, "mine"])
async def test_an_answer_is_found_although_its_request_is_ahead_of_the_clock(
    bus: Bus, server: Server, reply_to: str | None
) -> None:
    how: dict[str, Any] = {"correlation_id": "c"} | ({} if reply_to is None else {"reply_to": reply_to})
    ahead = int(server.command("TIME")[0]) + 3_600
    server.command("XADD", "s", f"{ahead}000-0", "n", "1")
    server.command("XGROUP", "CREATE", "s", "g", "$")
    await ask(bus, 0, **how)
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    got = await ask(bus, 0, **how)
    assert got["reply"]["fields"] == {"a": 1}


async def test_the_answer_to_an_older_request_is_not_taken(bus: Bus, server: Server) -> None:
    for n in range(2):
        # The record of the first request has expired when the second is made.
        for record in server.command("KEYS", "s:rs:idem:*"):
            server.command("DEL", record)
        await ask(bus, 0, entry={"n": n}, correlation_id="c")
        if n == 0:
            taken = await take(bus)
            await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"n": n})
    resumed = await ask(bus, 0, entry={"n": 1}, correlation_id="c")
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"n": 1})
    got = await ask(bus, 0, entry={"n": 1}, correlation_id="c")
    assert (resumed["resumed"], resumed["answered"]) == (True, False)
    assert got["reply"]["fields"] == {"n": 1}


@pytest.mark.bounds(Bounds(replies=10))
async def test_an_answer_far_behind_others_is_found_also_in_a_long_stream_of_the_askers(
    bus: Bus, server: Server
) -> None:
    server.commands(*[("XADD", "mine", f"{n}-1", "n", n) for n in range(1, 500)])
    await ask(bus, 0, reply_to="mine", correlation_id="c")
    taken = await take(bus)
    await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    got = await ask(bus, 0, reply_to="mine", correlation_id="c")
    assert got["answered"] is True


async def test_a_refusal_names_the_argument_that_was_given(bus: Bus) -> None:
    await ask(bus, 0, correlation_id="abc")
    other = await refusal(bus, "request_reply", ASKER, stream="s", entry={"x": 2}, correlation_id="abc")
    await ask(bus, 0, correlation_id="one", idempotency_key="k")
    how = {"stream": "s", "entry": {"question": 1}, "idempotency_key": "k"}
    moved = await refusal(bus, "request_reply", ASKER, **how, correlation_id="two")
    assert other["message"] == "correlation_id 'abc' was used with another request."
    assert "idempotency_key" not in " ".join(other.values())
    assert moved["message"] == "idempotency_key 'k' was used with another entry, correlation_id or reply_to."


async def test_nobody_takes_the_place_of_a_reply_or_a_request(bus: Bus) -> None:
    await call(bus, "stream_add", stream="s", entries=[{"n": 0}], idempotency_key="request:c")
    await call(bus, "stream_add", stream="s", entries=[{"n": 0}], idempotency_key="c")
    await call(bus, "work_take", WORKER, **GROUP, consumer="w", count=2)
    asked = await ask(bus, 0, correlation_id="c")
    for key in ("\0".join(("reply", "s", "g", asked["request_id"])), f"s\0g\0{asked['request_id']}"):
        await call(bus, "stream_add", ASKER, stream=MINE, entries=[{"n": 0}], idempotency_key=key)
    taken = await take(bus)
    done = await call(bus, "work_done", WORKER, lease=taken["lease"], reply={"a": 1})
    got = await ask(bus, 0, correlation_id="c")
    assert done["reply"]["duplicate"] is False
    assert got["reply"]["fields"] == {"a": 1}
