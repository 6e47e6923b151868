"""Two agents talk by request_reply while one of them restarts: no question is asked twice, no answer lost."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios.agents import agent
from tests.support.daemon import Daemon
from tests.support.servers import Server
from tests.support.waiting import until

STREAM = "shop:prices:asked"
WORK = {"stream": STREAM, "group": "pricing", "consumer": "clerk"}
ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])


@ERAS
async def test_an_answer_that_comes_late_because_the_clerk_restarted_is_found(
    daemon: Daemon, redis: Server, era: Any
) -> None:
    question = {"stream": STREAM, "entry": {"sku": "a-1"}, "correlation_id": "q-1"}
    async with agent(daemon, era) as asker:
        async with agent(daemon, era) as clerk:
            asked = await asker.call("request_reply", **question, timeout_seconds=0)
            assert asked["answered"] is False
            taken = await clerk.call("work_take", **WORK)
            assert [entry["id"] for entry in taken["entries"]] == [asked["request_id"]]
            clerk.cut()

        # Asked again meanwhile, it is the same question.
        again = await asker.call("request_reply", **question, timeout_seconds=0)
        assert (again["resumed"], again["request_id"]) == (True, asked["request_id"])

        async with agent(daemon, era) as clerk:
            resumed = await clerk.call("work_take", **WORK, resume=True)
            (entry,) = resumed["entries"]
            assert (entry["id"], entry["attempt"]) == (asked["request_id"], 2)
            done = await clerk.call("work_done", lease=resumed["lease"], reply={"price": 12.5})
            assert done["reply"]["stream"] == asked["reply_to"]

        # Both ways to the late answer: the recommended call, and the same question.
        found = await asker.follow(asked["next_call"])
        (reply,) = found["entries"]
        assert (reply["id"], reply["fields"]) == (done["reply"]["id"], {"price": 12.5})
        assert reply.items() >= asked["next_call"]["match"].items()
        answered = await asker.call("request_reply", **question, timeout_seconds=0)
        assert (answered["answered"], answered["reply"]["id"]) == (True, reply["id"])
    assert redis.command("XLEN", STREAM) == 1


@ERAS
async def test_an_asker_that_restarts_while_it_waits_asks_once(
    daemon: Daemon, redis: Server, era: Any
) -> None:
    question = {"stream": STREAM, "entry": {"sku": "a-1"}, "idempotency_key": "today's price of a-1"}
    async with agent(daemon, era) as clerk:
        async with agent(daemon, era) as asker:
            await asker.crash_during("request_reply", **question, timeout_seconds=60)

        async def is_asked() -> bool:
            return bool(redis.command("XLEN", STREAM))

        await until(is_asked)
        taken = await clerk.call("work_take", **WORK)
        (entry,) = taken["entries"]
        # No call waits when this reply is published.
        await clerk.call("work_done", lease=taken["lease"], reply={"price": 12.5})

        async with agent(daemon, era) as asker:
            answered = await asker.call("request_reply", **question, timeout_seconds=10)
            assert (answered["answered"], answered["resumed"]) == (True, True)
            assert answered["request_id"] == entry["id"]
            assert answered["reply"]["fields"] == {"price": 12.5}
        assert (await clerk.call("work_take", **WORK))["entries"] == []
    assert redis.command("XLEN", STREAM) == 1
