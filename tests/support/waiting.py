"""Waits for states that nobody announces: of other processes, of sockets, of servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import trio


async def until(condition: Callable[[], Any], *, every: float = 0.002) -> Any:
    """Return what `condition` returns, or the awaitable that it returns gives, once that is true.

    It looks again `every` so many seconds. The limit of the test bounds it.
    """
    while not (holds := await found if isawaitable(found := condition()) else found):  # noqa: ASYNC110 - nobody announces it
        await trio.sleep(every)
    return holds


def wait_until(condition: Callable[[], Any], *, timeout_seconds: float = 180.0) -> Any:
    """Return what `condition` returns once that is true; for tests that are not async.

    Raises:
        AssertionError: It did not become true in time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (holds := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_seconds:g} s"
        time.sleep(0.02)
    return holds
