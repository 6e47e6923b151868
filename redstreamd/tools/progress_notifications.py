"""For tools that wait: how long they may, and progress notifications meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from redstreamd.errors import BusError
from redstreamd.streams.bus import Bus
from redstreamd.streams.waiting import Wait, run_wait
from redstreamd.tools.definition import BeginWait, Call

#: Seconds between progress notifications; well below the shortest request timeout of known clients.
_INTERVAL = 5.0

T = TypeVar("T")


def wait_seconds(call: Call[Bus], requested: float | None) -> float:
    """Return how many seconds a call may wait: as requested, or the default, within the settings' limit."""
    tools = call.bus.settings.tools
    seconds = tools.default_wait_seconds if requested is None else requested
    return min(seconds, tools.max_wait_seconds)


async def with_progress(call: Call[Bus], seconds: float, wait: Callable[[], Awaitable[T]]) -> T:
    """Await `wait` and send progress notifications, if the caller asked for them.

    Raises:
        BusError: What `wait` raised.
    """
    began = trio.current_time()

    async def report() -> None:
        while True:
            await trio.sleep(_INTERVAL)
            await call.progress(trio.current_time() - began, seconds, "waiting for entries")

    # A BusError leaves the nursery by itself, not in a group.
    results: list[T] = []
    failure: BusError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        try:
            results.append(await wait())
        except BusError as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return results[0]


async def waited(call: Call[Bus], wait: Wait | BeginWait, seconds: float) -> Any:
    """Run a wait of `seconds` with progress notifications, and return its result.

    Raises:
        BusError: Of the beginning, or of the wait.
    """

    async def run() -> Any:
        return await run_wait(wait if isinstance(wait, Wait) else await wait())

    return await with_progress(call, seconds, run)
