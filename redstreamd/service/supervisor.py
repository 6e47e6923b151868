"""A supervisor: ordered start and stop of children, restarts with backoff, and a limit of failures.

Prior art. From Erlang/OTP: restart types, shutdown timeouts, one-for-one restarts, and escalation when there
are too many (OTP's restart intensity). From suture v4 (Go): a decaying failure count and its defaults, a
service interface of one method, the outcomes `DoNotRestart` and `TerminateTree`, typed events to one hook,
and the rule that a cancellation is recognised by one's own scope, not by the error's type.

Alternatives. A plain trio nursery cancels everything at the first error, in no order. triotp does not wait
for a child's start, cancels all children at once, restarts without a pause, and waits forever for a hung one.
suture pauses after too many failures; a daemon under systemd exits instead, so that everything is new.

In trio a task cannot be abandoned, and a cancellation reaches all tasks of a scope at once. So the children
run in a nursery that is shielded from outside, beside a task that turns a cancellation from outside into an
ordered stop. A child that does not end when cancelled can only be reported (`on_hung`).

Knows nothing of what its children do, of Redis, MCP, systemd, or how events are recorded.
"""

from __future__ import annotations

import faulthandler
import os
import random
import sys
from collections.abc import Callable, Iterable

import msgspec
import trio

from redstreamd.errors.defects import report_defect
from redstreamd.service.child import Child
from redstreamd.service.child_runner import ChildRunner, ChildStatistics, RunnerContext
from redstreamd.service.exceptions import unwrapped
from redstreamd.service.restart_policy import FailureCount, RestartLimits
from redstreamd.service.supervisor_events import EventHook, SupervisorEvent, SupervisorFailed
from redstreamd.service.task_tree import format_task_tree

# sysexits.h EX_SOFTWARE: an internal error, which a hang at stop is.
HUNG_EXIT_STATUS = 70


class SupervisorStatistics(msgspec.Struct, frozen=True):
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
    """Write the stacks of all tasks and threads to stderr and end the process with status 70.

    The default for a supervisor's `on_hung`. Nothing is unwound, because that could hang, too.
    """
    root = trio.lowlevel.current_root_task()
    tree = "" if root is None else format_task_tree(root)
    sys.stderr.write(f"did not stop when cancelled: {', '.join(children)}\n{tree}\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    os._exit(HUNG_EXIT_STATUS)


class Supervisor:
    """Runs children under one restart policy; itself a service, for trees of supervisors.

    Behaviour:
        Children start in the given order, each after the one before it has started. If a child fails before
        its first start, `run` stops the others and raises `StartFailedError`. Later failures are counted,
        and only the failed child is restarted, after a pause. When the decayed count of all children's
        failures exceeds the threshold, `run` stops them and raises `TooManyFailuresError`. `TerminateTree`,
        KeyboardInterrupt and SystemExit from a child stop all children at once and are raised as they are.

        However `run` ends, the children are stopped one by one in reverse order, each within its stop
        timeout. If some hang, the others are still stopped, and then `on_hung` is called.

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
            on_event: Called with each event; an exception in it is reported as a defect.
            on_hung: Called with the names of the children that did not stop, after all others were stopped.
                If it returns, `run` waits for them without a limit.
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
        """Make `run` stop the children in reverse order and return; does not wait for that.

        If `run` is not running, its next call starts nothing and returns at once.
        """
        self._is_stop_requested = True
        if self._run is not None:
            self._run.stop_scope.cancel()

    def statistics(self) -> SupervisorStatistics:
        """Return a snapshot; without children while `run` is not running."""
        if self._run is None:
            return SupervisorStatistics(self.name, 0.0, ())
        return self._run.statistics()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children, keep them running, and stop them in reverse order.

        ``started()`` is called once all children have started. May be called again after it has ended.

        Raises:
            StartFailedError: A child failed before its first start.
            TooManyFailuresError: The failure count exceeded the threshold.
            ChildHungError: A child neither started nor ended, and `on_hung` returned.
            TerminateTree: A child raised it; in a group if the child raised others with it.
            BaseExceptionGroup: Several of these, or one of them and a cancellation.
        """
        if self._run is not None:
            raise RuntimeError(f"{self.name} is already running")
        run = self._run = _Run(
            self.name, self._children, self._limits, self._jitter, emit=self._emit, on_hung=self._on_hung
        )
        if self._is_stop_requested:
            run.stop_scope.cancel()
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.supervise, task_status, name=f"<supervisor {self.name}>")
                try:
                    await run.ended.wait()
                finally:
                    # Whatever ended the wait: the nursery now waits for the children to stop.
                    run.stop_scope.cancel()
        except BaseExceptionGroup as group:
            failure = unwrapped(group)
        finally:
            self._run = None
            self._is_stop_requested = False
        if failure is not None:
            # Outside of the handler, so that the nursery's group does not become the error's context.
            raise failure

    def _emit(self, event: SupervisorEvent) -> None:
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as exc:  # noqa: BLE001 - supervision goes on
            report_defect(f"the event hook of supervisor {self.name} failed on {type(event).__name__}", exc)


class _Run:
    """The state of one run of a supervisor."""

    # Invariant: `stop_scope` is cancelled once `_errors` is not empty.

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
        self.stop_scope = trio.CancelScope()  # cancelled when the children are to be stopped
        self.ended = trio.Event()
        self._name = name
        self._emit = emit
        self._on_hung = on_hung
        self._failures = FailureCount(limits.failure_decay_seconds)
        self._errors: list[BaseException] = []  # what `supervise` will raise
        context = RunnerContext(name, limits, self._failures, jitter, emit, self._escalate)
        self._runners = [ChildRunner(child, context) for child in children]

    def statistics(self) -> SupervisorStatistics:
        now = trio.current_time()
        children = tuple(runner.statistics(now) for runner in self._runners)
        return SupervisorStatistics(self._name, self._failures.at(now), children)

    def _escalate(self, error: BaseException) -> None:
        """Stop the children, to raise `error`; only the first error is reported as an event."""
        if not self._errors:
            self._emit(SupervisorFailed(self._name, error))
        self._errors.append(error)
        self.stop_scope.cancel()

    async def supervise(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.shield = True
                with self.stop_scope:
                    for runner in self._runners:
                        # No child is started after a stop request.
                        await trio.lowlevel.checkpoint_if_cancelled()
                        runner.start(nursery)
                        await runner.first_start_decided.wait()
                    task_status.started()
                    await trio.sleep_forever()
                for runner in reversed(self._runners):
                    await runner.stop()
                hung = tuple(runner.child.name for runner in self._runners if runner.is_hung)
                if hung:
                    self._on_hung(hung)
        finally:
            self.ended.set()
        # A child that was reported as hung may have ended by an interrupt since.
        for runner in self._runners:
            if runner.is_hung and runner.current is not None and runner.current.fatal is not None:
                self._errors.append(runner.current.fatal)
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise BaseExceptionGroup(f"{self._name} failed for several reasons", self._errors)
