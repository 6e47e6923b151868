"""Lag grows: the diagnosis names the causes, and its next calls lead to the repair."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios.agents import WAYS, Agent, agent
from tests.support.daemon import Daemon
from tests.support.waiting import until

PLACE = {"stream": "shop:orders:paid", "group": "shipping"}
ENTRIES = 150


async def findings(operator: Agent) -> dict[str, dict[str, Any]]:
    """Diagnose the stream; return the findings of the group by their code."""
    diagnosis = await operator.call("stream_health", stream=PLACE["stream"])
    return {one["code"]: one for one in diagnosis["findings"] if one.get("group") == PLACE["group"]}


@WAYS
@pytest.mark.limit(60)
async def test_a_diagnosis_leads_to_the_repair_of_a_group_that_falls_behind(daemon: Daemon) -> None:
    # A worker dead-letters what it cannot do, takes more, and dies.
    async with agent(daemon) as worker:
        for start in range(0, ENTRIES, 50):
            orders = [{"order": start + n} for n in range(50)]
            await worker.call("stream_add", stream=PLACE["stream"], entries=orders)
        bad = await worker.call("work_take", **PLACE, consumer="gone", count=2)
        await worker.call("work_fail", lease=bad["lease"], action="dead_letter", reason="no address")
        held = await worker.call("work_take", **PLACE, consumer="gone", count=5, lease_seconds=1)
        worker.cut()

    async with agent(daemon) as operator:

        async def is_noticed() -> bool:
            return "dead_consumers" in await findings(operator)

        await until(is_noticed)
        found = await findings(operator)
        assert found.keys() >= {"lagging", "dead_consumers", "dead_letters"}

        # Every call that is recommended can be made as it is.
        lagging, dead, letters = found["lagging"], found["dead_consumers"], found["dead_letters"]
        assert lagging["evidence"]["lag"] == ENTRIES - 7
        assert dead["evidence"]["consumers"][0]["consumer"] == "gone"
        assert letters["evidence"]["dead_letters"] == 2
        stuck = await operator.follow(dead["next_call"])
        assert [entry["id"] for entry in stuck["entries"]] == [e["id"] for e in held["entries"]]
        assert {entry["consumer"] for entry in stuck["entries"]} == {"gone"}
        listed = await operator.follow(letters["next_call"])
        assert {letter["dead_letter"]["reason"] for letter in listed["entries"]} == {"no address"}

        # The dead consumer goes, and what it held becomes anybody's.
        removal = {**PLACE, "action": "remove_consumer", "consumer": "gone", "pending": "release"}
        plan = await operator.call("group_manage", **removal)
        assert plan["effect"]["released"] == 5
        removed = await operator.call("group_manage", **removal, dry_run=False)
        assert removed["effect"] == {"removed": "gone", "released": 5}
        # What cannot be done at all goes as well.
        await operator.call("dead_letter_replay", **PLACE, action="delete", dry_run=False)

        # The recommended call, made by a new worker again and again, drains the group.
        finished: list[str] = []
        while True:
            taken = await operator.follow(lagging["next_call"], consumer="new")
            if not taken["entries"]:
                break
            finished += (await operator.call("work_done", lease=taken["lease"]))["done"]
        assert set(finished) >= {entry["id"] for entry in held["entries"]}
        assert len(finished) == len(set(finished)) == ENTRIES - 2
        assert await findings(operator) == {}


async def test_a_group_without_consumers_says_how_to_join_it(daemon: Daemon) -> None:
    async with agent(daemon) as operator:
        await operator.call("group_create", **PLACE)
        added = await operator.call("stream_add", stream=PLACE["stream"], entries=[{"order": 1}])
        nobody = (await findings(operator))["no_consumers"]
        assert nobody["severity"] == "critical"
        taken = await operator.follow(nobody["next_call"], consumer="new")
        assert [entry["id"] for entry in taken["entries"]] == added["ids"]
        assert await findings(operator) == {}
