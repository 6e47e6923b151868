"""Waits for states that nobody announces: of other processes, of sockets, of servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import trio

_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


async def until(condition: Callable[[], Any], *, every: float = 0.002) -> Any:
    """Return what `condition` returns, or the awaitable that it returns gives, once that is true.

    It looks again `every` so many seconds. The limit of the test bounds it.
    """
    while not (holds := await found if isawaitable(found := condition()) else found):  # noqa: ASYNC110 - nobody announces it
        await trio.sleep(every)
    return holds


def wait_until(condition: Callable[[], Any], *, timeout_seconds: float = 180.0) -> Any:
    """Return what `condition` returns once that is true; for tests that are not async.

    Between two looks it pauses three times as long as a look takes, and a tenth of what it has waited: one
    may be a program in a container, which takes processor time from what is waited for.

    Raises:
        AssertionError: It did not become true in time.
    """
    first = time.monotonic()
    while True:
        began = time.monotonic()
        if holds := condition():
            return holds
        now = time.monotonic()
        assert now < first + timeout_seconds, f"not within {timeout_seconds:g} s"
        pause = max(_PAUSE_SECONDS, 3 * (now - began), (now - first) / 10)
        time.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
