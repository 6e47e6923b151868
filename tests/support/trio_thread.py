"""Runs an async context in a thread of its own, for tests that are not async.

Hypothesis calls ordinary functions, and what they talk to must outlive each call.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import trio

ValueT = TypeVar("ValueT")
T = TypeVar("T")

#: For one call, and for the beginning and the end.
SECONDS = 120


class TrioThread(Generic[ValueT]):
    """A thread with a run of trio.

    Attributes:
        value: What the context gave.
    """

    value: ValueT

    def __init__(self, context: AbstractAsyncContextManager[ValueT]) -> None:
        """Start the thread, and return once the context is entered."""
        self._context = context
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(SECONDS)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with self._context as self.value:
            self._ready.set()
            await self._stop.wait()

    def call(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Run an async function in the thread and return what it returns, within `SECONDS`."""

        async def bounded() -> T:
            with trio.fail_after(SECONDS):
                return await function(*args)

        return trio.from_thread.run(bounded, trio_token=self._token)

    def close(self) -> None:
        """Leave the context and stop the thread."""
        trio.from_thread.run_sync(self._stop.set, trio_token=self._token)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
