"""What tools that wait have in common: how long, and telling the caller that it is still waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from redstreamd.errors import BusError
from redstreamd.streams.bus import Bus
from redstreamd.tools.definition import Call

#: Seconds between progress notifications; well under the shortest time after which clients give up.
_INTERVAL = 5.0

T = TypeVar("T")


def wait_seconds(call: Call[Bus], asked: float | None, *, default: float | None = None) -> float:
    """Return how long a call may wait: what it asked for, or the default, within the settings' bound."""
    tools = call.bus.settings.tools
    if asked is None:
        asked = tools.default_wait_seconds if default is None else default
    return min(asked, tools.max_wait_seconds)


async def reporting(call: Call[Bus], seconds: float, wait: Callable[[], Awaitable[T]]) -> T:
    """Run `wait`, sending progress every few seconds to a caller that asked for it.

    Raises:
        BusError: What `wait` raised.
    """
    began = trio.current_time()

    async def report() -> None:
        while True:
            await trio.sleep(_INTERVAL)
            await call.progress(trio.current_time() - began, seconds, "waiting for entries")

    # Errors leave the nursery one by one, not in a group: callers handle a BusError.
    answer: list[T] = []
    failure: BusError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        try:
            answer.append(await wait())
        except BusError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return answer[0]
