"""One request for all who ask at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Generic, TypeVar

import trio

from redstreamd.errors import BusError

T = TypeVar("T")


class SharedRequest(Generic[T]):
    """A request whose answer concurrent callers share, but only if it began after they had asked.

    The requests run one after the other, so their answers come in order.
    """

    def __init__(
        self, request: Callable[[], Awaitable[T]], *, slots: AbstractAsyncContextManager[object] | None = None
    ) -> None:
        """Share `request`, which begins once `slots`, if given, is entered."""
        self._request = request
        self._slots = slots or nullcontext()
        self._running = trio.Lock()
        self._begun = 0
        # The number of the last request that ended, and its answer.
        self._done = 0
        self._answer: T | BusError
        self._callers = 0

    @property
    def in_use(self) -> bool:
        """Whether a caller waits for an answer."""
        return self._callers > 0

    async def answer(self) -> T:
        """Return the answer to a request that begins after this call.

        Raises:
            BusError: What the request raised; all who share it get the same.

        Cancellation: a cancelled request is made again by the next caller.
        """
        asked = self._begun
        self._callers += 1
        try:
            async with self._running:
                if self._done <= asked:
                    async with self._slots:
                        self._begun = number = self._begun + 1
                        try:
                            self._answer = await self._request()
                        except BusError as error:
                            self._answer = error
                        self._done = number
                if isinstance(self._answer, BusError):
                    raise self._answer
                return self._answer
        finally:
            self._callers -= 1
