"""What is left of a plan is awaited as a whole by what its `rest` adds to that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redstreamd.streams.plans import Plan, UnfinishedError


async def test_what_is_beside_the_rest_of_a_call_lasts_until_its_last_step_has_ended() -> None:
    steps: list[str] = []

    async def first() -> str:
        steps.append("first")
        return "first"

    async def second() -> str:
        steps.append("second")
        return "done"

    async def rest(go_on: Callable[[], Awaitable[Any]]) -> Any:
        steps.append("begins")
        result = await go_on()
        steps.append("ends")
        return result

    def unfinished(go_on: Callable[[], Awaitable[Any]]) -> Callable[[Any], Any]:
        def step(_result: Any) -> Any:
            raise UnfinishedError(go_on)

        return step

    plan = Plan((), "s", unfinished(first)).then(unfinished(second)).then(str.upper).with_rest(rest)
    with pytest.raises(UnfinishedError) as left:
        plan.read(b"")
    assert await left.value.go_on() == "DONE"
    assert steps == ["begins", "first", "second", "ends"]
