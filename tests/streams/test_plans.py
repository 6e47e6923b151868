"""What is left of a plan is awaited as a whole by what its `rest` adds to that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redstreamd.errors.defects import Defect
from redstreamd.redisio.unexpected_replies import UnexpectedReply
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

    begun = Plan((), "s", unfinished(first)).then(unfinished(second))
    plan = begun.then(str.upper).with_rest(rest)
    # Neither changes the plan that it is made of.
    assert (len(begun.conversions), begun.rest) == (1, None)
    with pytest.raises(UnfinishedError) as left:
        plan.read(b"")
    assert await left.value.go_on() == "DONE"
    assert steps == ["begins", "first", "second", "ends"]


@pytest.mark.parametrize(
    ("place", "raised"), [(0, UnexpectedReply), (1, TypeError), (2, TypeError)], ids=["reply", "ours", "ours"]
)
def test_only_the_first_step_can_find_the_reply_unexpected(
    place: int, raised: type[Exception], defects: list[Defect]
) -> None:
    def fail(_result: Any) -> Any:
        raise TypeError("not this type")

    # The same function may be more than one step.
    steps = [str.upper, str.upper, str.upper]
    steps[place] = fail
    plan: Plan[Any] = Plan((), "s", steps[0]).then(steps[1]).then(steps[2])
    with pytest.raises(Exception, match=r".") as told:
        plan.read("reply")
    assert type(told.value) is raised
    assert len(defects) == (raised is UnexpectedReply)
