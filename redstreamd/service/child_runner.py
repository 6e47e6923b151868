"""Keeps one child: starts it, judges each of its ends, pauses, restarts it, and in the end stops it.

Owns the life cycle of a single child. Order between children, and what becomes of the
whole when one of them cannot be kept, are the supervisor's: a keeper only reports
(`emit`) and asks for the end (`fail`).
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from redstreamd.service.child import Child, ChildRun
from redstreamd.service.exceptions import (
    ChildHungError,
    DoNotRestart,
    EndedBeforeStartError,
    StartFailedError,
    StartTimedOutError,
    TakeTreeDown,
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


@attrs.frozen
class ChildStatistics:
    """One child at one moment.

    Attributes:
        name: Its name.
        state: ``waiting`` (for its first start), ``starting``, ``running``, ``backoff`` (waiting
            to be restarted), ``stopping``, ``hung`` or ``ended``.
        starts: How often a start was begun in this run of its supervisor.
        failures: Its own decayed failure count.
    """

    name: str
    state: str
    starts: int
    failures: float


@attrs.frozen
class Policy:
    """What all keepers of one supervisor share.

    Attributes:
        supervisor: Its name, for events and errors.
        limits: When to give up, and the bounds of the pauses.
        failures: The one count of all children's failures.
        jitter: A source of numbers in [0, 1).
        emit: Reports an event.
        fail: Asks for the end of the supervisor's run, with what it shall raise.
    """

    supervisor: str
    limits: RestartLimits
    failures: FailureCount
    jitter: Callable[[], float]
    emit: Callable[[SupervisorEvent], None]
    fail: Callable[[BaseException], None]


class Keeper:
    """Keeps one child through all its lives; used once, by one run of a supervisor.

    Attributes:
        child: Its declaration.
        settled: Set when the first start is decided: the child has started, has finished, or never will.
        is_hung: Whether the child's last life did not end within its stop timeout.
        run: The current life; None before the first one and during a pause.
    """

    def __init__(self, child: Child, policy: Policy) -> None:
        """Prepare; `begin` starts the child."""
        self.child = child
        self.settled = trio.Event()
        self.is_hung = False
        self.run: ChildRun | None = None
        self._policy = policy
        self._failures = FailureCount(policy.limits.failure_decay_seconds)
        self._starts = 0
        self._has_begun = False
        self._has_started = False
        self._until_stop = trio.CancelScope()
        self._done = trio.Event()

    def begin(self, nursery: trio.Nursery) -> None:
        """Begin to keep the child, until it needs no further start or until `stop`.

        Args:
            nursery: Where the keeping and the child's lives run. The lives are tasks beside
                the keeping one, not below it, so that it can give up a life that hangs.
        """
        self._has_begun = True
        nursery.start_soon(self._keep, nursery, name=f"<keeper of {self.child.name}>")

    async def _keep(self, nursery: trio.Nursery) -> None:
        try:
            with self._until_stop:
                while True:
                    # The stop may have been asked for before this task first ran.
                    await trio.lowlevel.checkpoint_if_cancelled()
                    self.run = run = ChildRun(self.child)
                    pause = await self._see_through(run, nursery)
                    if pause is None:
                        return
                    self.run = None
                    await trio.sleep(pause)
            if self._starts:
                await self._end_by_stop()
        finally:
            self.settled.set()
            self._done.set()

    async def stop(self) -> None:
        """Stop the child and wait until it has ended or is given up as hung."""
        if self._has_begun:
            self._until_stop.cancel()
            await self._done.wait()

    def statistics(self, now: float) -> ChildStatistics:
        """Return how the child is doing at `now`, in trio's time."""
        return ChildStatistics(self.child.name, self._state(), self._starts, self._failures.at(now))

    def _state(self) -> str:
        if self.is_hung:
            return "hung"
        if self._done.is_set():
            return "ended"
        if not self._starts:
            return "waiting"
        if self._until_stop.cancel_called:
            return "stopping"
        if self.run is None:
            return "backoff"
        return "starting" if self.run.started_at is None else "running"

    async def _see_through(self, run: ChildRun, nursery: trio.Nursery) -> float | None:
        """Follow a life from its start to its end; return the pause before the next, None for no next."""
        self._starts += 1
        begun_at = trio.current_time()
        nursery.start_soon(run.live, name=self.child.name)
        with trio.move_on_after(self.child.start_timeout_seconds):
            await run.settled.wait()
        timed_out = not run.settled.is_set()
        if timed_out and not await self._cancel(run):
            self._policy.fail(ChildHungError(self._policy.supervisor, self.child.name))
            return None
        if run.started_at is not None and not timed_out:
            self._has_started = True
            start_seconds = run.started_at - begun_at
            self._policy.emit(
                ChildStarted(self._policy.supervisor, self.child.name, self._starts, start_seconds)
            )
            self.settled.set()
        await run.ended.wait()
        return self._judge(run, timed_out=timed_out)

    def _judge(self, run: ChildRun, *, timed_out: bool) -> float | None:
        """Decide what the end of a life means, report it, and return the pause before the next."""
        if run.fatal is not None:
            self._policy.fail(run.fatal)
            return None
        restart = self.child.restart
        error = run.error
        if error is None and timed_out:
            error = StartTimedOutError(self.child.name, self.child.start_timeout_seconds)
        elif error is None and run.started_at is None and restart is Restart.PERMANENT:
            error = EndedBeforeStartError(self.child.name)

        pause: float | None = None
        give_up: BaseException | None = None
        if error is not None and has(error, TakeTreeDown):
            give_up = unwrapped(error)
        elif self._stays_down(error):
            pass
        elif not self._has_started:
            give_up = StartFailedError(self._policy.supervisor, self.child.name)
            give_up.__cause__ = error
        else:
            # A permanent child has no business returning, so that is counted as well.
            now = trio.current_time()
            limits = self._policy.limits
            total = self._policy.failures.add(now)
            own = self._failures.add(now)
            if total > limits.failure_threshold:
                give_up = TooManyFailuresError(self._policy.supervisor, self.child.name, total)
                give_up.__cause__ = error
            else:
                pause = backoff_seconds(own, limits, self._policy.jitter)

        self._report_end(error, pause)
        if give_up is not None:
            self._policy.fail(give_up)
        return pause

    def _stays_down(self, error: BaseException | None) -> bool:
        if error is not None and has(error, DoNotRestart):
            return True
        restart = self.child.restart
        return restart is Restart.TEMPORARY or (restart is Restart.TRANSIENT and error is None)

    def _report_end(self, error: BaseException | None, pause: float | None) -> None:
        supervisor, child = self._policy.supervisor, self.child.name
        only = None if error is None else unwrapped(error)
        if only is None or isinstance(only, DoNotRestart):
            reason = "" if only is None else str(only)
            self._policy.emit(ChildFinished(supervisor, child, reason, pause))
        else:
            failures = self._policy.failures.at(trio.current_time())
            self._policy.emit(ChildFailed(supervisor, child, only, failures, pause))

    async def _end_by_stop(self) -> None:
        """End the current life, if there is one, and report how that went."""
        begun_at = trio.current_time()
        if self.run is not None:
            if not await self._cancel(self.run):
                return
            if self.run.fatal is not None:
                self._policy.fail(self.run.fatal)
                return
            if self.run.error is not None:
                self._report_end(self.run.error, None)
                return
        stop_seconds = trio.current_time() - begun_at
        self._policy.emit(ChildStopped(self._policy.supervisor, self.child.name, stop_seconds))

    async def _cancel(self, run: ChildRun) -> bool:
        """Cancel a life and return whether it ended in time; report it if it hangs."""
        limit = self.child.stop_timeout_seconds
        run.scope.cancel()
        with trio.move_on_after(limit):
            await run.ended.wait()
        if run.ended.is_set():
            return True
        self.is_hung = True
        tree = format_task_tree(run.task) if run.task is not None else ""
        self._policy.emit(ChildHung(self._policy.supervisor, self.child.name, limit, tree))
        return False
