"""Work fails until it is given up, is looked at, put back and done."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenarios.agents import WAYS, agent
from tests.support.daemon import Daemon

PLACE = {"stream": "shop:orders:paid", "group": "shipping"}


@WAYS
@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_a_dead_letter_is_replayed_and_worked_off(daemon: Daemon, era: Any) -> None:
    order = {"order": 7, "to": {"city": "Kiel"}}
    async with agent(daemon, era) as operator:
        await operator.call("stream_add", stream=PLACE["stream"], entries=[order])
        entry: dict[str, Any] = {}
        for attempt in (1, 2, 3):
            taken = await operator.call("work_take", **PLACE, consumer="a")
            (entry,) = taken["entries"]
            assert entry["attempt"] == attempt
            failed = await operator.call(
                "work_fail", lease=taken["lease"], action="release", reason="printer jam"
            )
            buried = failed["dead_lettered"] == [entry["id"]]
            assert buried is (attempt == 3)  # leases.max_deliveries
        assert (await operator.call("work_take", **PLACE, consumer="a"))["entries"] == []

        listed = await operator.call("dead_letter_replay", **PLACE)
        (letter,) = listed["entries"]
        assert letter["fields"] == order
        note = {name: letter["dead_letter"][name] for name in ("reason", "id", "attempts")}
        assert note == {"reason": "printer jam", "id": entry["id"], "attempts": 3}

        plan = await operator.call("dead_letter_replay", **PLACE, action="replay")
        assert plan["dry_run"] is True
        assert plan["replayed"] == [{"id": letter["id"]}]
        assert (await operator.call("dead_letter_replay", **PLACE))["total"] == 1
        assert (await operator.call("work_take", **PLACE, consumer="a"))["entries"] == []

        chosen = {**PLACE, "action": "replay", "entry_ids": [letter["id"]], "dry_run": False}
        replayed = await operator.call("dead_letter_replay", **chosen)
        (line,) = replayed["replayed"]
        again = await operator.call("dead_letter_replay", **chosen)
        assert (again.get("replayed"), again["gone"]) == (None, [letter["id"]])

        taken = await operator.call("work_take", **PLACE, consumer="b")
        (second,) = taken["entries"]
        assert (second["id"], second["fields"], second["attempt"]) == (line["new_id"], order, 1)
        assert second["sender"] == letter["sender"]
        assert (await operator.call("work_done", lease=taken["lease"]))["done"] == [second["id"]]
        assert (await operator.call("dead_letter_replay", **PLACE))["total"] == 0
        assert (await operator.call("pending_list", **PLACE))["pending"] == 0
