"""A queue is drained although its worker crashes twice: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import pytest

from tests.scenarios.agents import Agent, agent
from tests.support.daemon import Daemon
from tests.support.servers import Server
from tests.support.waiting import until

JOBS = {"stream": "shop:orders:paid", "group": "shipping"}
ENTRIES = 30


@pytest.mark.parametrize("era", ["handshake", "modern"])
@pytest.mark.limit(60)
async def test_a_queue_is_drained_although_its_worker_crashes_twice(
    daemon: Daemon, redis: Server, era: Any
) -> None:
    shipped: Counter[str] = Counter()
    attempts: dict[str, int] = {}

    async def ship(worker: Agent, lease: str, entry: dict[str, Any]) -> None:
        shipped[entry["id"]] += 1
        attempts[entry["id"]] = entry["attempt"]
        finished = await worker.call("work_done", lease=lease, entry_ids=[entry["id"]])
        assert finished["done"] == [entry["id"]]

    async with agent(daemon, era) as shop:
        orders = [{"order": n} for n in range(ENTRIES)]
        ids = (await shop.call("stream_add", stream=JOBS["stream"], entries=orders))["ids"]

    # The first life ends while the fifth order is reported: whether that counted, it never learns.
    async with agent(daemon, era) as worker:
        first = await worker.call("work_take", **JOBS, consumer="worker", count=10, lease_seconds=30)
        assert [entry["id"] for entry in first["entries"]] == ids[:10]
        for entry in first["entries"][:4]:
            await ship(worker, first["lease"], entry)
        shipped[ids[4]] += 1
        attempts[ids[4]] = 1
        # Redis stands still, so that the answer cannot be faster than the cut.
        redis.signal(signal.SIGSTOP)
        try:
            await worker.crash_during("work_done", lease=first["lease"], entry_ids=[ids[4]])
        finally:
            redis.signal(signal.SIGCONT)

    async with agent(daemon, era) as worker:
        # Its request had been sent whole, so the daemon carries it out.
        async def is_counted() -> bool:
            return bool((await worker.call("pending_list", **JOBS))["pending"] == 5)

        await until(is_counted)
        # The restarted worker continues where the first one ended, and voids the first one's lease.
        second = await worker.call(
            "work_take", **JOBS, consumer="worker", count=10, lease_seconds=1, resume=True
        )
        assert [(entry["id"], entry["attempt"]) for entry in second["entries"]] == [
            (entry_id, 2) for entry_id in ids[5:10]
        ]
        late = await worker.refusal("work_done", lease=first["lease"], entry_ids=ids[5:10])
        assert late["code"] == "LEASE_LOST"
        repeated = await worker.call("work_done", lease=first["lease"], entry_ids=ids[:5])
        assert (repeated["done"], repeated["already_done"]) == ([], ids[:5])
        for entry in second["entries"][:2]:
            await ship(worker, second["lease"], entry)
        worker.cut()

    # That worker does not come back: another one takes the new orders, and waits for the old ones.
    async with agent(daemon, era) as other:
        while (await other.call("pending_list", **JOBS))["pending"] or len(shipped) < ENTRIES:
            taken = await other.call("work_take", **JOBS, consumer="other", count=7, timeout_seconds=10)
            for entry in taken["entries"]:
                await ship(other, taken["lease"], entry)
        late = await other.call("work_done", lease=second["lease"])
        assert (late["done"], late["already_done"]) == ([], ids[5:10])

    assert shipped == dict.fromkeys(ids, 1)
    assert attempts == (dict.fromkeys(ids, 1) | dict.fromkeys(ids[5:7], 2) | dict.fromkeys(ids[7:10], 3))
    (group,) = redis.command("XINFO", "GROUPS", JOBS["stream"])
    figures = dict(zip(group[::2], group[1::2], strict=True))
    assert (figures[b"pending"], figures[b"lag"]) == (0, 0)
