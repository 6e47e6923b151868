"""Keeps a fixed set of children running: ordered start and stop, restarts, and a limit to patience.

Prior art. The restart types and the idea that a supervisor which cannot cope fails upwards
are Erlang/OTP's. From suture v4 (Go): the decaying failure count and its defaults, a
service interface of one method, the two special outcomes, typed events to one hook, and
the rule that whether something was cancelled is asked of one's own scope and not read off
the error's type. systemd gives the last resort: this process ends, and is started again.

Alternatives. A bare trio nursery cancels everything at the first error, in no order.
triotp brings OTP's restart types to trio, but does not wait for a child's start, cancels
all children at once, restarts without a pause, and waits for ever for one that hangs.
suture pauses and goes on when there were too many failures; a daemon under systemd does
better to exit, because the restart also renews everything the supervisor does not own.

What is particular to trio and decides the structure here: a task cannot be abandoned, and
a cancellation reaches all tasks below a scope at once. So the children live in a nursery
that is shielded from outside, next to a task that notices the outside's cancellation and
asks for the ordered stop; and a child that does not end when cancelled can only be
reported and escalated (`on_hung`), not left behind.

Refuses to know: what its children do, Redis, MCP, systemd, and how events are reported.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import sys
from collections.abc import Callable, Iterable

import attrs
import trio

from redstreamd.service.child import Child
from redstreamd.service.child_runner import ChildStatistics, Keeper, Policy
from redstreamd.service.exceptions import unwrapped
from redstreamd.service.restart_policy import FailureCount, RestartLimits
from redstreamd.service.supervisor_events import EventHook, SupervisorEvent, SupervisorFailed
from redstreamd.service.task_tree import format_task_tree

logger = logging.getLogger(__name__)

# sysexits.h EX_SOFTWARE: an internal error, which a hang at stop is.
HUNG_EXIT_STATUS = 70


@attrs.frozen
class SupervisorStatistics:
    """A supervisor at one moment.

    Attributes:
        name: Its name.
        failures: The decayed count of its children's failures.
        children: Its children, in start order.
    """

    name: str
    failures: float
    children: tuple[ChildStatistics, ...]


def exit_hung(children: tuple[str, ...]) -> None:
    """Write every task's and thread's stack to stderr and end the process with status 70.

    The default for a supervisor's `on_hung`. Nothing is unwound: what hangs may be holding
    whatever the unwinding would need.
    """
    root = trio.lowlevel.current_root_task()
    tree = "" if root is None else format_task_tree(root)
    sys.stderr.write(f"did not stop when cancelled: {', '.join(children)}\n{tree}\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    os._exit(HUNG_EXIT_STATUS)


class Supervisor:
    """Runs children under one policy; itself a service, so that trees can be built.

    Behaviour:
        Children start in the given order, each waiting for the one before it to have
        started. A child that fails before its very first start makes `run` stop the others
        and raise `StartFailedError`: what cannot start at boot is most likely set up
        wrongly. Later failures are counted, and the child alone is restarted after a pause.
        When the decayed count of all children's failures exceeds the threshold, `run` stops
        them and raises `TooManyFailuresError`. `TakeTreeDown` from a child does the same at
        once and is raised as it is; so are KeyboardInterrupt and SystemExit.

        However `run` ends, by `request_stop`, by a failure, by cancellation from outside or
        by an interrupt, the children are stopped one by one in reverse order, each within its
        stop timeout. If some hang, the others are still stopped, and then `on_hung` is called.

    Cancellation: `run` takes up to the sum of the children's stop timeouts to end.
    """

    def __init__(
        self,
        name: str,
        children: Iterable[Child],
        *,
        limits: RestartLimits | None = None,
        on_event: EventHook | None = None,
        on_hung: Callable[[tuple[str, ...]], object] = exit_hung,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Declare the tree; nothing runs yet.

        Args:
            name: For events and errors; a path such as ``redstreamd/listeners`` when nested.
            children: In start order, with distinct names.
            limits: Restart limits; the defaults of `RestartLimits` if not given.
            on_event: Called with each event; what it raises is logged and otherwise ignored.
            on_hung: Called with the names of the children that could not be stopped, after all
                others were. If it returns, `run` waits for them without a limit.
            jitter: A source of numbers in [0, 1), for tests.
        """
        self.name = name
        self._children = tuple(children)
        if len({child.name for child in self._children}) < len(self._children):
            raise ValueError(f"{name}: two children have the same name")
        self._limits = RestartLimits() if limits is None else limits
        self._on_event = on_event
        self._on_hung = on_hung
        self._jitter = jitter
        self._is_stop_requested = False
        self._run: _Run | None = None

    def request_stop(self) -> None:
        """Ask `run` to stop the children in reverse order and return; does not wait for that.

        If `run` is not running, its next call starts nothing and returns at once, so that a
        signal that arrives early is not lost.
        """
        self._is_stop_requested = True
        if self._run is not None:
            self._run.leave.cancel()

    def statistics(self) -> SupervisorStatistics:
        """Return how the children are doing now; no children are listed while `run` is not running."""
        if self._run is None:
            return SupervisorStatistics(self.name, 0.0, ())
        return self._run.statistics()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children, keep them running, and stop them in reverse order.

        ``started()`` is called once all children have started. May be called again after it has
        ended, as a supervisor above this one does.

        Raises:
            StartFailedError: A child failed before its first start.
            TooManyFailuresError: The failure count exceeded the threshold.
            ChildHungError: A child neither started nor ended, and `on_hung` returned.
            TakeTreeDown: A child raised it; inside its group if it came with other errors.
            BaseExceptionGroup: Several of these, or one of them and a cancellation.
        """
        if self._run is not None:
            raise RuntimeError(f"{self.name} is already running")
        run = self._run = _Run(
            self.name, self._children, self._limits, self._jitter, emit=self._emit, on_hung=self._on_hung
        )
        if self._is_stop_requested:
            run.leave.cancel()
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.supervise, task_status, name=f"<supervisor {self.name}>")
                try:
                    await run.over.wait()
                finally:
                    # Cancelled or interrupted or over: in any case the nursery now waits for the stop.
                    run.leave.cancel()
        except BaseExceptionGroup as group:
            failure = unwrapped(group)
        finally:
            self._run = None
            self._is_stop_requested = False
        if failure is not None:
            # Not inside the handler: the nursery's group would become the error's context.
            raise failure

    def _emit(self, event: SupervisorEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception:
            logger.exception("the event hook of supervisor %s failed on %r", self.name, event)


class _Run:
    """One run of a supervisor: the state that must not outlive it."""

    # Invariant: `leave` is cancelled as soon as `_reasons` is not empty.

    def __init__(
        self,
        name: str,
        children: tuple[Child, ...],
        limits: RestartLimits,
        jitter: Callable[[], float],
        *,
        emit: Callable[[SupervisorEvent], None],
        on_hung: Callable[[tuple[str, ...]], object],
    ) -> None:
        self.leave = trio.CancelScope()  # cancelled when the children are to be stopped
        self.over = trio.Event()
        self._name = name
        self._emit = emit
        self._on_hung = on_hung
        self._failures = FailureCount(limits.failure_decay_seconds)
        self._reasons: list[BaseException] = []  # what `supervise` will raise
        policy = Policy(name, limits, self._failures, jitter, emit, self._fail)
        self._keepers = [Keeper(child, policy) for child in children]

    def statistics(self) -> SupervisorStatistics:
        now = trio.current_time()
        children = tuple(keeper.statistics(now) for keeper in self._keepers)
        return SupervisorStatistics(self._name, self._failures.at(now), children)

    def _fail(self, error: BaseException) -> None:
        """Begin the end of the run; only its first reason is reported as an event."""
        if not self._reasons:
            self._emit(SupervisorFailed(self._name, error))
        self._reasons.append(error)
        self.leave.cancel()

    async def supervise(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.shield = True
                with self.leave:
                    for keeper in self._keepers:
                        # Without this, a child could still begin after the stop was asked for.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        keeper.begin(nursery)
                        await keeper.settled.wait()
                    task_status.started()
                    await trio.sleep_forever()
                for keeper in reversed(self._keepers):
                    await keeper.stop()
                hung = tuple(keeper.child.name for keeper in self._keepers if keeper.is_hung)
                if hung:
                    self._on_hung(hung)
        finally:
            self.over.set()
        # What was given up as hung and then did end may have been ended by an interrupt.
        for keeper in self._keepers:
            if keeper.is_hung and keeper.run is not None and keeper.run.fatal is not None:
                self._reasons.append(keeper.run.fatal)
        if len(self._reasons) == 1:
            raise self._reasons[0]
        if self._reasons:
            raise BaseExceptionGroup(f"{self._name} ended for several reasons", self._reasons)
