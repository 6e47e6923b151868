"""The declaration of a supervised child, and one run of it.

Owns the interface between the supervisor and the code it runs, and the rule that tells a cancellation from a
failure. Restarts are `child_runner`'s.
"""

from __future__ import annotations

import math
from typing import Protocol

import msgspec
import trio

from redstreamd.service.exceptions import leaves
from redstreamd.service.restart_policy import Restart


class Service(Protocol):
    """What a supervisor runs: an async callable, as for ``nursery.start``."""

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled; call ``task_status.started()`` once serving."""


class Child(msgspec.Struct, frozen=True):
    """The declaration of one child.

    Attributes:
        name: Unique within its supervisor.
        run: Called for each start.
        restart: When to start it again.
        start_timeout_seconds: Time to call ``started()``; ``math.inf`` for a nested supervisor, whose
            children have timeouts of their own.
        stop_timeout_seconds: Time to end after cancellation; ``math.inf`` for a nested supervisor.
    """

    name: str
    run: Service
    restart: Restart = Restart.PERMANENT
    start_timeout_seconds: float = 10.0
    stop_timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Raise ValueError for a timeout that is not positive."""
        # Nor is what is no number.
        if not (self.start_timeout_seconds > 0.0 and self.stop_timeout_seconds > 0.0):
            raise ValueError("the timeouts of a child must be positive")


class ChildRun:
    """One run of a child, from start to end; also the child's ``task_status``.

    Attributes:
        scope: Cancels the child.
        started_or_ended: Set once the child has started or ended, whichever comes first.
        ended: Set once the child has ended.
        started_at: When it called ``started()``, in trio's time, or None.
        task: Its trio task; None before it first runs.
        error: What it failed with; None while it runs, and if it returned or was cancelled.
        fatal: A KeyboardInterrupt, SystemExit or the like that it raised, alone or in a group.
    """

    # Invariant: `ended` implies `started_or_ended`, and at most one of `error` and `fatal` is not None.

    def __init__(self, child: Child) -> None:
        """Prepare; `run` starts the child."""
        self.child = child
        self.scope = trio.CancelScope()
        self.started_or_ended = trio.Event()
        self.ended = trio.Event()
        self.started_at: float | None = None
        self.task: trio.lowlevel.Task | None = None
        self.error: BaseException | None = None
        self.fatal: BaseException | None = None

    def started(self, value: None = None) -> None:
        """Record that the child serves (trio's ``TaskStatus`` interface)."""
        if self.started_at is not None:
            raise RuntimeError("called 'started' twice on the same task status")
        self.started_at = trio.current_time()
        self.started_or_ended.set()

    async def run(self) -> None:
        """Run the child to its end and record how it ended.

        Cancellation: a child is stopped through `scope`, which absorbs its own ``Cancelled``, also out of a
        group, and leaves other errors. A ``Cancelled`` raised when nothing was cancelled is a defect of the
        child and counts as its failure. If the supervisor's surroundings are cancelled, the ``Cancelled`` is
        raised and only the rest recorded.
        """
        self.task = trio.lowlevel.current_task()
        try:
            with self.scope:
                await self.child.run(task_status=self)
        except BaseException as exc:  # noqa: BLE001 -- recorded, or raised below
            if trio.current_effective_deadline() > -math.inf:
                self._record(exc)
                return
            cancelled, rest = _split_cancelled(exc)
            self._record(rest)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self.started_or_ended.set()
            self.ended.set()

    def _record(self, exc: BaseException | None) -> None:
        if exc is None:
            return
        if all(isinstance(leaf, Exception | trio.Cancelled) for leaf in leaves(exc)):
            self.error = exc
        else:
            self.fatal = exc


def _split_cancelled(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)
    return (exc, None) if isinstance(exc, trio.Cancelled) else (None, exc)
