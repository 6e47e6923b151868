"""Work of the daemon that belongs to no task of a client: short tasks, and long loops cut into parts.

Owns the nursery of such tasks. What is begun while nothing runs them, or is interrupted, begins anew with the
next `run`; so a defect elsewhere that ends the run loses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import trio

from redstreamd.admission.turns import next_turn
from redstreamd.errors.defects import report_defect

#: Clients that are told in one part of a loop, with the writes to them about two milliseconds.
TOLD_AT_ONCE: Final = 64

Work = Callable[[], Awaitable[None]]
"""Can be begun again if it was cancelled; handles its own errors."""


class Background:
    """Runs tasks, and the parts of loops in turn."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._nursery: trio.Nursery | None = None
        # What could not be started, or was cancelled.
        self._postponed: deque[Work] = deque()
        self._loops: deque[Iterator[None]] = deque()
        self._wake = trio.Event()

    def start(self, work: Work) -> None:
        """Run a task soon."""
        if self._nursery is None:
            self._postponed.append(work)
        else:
            self._nursery.start_soon(self._run, work)

    def spread(self, loop: Iterator[None]) -> None:
        """Take the first part of a loop at once, and the others in turns; each part ends with a ``yield``.

        A part should take about two milliseconds, with the writes that it causes at the end of the pass.
        """
        if self._advance(loop):
            self._loops.append(loop)
            self._wake.set()

    async def run(self) -> None:
        """Do the work until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while self._postponed:
                    nursery.start_soon(self._run, self._postponed.popleft())
                while True:
                    while self._loops:
                        loop = self._loops.popleft()
                        if self._advance(loop):
                            self._loops.append(loop)
                        await next_turn()
                    self._wake = trio.Event()
                    await self._wake.wait()
            finally:
                self._nursery = None

    async def _run(self, work: Work) -> None:
        try:
            await work()
        except trio.Cancelled:
            self._postponed.append(work)
            raise

    @staticmethod
    def _advance(loop: Iterator[None]) -> bool:
        """Take one part, and return whether there are more."""
        try:
            next(loop)
        except StopIteration:
            return False
        except Exception as exc:  # noqa: BLE001 - the others depend on it
            report_defect("work in parts failed unexpectedly", exc)
            return False
        return True
