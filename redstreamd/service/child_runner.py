"""Starts, restarts and stops one child.

Order between children, and the end of all when one of them cannot be kept running, are the supervisor's: a
runner reports events and escalates errors.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from redstreamd.service.child import Child, ChildRun
from redstreamd.service.exceptions import (
    ChildHungError,
    DoNotRestart,
    EndedBeforeStartError,
    StartFailedError,
    StartTimedOutError,
    TerminateTree,
    TooManyFailuresError,
    has,
    unwrapped,
)
from redstreamd.service.restart_policy import FailureCount, Restart, RestartLimits, backoff_seconds
from redstreamd.service.supervisor_events import (
    ChildFailed,
    ChildFinished,
    ChildHung,
    ChildStarted,
    ChildStopped,
    SupervisorEvent,
)
from redstreamd.service.task_tree import format_task_tree


class ChildStatistics(msgspec.Struct, frozen=True):
    """One child at one moment.

    Attributes:
        name: Its name.
        state: ``waiting`` (for its first start), ``starting``, ``running``, ``backoff`` (waiting
            to be restarted), ``stopping``, ``hung`` or ``ended``.
        starts: How often it was started in this run of its supervisor.
        failures: Its own decayed failure count.
    """

    name: str
    state: str
    starts: int
    failures: float


class RunnerContext(msgspec.Struct, frozen=True):
    """What the runners of one supervisor share.

    Attributes:
        supervisor: Its name, for events and errors.
        limits: The restart limits.
        failures: The failure count of all children together.
        jitter: A source of numbers in [0, 1).
        emit: Reports an event.
        escalate: Ends the supervisor's run, which then raises the error.
    """

    supervisor: str
    limits: RestartLimits
    failures: FailureCount
    jitter: Callable[[], float]
    emit: Callable[[SupervisorEvent], None]
    escalate: Callable[[BaseException], None]


class ChildRunner:
    """Runs one child, with restarts; used once, by one run of a supervisor.

    Attributes:
        child: Its declaration.
        first_start_decided: Set once the child has started, or will not.
        is_hung: Whether the child did not end within its stop timeout.
        current: The current run; None before the first one and during a pause.
    """

    def __init__(self, child: Child, context: RunnerContext) -> None:
        """Prepare; `start` starts the child."""
        self.child = child
        self.first_start_decided = trio.Event()
        self.is_hung = False
        self.current: ChildRun | None = None
        self._context = context
        self._failures = FailureCount(context.limits.failure_decay_seconds)
        self._starts = 0
        self._start_called = False
        self._has_started = False
        self._stop_scope = trio.CancelScope()
        self._done = trio.Event()

    def start(self, nursery: trio.Nursery) -> None:
        """Run the child until it needs no further start, or until `stop`.

        Args:
            nursery: For the runner's task and the child's. They are siblings, so that the runner can give
                up a child that hangs.
        """
        self._start_called = True
        nursery.start_soon(self._run, nursery, name=f"<runner of {self.child.name}>")

    async def _run(self, nursery: trio.Nursery) -> None:
        try:
            with self._stop_scope:
                while True:
                    # `stop` may have been called before this task first ran.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self.current = run = ChildRun(self.child)
                    pause = await self._run_once(run, nursery)
                    if pause is None:
                        return
                    self.current = None
                    await trio.sleep(pause)
            if self._starts:
                await self._stop_current()
        finally:
            self.first_start_decided.set()
            self._done.set()

    async def stop(self) -> None:
        """Stop the child; return once it has ended or its stop timeout has passed."""
        if self._start_called:
            self._stop_scope.cancel()
            await self._done.wait()

    def statistics(self, now: float) -> ChildStatistics:
        """Return the child's statistics at `now`, in trio's time."""
        return ChildStatistics(self.child.name, self._state(), self._starts, self._failures.at(now))

    def _state(self) -> str:
        if self.is_hung:
            return "hung"
        if self._done.is_set():
            return "ended"
        if not self._starts:
            return "waiting"
        if self._stop_scope.cancel_called:
            return "stopping"
        if self.current is None:
            return "backoff"
        return "starting" if self.current.started_at is None else "running"

    async def _run_once(self, run: ChildRun, nursery: trio.Nursery) -> float | None:
        """Run the child once; return the pause before the next start, or None for no restart."""
        self._starts += 1
        begun_at = trio.current_time()
        nursery.start_soon(run.run, name=self.child.name)
        with trio.move_on_after(self.child.start_timeout_seconds):
            await run.started_or_ended.wait()
        timed_out = not run.started_or_ended.is_set()
        if timed_out and not await self._cancel(run):
            self._context.escalate(ChildHungError(self._context.supervisor, self.child.name))
            return None
        if run.started_at is not None and not timed_out:
            self._has_started = True
            start_seconds = run.started_at - begun_at
            self._context.emit(
                ChildStarted(self._context.supervisor, self.child.name, self._starts, start_seconds)
            )
            self.first_start_decided.set()
        await run.ended.wait()
        return self._decide_restart(run, timed_out=timed_out)

    def _decide_restart(self, run: ChildRun, *, timed_out: bool) -> float | None:
        """Report the end of a run, escalate if needed, and return the pause before the next start."""
        if run.fatal is not None:
            self._context.escalate(run.fatal)
            return None
        restart = self.child.restart
        error = run.error
        if error is None and timed_out:
            error = StartTimedOutError(self.child.name, self.child.start_timeout_seconds)
        elif error is None and run.started_at is None and restart is Restart.PERMANENT:
            error = EndedBeforeStartError(self.child.name)

        pause: float | None = None
        escalated: BaseException | None = None
        if error is not None and has(error, TerminateTree):
            escalated = unwrapped(error)
        elif self._is_final(error):
            pass
        elif not self._has_started:
            escalated = StartFailedError(self._context.supervisor, self.child.name)
            escalated.__cause__ = error
        else:
            # A permanent child that returns counts as a failure, too.
            now = trio.current_time()
            limits = self._context.limits
            total = self._context.failures.add(now)
            own = self._failures.add(now)
            if total > limits.failure_threshold:
                escalated = TooManyFailuresError(self._context.supervisor, self.child.name, total)
                escalated.__cause__ = error
            else:
                pause = backoff_seconds(own, limits, self._context.jitter)

        self._report_end(error, pause)
        if escalated is not None:
            self._context.escalate(escalated)
        return pause

    def _is_final(self, error: BaseException | None) -> bool:
        if error is not None and has(error, DoNotRestart):
            return True
        restart = self.child.restart
        return restart is Restart.TEMPORARY or (restart is Restart.TRANSIENT and error is None)

    def _report_end(self, error: BaseException | None, pause: float | None) -> None:
        supervisor, child = self._context.supervisor, self.child.name
        only = None if error is None else unwrapped(error)
        if only is None or isinstance(only, DoNotRestart):
            reason = "" if only is None else str(only)
            self._context.emit(ChildFinished(supervisor, child, reason, pause))
        else:
            failures = self._context.failures.at(trio.current_time())
            self._context.emit(ChildFailed(supervisor, child, only, failures, pause))

    async def _stop_current(self) -> None:
        """Stop the current run, if any, and report how that went."""
        begun_at = trio.current_time()
        if self.current is not None:
            if not await self._cancel(self.current):
                return
            if self.current.fatal is not None:
                self._context.escalate(self.current.fatal)
                return
            if self.current.error is not None:
                self._report_end(self.current.error, None)
                return
        stop_seconds = trio.current_time() - begun_at
        self._context.emit(ChildStopped(self._context.supervisor, self.child.name, stop_seconds))

    async def _cancel(self, run: ChildRun) -> bool:
        """Cancel a run and return whether it ended in time; report it if it hangs."""
        limit = self.child.stop_timeout_seconds
        run.scope.cancel()
        with trio.move_on_after(limit):
            await run.ended.wait()
        if run.ended.is_set():
            return True
        self.is_hung = True
        tree = format_task_tree(run.task) if run.task is not None else ""
        self._context.emit(ChildHung(self._context.supervisor, self.child.name, limit, tree))
        return False
