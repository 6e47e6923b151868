"""One child of a supervisor: how it is declared, and one life of it.

Owns the border between the supervisor and the code it runs: the service interface, and
the rule by which a cancellation is told from a failure. Knows nothing of restarts; those
are the keeper's.
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs
import trio

from redstreamd.service.exceptions import leaves
from redstreamd.service.restart_policy import Restart


class Service(Protocol):
    """Anything a supervisor can run: one async callable, as for ``nursery.start``."""

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled, and call ``task_status.started()`` once it is really serving."""


@attrs.frozen
class Child:
    """A declaration of one child.

    Attributes:
        name: Unique within its supervisor.
        run: Called anew for each start. For objects that run once and are discarded, give a
            function that makes one and runs it.
        restart: When to start it again.
        start_timeout_seconds: How long it may take to call ``started()``; ``math.inf`` for a
            nested supervisor, whose children have timeouts of their own.
        stop_timeout_seconds: How long it may take to end once it is cancelled; ``math.inf``
            for a nested supervisor, for the same reason.
    """

    name: str
    run: Service
    restart: Restart = Restart.PERMANENT
    start_timeout_seconds: float = attrs.field(default=10.0, validator=attrs.validators.gt(0.0))
    stop_timeout_seconds: float = attrs.field(default=10.0, validator=attrs.validators.gt(0.0))


class ChildRun:
    """One life of a child, from its start to its end; it is also the child's ``task_status``.

    Attributes:
        scope: Everything the child does happens inside; cancelling it is how the child is stopped.
        settled: Set once the child has started or ended, whichever comes first.
        ended: Set once the child has ended.
        started_at: When it called ``started()``, in trio's time, or None.
        task: Its trio task, for a look at where it hangs; None before it first runs.
        error: How it failed; None while it lives, and if it returned or was cancelled.
        fatal: A KeyboardInterrupt, SystemExit or the like that came out of it, with its company.
    """

    # Invariant: `ended` implies `settled`, and at most one of `error` and `fatal` is not None.

    def __init__(self, child: Child) -> None:
        """Prepare the life; `live` begins it."""
        self.child = child
        self.scope = trio.CancelScope()
        self.settled = trio.Event()
        self.ended = trio.Event()
        self.started_at: float | None = None
        self.task: trio.lowlevel.Task | None = None
        self.error: BaseException | None = None
        self.fatal: BaseException | None = None

    def started(self, value: None = None) -> None:
        """Take note that the child serves from now on (trio's ``TaskStatus`` interface)."""
        if self.started_at is not None:
            raise RuntimeError("called 'started' twice on the same task status")
        self.started_at = trio.current_time()
        self.settled.set()

    async def live(self) -> None:
        """Run the child to its end and record how it ended.

        Cancellation: a child is stopped only through `scope`, which takes its own
        ``Cancelled`` (out of a mixed group, too) and leaves the rest. A ``Cancelled`` that
        comes out although nothing around here was cancelled is the child's defect and
        counts as its failure. If what surrounds the supervisor's nursery is being torn
        down, the ``Cancelled`` part goes on its way and only the rest is recorded.
        """
        self.task = trio.lowlevel.current_task()
        try:
            with self.scope:
                await self.child.run(task_status=self)
        except BaseException as exc:  # noqa: BLE001 -- recorded, or sent on below; the supervisor raises it
            if trio.current_effective_deadline() > -math.inf:
                self._record(exc)
                return
            cancelled, rest = _split_cancelled(exc)
            self._record(rest)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self.settled.set()
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
