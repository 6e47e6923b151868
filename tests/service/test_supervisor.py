"""Supervision on a virtual clock: policies, order, timeouts, and what comes out of `run`."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from redstreamd.errors.defects import Defect
from redstreamd.service.child import Child
from redstreamd.service.child_runner import ChildRunner, RunnerContext
from redstreamd.service.exceptions import (
    ChildHungError,
    DoNotRestart,
    EndedBeforeStartError,
    StartFailedError,
    StartTimedOutError,
    TerminateTree,
    TooManyFailuresError,
)
from redstreamd.service.restart_policy import FailureCount, Restart, RestartLimits
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.supervisor_events import (
    ChildFailed,
    ChildFinished,
    ChildHung,
    ChildStarted,
    ChildStopped,
    SupervisorEvent,
    SupervisorFailed,
)

Body = Callable[..., Awaitable[None]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Trio with a clock that jumps as soon as everybody waits."""
    return ("trio", {"clock": MockClock(autojump_threshold=0)})


@attrs.define
class History:
    """What a supervisor reported, and what its children did, in order."""

    events: list[SupervisorEvent] = attrs.field(factory=list)
    steps: list[str] = attrs.field(factory=list)

    def __call__(self, event: SupervisorEvent) -> None:
        self.events.append(event)
        match event:
            case ChildFinished(child=child) | ChildStarted(child=child) | ChildFailed(child=child):
                who = child
            case ChildStopped(child=child) | ChildHung(child=child):
                who = child
            case SupervisorFailed(supervisor=name):
                who = name
        self.steps.append(
            f"{who} {type(event).__name__.removeprefix('Child').removeprefix('Supervisor').lower()}"
        )

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def serving(history: History, name: str, **options: Any) -> Child:
    """A child that serves until it is cancelled and notes both."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        history.steps.append(f"{name} runs")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            history.steps.append(f"{name} unwinds")

    return Child(name, run, **options)


def crashing(name: str, after_seconds: float, error: BaseException | None = None, **options: Any) -> Child:
    """A child that starts, and raises (or returns, without an error) a while later, in every life."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(after_seconds)
        if error is not None:
            raise error

    return Child(name, run, **options)


def supervise(history: History, *children: Child, **options: Any) -> Supervisor:
    options.setdefault("jitter", lambda: 1.0)
    return Supervisor("top", children, on_event=history, **options)


async def run_until(supervisor: Supervisor, seconds: float) -> None:
    """Let a supervisor run for a while of virtual time, then stop it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(seconds)
        supervisor.request_stop()


# Order


async def test_children_start_in_order_and_stop_in_reverse_order() -> None:
    history = History()
    supervisor = supervise(history, *(serving(history, name) for name in "abc"))
    await run_until(supervisor, 1)
    assert history.steps == [
        *("a runs", "a started", "b runs", "b started", "c runs", "c started"),
        *("c unwinds", "c stopped", "b unwinds", "b stopped", "a unwinds", "a stopped"),
    ]


async def test_a_child_starts_only_after_the_one_before_it_has_started() -> None:
    history = History()
    gate = trio.Event()

    async def slow(*, task_status: trio.TaskStatus[None]) -> None:
        await gate.wait()
        task_status.started()
        await trio.sleep_forever()

    supervisor = supervise(
        history, Child("slow", slow, start_timeout_seconds=math.inf), serving(history, "b")
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        await wait_all_tasks_blocked()
        assert history.steps == []
        assert [child.state for child in supervisor.statistics().children] == ["starting", "waiting"]
        gate.set()
        await wait_all_tasks_blocked()
        assert history.steps == ["slow started", "b runs", "b started"]
        supervisor.request_stop()


async def test_cancellation_from_outside_stops_the_children_in_reverse_order_too() -> None:
    history = History()
    supervisor = supervise(history, *(serving(history, name) for name in "abc"))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            scope.cancel()
    assert scope.cancelled_caught
    assert history.steps[-6:] == [
        *("c unwinds", "c stopped", "b unwinds", "b stopped", "a unwinds", "a stopped"),
    ]


async def test_each_child_has_ended_before_the_next_one_is_cancelled() -> None:
    """The drain of a later child can still use what an earlier child provides."""
    history = History()

    async def draining(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(3)
            history.steps.append("drained")

    supervisor = supervise(history, serving(history, "store"), Child("door", draining))
    await run_until(supervisor, 1)
    assert history.steps[-4:] == ["drained", "door stopped", "store unwinds", "store stopped"]
    assert [event.stop_seconds for event in history.of(ChildStopped)] == pytest.approx([3.0, 0.0])


async def test_cancellation_during_the_start_stops_what_has_started_and_starts_nothing_more() -> None:
    history = History()

    async def never(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep_forever()

    supervisor = supervise(
        history,
        serving(history, "a"),
        Child("never", never, start_timeout_seconds=math.inf),
        serving(history, "c"),
    )
    with trio.move_on_after(5) as scope:
        await supervisor.run()
    assert scope.cancelled_caught
    assert history.steps == ["a runs", "a started", "never stopped", "a unwinds", "a stopped"]


async def test_a_child_whose_runner_is_stopped_before_it_first_ran_never_starts() -> None:
    history = History()
    limits = RestartLimits()
    context = RunnerContext("top", limits, FailureCount(30), lambda: 1.0, history, pytest.fail)
    runner = ChildRunner(serving(history, "a"), context)
    async with trio.open_nursery() as nursery:
        # No checkpoint in between: the runner's task is only scheduled when it is stopped.
        runner.start(nursery)
        await runner.stop()
    assert history.steps == []
    assert runner.first_start_decided.is_set()


async def test_a_stop_requested_before_the_run_starts_nothing() -> None:
    history = History()
    supervisor = supervise(history, serving(history, "a"))
    supervisor.request_stop()
    await supervisor.run()
    assert history.steps == []


# Restart policies


@pytest.mark.parametrize(
    ("restart", "error", "restarted"),
    [
        (Restart.PERMANENT, ValueError("broken"), True),
        (Restart.PERMANENT, None, True),
        (Restart.TRANSIENT, ValueError("broken"), True),
        (Restart.TRANSIENT, None, False),
        (Restart.TEMPORARY, ValueError("broken"), False),
        (Restart.TEMPORARY, None, False),
    ],
)
async def test_a_child_is_restarted_as_its_policy_says(
    restart: Restart, error: Exception | None, restarted: bool
) -> None:
    history = History()
    await run_until(supervise(history, crashing("a", 50, error, restart=restart)), 75)
    end = history.events[1]
    assert isinstance(end, ChildFinished if error is None else ChildFailed)
    assert end.restart_in_seconds == (pytest.approx(0.1) if restarted else None)
    assert [event.starts for event in history.of(ChildStarted)] == ([1, 2] if restarted else [1])


async def test_a_child_that_asks_not_to_be_restarted_is_left_alone() -> None:
    history = History()
    supervisor = supervise(history, crashing("a", 1, DoNotRestart("nothing to do")), serving(history, "b"))
    await run_until(supervisor, 60)
    assert history.of(ChildFinished) == [ChildFinished("top", "a", "nothing to do", None)]
    assert history.steps[-1] == "b stopped"


async def test_not_to_be_restarted_is_honoured_beside_another_error_and_the_error_is_reported() -> None:
    history = History()
    both = ExceptionGroup("two", [DoNotRestart("enough"), ValueError("broken")])
    await run_until(supervise(history, crashing("a", 1, both)), 60)
    assert [event.error for event in history.of(ChildFailed)] == [both]
    assert len(history.of(ChildStarted)) == 1


async def test_pauses_double_while_a_child_keeps_failing_and_shrink_once_it_has_held_out() -> None:
    history = History()
    lives = iter([0.0, 0.0, 0.0, 300.0, 0.0])

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(next(lives, math.inf))
        raise ValueError

    await run_until(supervise(history, Child("a", run)), 400)
    pauses = [event.restart_in_seconds for event in history.of(ChildFailed)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.1, 0.2], rel=0.05)


async def test_the_pause_is_really_waited_for() -> None:
    history = History()
    times: list[float] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        times.append(trio.current_time())
        task_status.started()
        if len(times) < 4:
            raise ValueError

    await run_until(supervise(history, Child("a", run, restart=Restart.TRANSIENT), jitter=lambda: 0.0), 60)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([0.05, 0.1, 0.2], rel=0.05)


async def test_a_crash_leaves_the_siblings_alone() -> None:
    history = History()
    supervisor = supervise(
        history, serving(history, "before"), crashing("a", 40, ValueError()), serving(history, "after")
    )
    await run_until(supervisor, 200)
    assert len([event for event in history.of(ChildFailed) if event.child == "a"]) == 4
    assert history.steps.count("before runs") == history.steps.count("after runs") == 1


# Giving up


async def test_more_failures_than_the_threshold_come_out_of_run_after_an_ordered_stop() -> None:
    history = History()
    error = ValueError("always")
    supervisor = supervise(history, serving(history, "a"), crashing("b", 0, error), serving(history, "c"))
    with pytest.raises(TooManyFailuresError) as caught:
        await supervisor.run()
    assert caught.value.__cause__ is error
    assert (caught.value.supervisor, caught.value.child) == ("top", "b")
    assert caught.value.failures > 5
    # Five failures are within the threshold; the sixth is not.
    failed = history.of(ChildFailed)
    assert [event.restart_in_seconds is None for event in failed] == [False] * 5 + [True]
    assert history.steps[-6:] == [
        *("b failed", "top failed", "c unwinds", "c stopped", "a unwinds", "a stopped"),
    ]


async def test_failures_that_are_far_apart_never_exceed_the_threshold() -> None:
    history = History()
    await run_until(supervise(history, crashing("a", 30, ValueError())), 3000)
    assert len(history.of(ChildFailed)) > 90
    # A failure every decay time: 1 + 1/2 + 1/4 + ... stays below 2.
    assert max(event.failures for event in history.of(ChildFailed)) < 2


async def test_failures_of_different_children_add_up() -> None:
    history = History()
    supervisor = supervise(history, *(crashing(name, 1, ValueError()) for name in "abc"))
    with pytest.raises(TooManyFailuresError):
        await supervisor.run()
    assert len(history.of(ChildFailed)) == 6


@pytest.mark.parametrize(("children", "gives_up"), [(5, False), (6, True)])
async def test_as_many_failures_as_the_threshold_are_borne_and_one_more_is_not(
    children: int, gives_up: bool
) -> None:
    history = History()
    lives = dict.fromkeys("abcdef"[:children], 0)

    def crashing_once(name: str) -> Child:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            lives[name] += 1
            task_status.started()
            # All at the same moment, so that nothing has decayed.
            await trio.sleep_until(crash_at if lives[name] == 1 else math.inf)
            raise ValueError

        return Child(name, run)

    crash_at = trio.current_time() + 10
    supervisor = supervise(history, *map(crashing_once, lives))
    if gives_up:
        with pytest.raises(TooManyFailuresError):
            await supervisor.run()
    else:
        await run_until(supervisor, 20)
        assert set(lives.values()) == {2}


async def test_failures_of_a_temporary_child_count_for_nothing() -> None:
    history = History()
    children = [crashing(f"t{n}", 1, ValueError(), restart=Restart.TEMPORARY) for n in range(10)]
    await run_until(supervise(history, *children, serving(history, "z")), 60)
    assert len(history.of(ChildFailed)) == 10
    assert history.steps[-1] == "z stopped"


async def test_a_child_can_take_the_tree_down() -> None:
    history = History()
    error = TerminateTree("the disk is on fire")
    supervisor = supervise(history, serving(history, "a"), crashing("b", 5, error))
    with pytest.raises(TerminateTree) as caught:
        await supervisor.run()
    assert caught.value is error
    assert history.steps[-4:] == ["b failed", "top failed", "a unwinds", "a stopped"]
    assert history.of(SupervisorFailed) == [SupervisorFailed("top", error)]


async def test_the_tree_is_taken_down_from_inside_the_childs_own_nursery_too() -> None:
    history = History()
    error = TerminateTree("enough")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            task_status.started()
            raise error

    with pytest.raises(TerminateTree) as caught:
        await supervise(history, Child("a", run)).run()
    assert caught.value is error
    assert history.of(SupervisorFailed) == [SupervisorFailed("top", error)]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_interrupts_and_exits_pass_through_after_an_ordered_stop(kind: type[BaseException]) -> None:
    history = History()
    error = kind()
    supervisor = supervise(history, serving(history, "a"), crashing("b", 1, error), serving(history, "c"))
    with pytest.raises(kind) as caught:
        await supervisor.run()
    assert caught.value is error
    assert history.steps[-4:] == ["c unwinds", "c stopped", "a unwinds", "a stopped"]


async def test_an_interrupt_is_not_lost_among_ordinary_errors() -> None:
    history = History()
    group = BaseExceptionGroup("mixed", [ValueError(), KeyboardInterrupt()])
    with pytest.raises(BaseExceptionGroup) as caught:
        await supervise(history, crashing("a", 1, group)).run()
    assert caught.value.exceptions == group.exceptions
    assert not history.of(ChildFailed)


async def test_two_reasons_to_end_come_out_together() -> None:
    history = History()

    async def exits_when_stopped(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise SystemExit(3)

    supervisor = supervise(history, Child("a", exits_when_stopped), crashing("b", 1, TerminateTree("over")))
    with pytest.raises(BaseExceptionGroup) as caught:
        await supervisor.run()
    assert [type(member) for member in caught.value.exceptions] == [TerminateTree, SystemExit]
    assert [type(event.error) for event in history.of(SupervisorFailed)] == [TerminateTree]


# Starts


async def test_a_failure_before_the_first_start_comes_out_of_run_with_its_cause() -> None:
    history = History()
    error = OSError("address in use")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        raise error

    supervisor = supervise(history, serving(history, "a"), Child("b", run), serving(history, "c"))
    with pytest.raises(StartFailedError) as caught:
        await supervisor.run()
    assert caught.value.child == "b"
    assert caught.value.__cause__ is error
    assert history.steps == [
        *("a runs", "a started", "b failed", "top failed", "a unwinds", "a stopped"),
    ]


async def test_the_supervisor_counts_as_started_only_when_all_children_have_started() -> None:
    history = History()

    async def fails(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(5)
        raise ValueError

    async with trio.open_nursery() as nursery:
        # Raised by start(), not through the nursery: the supervisor had not called started().
        with pytest.raises(StartFailedError):
            await nursery.start(supervise(history, serving(history, "a"), Child("b", fails)).run)


async def test_a_permanent_child_that_returns_without_starting_fails_the_start() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        pass

    with pytest.raises(StartFailedError) as caught:
        await supervise(History(), Child("a", run)).run()
    assert isinstance(caught.value.__cause__, EndedBeforeStartError)


async def test_a_transient_child_may_do_its_work_and_return_without_ever_starting() -> None:
    history = History()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)

    supervisor = supervise(history, Child("once", run, restart=Restart.TRANSIENT), serving(history, "b"))
    await run_until(supervisor, 5)
    assert history.steps[:3] == ["once finished", "b runs", "b started"]


async def test_a_child_that_does_not_start_in_time_fails_the_start() -> None:
    history = History()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        try:
            await trio.sleep_forever()
        finally:
            history.steps.append("b unwinds")

    supervisor = supervise(history, serving(history, "a"), Child("b", run, start_timeout_seconds=7))
    begun_at = trio.current_time()
    with pytest.raises(StartFailedError) as caught:
        await supervisor.run()
    assert trio.current_time() - begun_at == pytest.approx(7)
    assert isinstance(caught.value.__cause__, StartTimedOutError)
    assert history.steps[2:] == ["b unwinds", "b failed", "top failed", "a unwinds", "a stopped"]


async def test_a_failed_start_counts_as_a_failure_once_the_child_had_started_before() -> None:
    history = History()
    lives = 0

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        if lives == 2:
            raise OSError("not yet")
        if lives == 3:
            await trio.sleep_forever()
        task_status.started()
        if lives == 1:
            raise ValueError
        await trio.sleep_forever()

    await run_until(supervise(history, Child("a", run, start_timeout_seconds=2)), 60)
    assert history.steps == ["a started", "a failed", "a failed", "a failed", "a started", "a stopped"]
    assert [type(event.error) for event in history.of(ChildFailed)] == [
        *(ValueError, OSError, StartTimedOutError),
    ]


async def test_calling_started_twice_is_refused_as_trio_does() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        task_status.started()

    history = History()
    with pytest.raises(TooManyFailuresError) as caught:
        await supervise(history, Child("a", run)).run()
    assert "twice" in str(caught.value.__cause__)


async def test_the_start_timeout_ends_with_the_start() -> None:
    history = History()
    await run_until(supervise(history, serving(history, "a", start_timeout_seconds=1)), 100)
    assert history.steps == ["a runs", "a started", "a unwinds", "a stopped"]


# Stops


def deaf(release: trio.Event) -> Body:
    """A child whose cleanup is shielded and waits for something that only the test brings about."""

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await release.wait()

    return run


async def test_a_child_that_hangs_at_stop_is_reported_and_escalated_after_the_others_are_stopped() -> None:
    history = History()
    release = trio.Event()

    def on_hung(children: tuple[str, ...]) -> None:
        history.steps.append(f"escalated {children}")
        release.set()

    supervisor = supervise(
        history,
        serving(history, "a"),
        Child("deaf", deaf(release), stop_timeout_seconds=4),
        serving(history, "c"),
        on_hung=on_hung,
    )
    begun_at = trio.current_time()
    await run_until(supervisor, 1)
    assert trio.current_time() - begun_at == pytest.approx(1 + 4)
    assert history.steps[-6:] == [
        *("c unwinds", "c stopped", "deaf hung", "a unwinds", "a stopped", "escalated ('deaf',)"),
    ]
    [hung] = history.of(ChildHung)
    assert hung.waited_seconds == 4
    # The report says where it hangs: in this file, inside run's wait on the event.
    assert "deaf" in hung.task_tree
    assert __file__ in hung.task_tree
    assert "in wait" in hung.task_tree


async def test_a_child_that_hangs_after_its_start_timed_out_takes_the_tree_down() -> None:
    history = History()
    release = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    supervisor = supervise(
        history,
        serving(history, "a"),
        Child("deaf", run, start_timeout_seconds=3, stop_timeout_seconds=2),
        on_hung=lambda children: release.set(),
    )
    with pytest.raises(ChildHungError):
        await supervisor.run()
    assert history.steps[2:] == ["deaf hung", "top failed", "a unwinds", "a stopped"]


async def test_an_interrupt_in_a_child_that_had_been_given_up_still_comes_out() -> None:
    history = History()
    release = trio.Event()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        with trio.CancelScope(shield=True):
            await release.wait()
        raise SystemExit(5)

    supervisor = supervise(
        history, Child("deaf", run, stop_timeout_seconds=1), on_hung=lambda children: release.set()
    )
    # The scope takes its own Cancelled out of the group and leaves the exit.
    with pytest.raises(BaseExceptionGroup) as caught, trio.move_on_after(5):
        await supervisor.run()
    assert [type(member) for member in caught.value.exceptions] == [SystemExit]


async def test_a_crash_while_stopping_is_reported_and_the_stop_goes_on() -> None:
    history = History()
    error = ValueError("while stopping")

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            raise error

    supervisor = supervise(history, serving(history, "a"), Child("b", run), serving(history, "c"))
    await run_until(supervisor, 1)
    [failed] = history.of(ChildFailed)
    assert failed.error is error
    assert failed.restart_in_seconds is None
    assert history.steps[-3:] == ["b failed", "a unwinds", "a stopped"]


async def test_a_group_of_cancellations_and_errors_is_split_when_a_child_is_stopped() -> None:
    history = History()

    async def breaks_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks_when_cancelled)
            nursery.start_soon(trio.sleep_forever)
            # Both tasks wait before the stop, so that both kinds of exception come out of the nursery.
            await wait_all_tasks_blocked()
            task_status.started()

    await run_until(supervise(history, Child("a", run)), 1)
    [failed] = history.of(ChildFailed)
    assert isinstance(failed.error, ValueError)


async def test_cancellation_ends_a_pause_before_a_restart() -> None:
    history = History()
    limits = RestartLimits(backoff_base_seconds=1000, backoff_cap_seconds=1000, failure_decay_seconds=10_000)
    supervisor = supervise(history, crashing("a", 1, ValueError()), limits=limits)
    begun_at = trio.current_time()
    with trio.move_on_after(20) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(10)
            assert [child.state for child in supervisor.statistics().children] == ["backoff"]
    assert scope.cancelled_caught
    assert trio.current_time() - begun_at == pytest.approx(20)
    assert history.steps == ["a started", "a failed", "a stopped"]


async def test_a_stray_cancelled_is_judged_by_the_scope_and_counts_as_a_failure() -> None:
    """A child that keeps a Cancelled of its own and raises it later was not cancelled by anybody."""
    history = History()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        kept: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep(1)
            except trio.Cancelled as exc:
                kept = exc
                raise
        await trio.sleep(40)
        assert kept is not None
        raise kept

    await run_until(supervise(history, Child("a", run)), 60)
    assert [type(event.error) for event in history.of(ChildFailed)] == [trio.Cancelled]
    assert len(history.of(ChildStarted)) == 2


# Trees


async def test_a_supervisor_is_a_service_and_trees_stop_from_the_leaves() -> None:
    history = History()
    inner = Supervisor("top/inner", [serving(history, "x"), serving(history, "y")], on_event=history)
    supervisor = supervise(
        history,
        serving(history, "a"),
        Child("inner", inner.run, start_timeout_seconds=math.inf, stop_timeout_seconds=math.inf),
        serving(history, "b"),
    )
    await run_until(supervisor, 1)
    assert history.steps == [
        *("a runs", "a started", "x runs", "x started", "y runs", "y started", "inner started"),
        *("b runs", "b started", "b unwinds", "b stopped"),
        *("y unwinds", "y stopped", "x unwinds", "x stopped", "inner stopped", "a unwinds", "a stopped"),
    ]


async def test_an_inner_supervisor_that_gives_up_is_restarted_with_a_clean_slate_by_the_outer_one() -> None:
    history = History()
    left = 6

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal left
        task_status.started()
        if left:
            left -= 1
            raise ValueError
        await trio.sleep_forever()

    inner = Supervisor("top/inner", [Child("x", run)], on_event=history)
    await run_until(supervise(history, Child("inner", inner.run)), 60)
    [failed] = [event for event in history.of(ChildFailed) if event.child == "inner"]
    assert isinstance(failed.error, TooManyFailuresError)
    assert [event.starts for event in history.of(ChildStarted) if event.child == "inner"] == [1, 2]
    assert [event.starts for event in history.of(ChildStarted) if event.child == "x"] == [1, 2, 3, 4, 5, 6, 1]


async def test_taking_the_tree_down_goes_through_inner_supervisors() -> None:
    history = History()
    error = TerminateTree("all of it")
    inner = Supervisor("top/inner", [crashing("x", 5, error)], on_event=history)
    supervisor = supervise(history, serving(history, "a"), Child("inner", inner.run))
    with pytest.raises(TerminateTree) as caught:
        await supervisor.run()
    assert caught.value is error
    assert [event.supervisor for event in history.of(SupervisorFailed)] == ["top/inner", "top"]


# Around the edges


async def test_a_hook_that_raises_hurts_nobody_and_is_reported(defects: list[Defect]) -> None:
    steps: list[str] = []

    def hook(event: SupervisorEvent) -> None:
        steps.append(type(event).__name__)
        raise RuntimeError("broken hook")

    history = History()
    supervisor = Supervisor("top", [crashing("a", 40, ValueError()), serving(history, "b")], on_event=hook)
    await run_until(supervisor, 60)
    assert steps == [
        *("ChildStarted", "ChildStarted", "ChildFailed", "ChildStarted", "ChildStopped", "ChildStopped"),
    ]
    assert len(defects) == len(steps)
    assert all("broken hook" in str(each.error) for each in defects)


async def test_statistics_follow_a_child_through_its_states() -> None:
    history = History()
    supervisor = supervise(history, crashing("a", 40, ValueError()))
    assert supervisor.statistics().children == ()

    async def look_after(seconds: float) -> tuple[str, int, float]:
        await trio.sleep(seconds)
        [child] = supervisor.statistics().children
        return child.state, child.starts, round(child.failures, 1)

    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert await look_after(1) == ("running", 1, 0.0)
        assert await look_after(39.05) == ("backoff", 1, 1.0)
        assert await look_after(0.1) == ("running", 2, 1.0)
        supervisor.request_stop()
        await wait_all_tasks_blocked()
    assert supervisor.statistics().children == ()


async def test_a_supervisor_refuses_to_run_twice_at_once_but_may_run_again() -> None:
    history = History()
    supervisor = supervise(history, serving(history, "a"))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with pytest.raises(RuntimeError, match="already running"):
            await supervisor.run()
        supervisor.request_stop()
    await run_until(supervisor, 1)
    assert history.steps == ["a runs", "a started", "a unwinds", "a stopped"] * 2


def test_two_children_of_one_name_are_refused() -> None:
    history = History()
    with pytest.raises(ValueError, match="same name"):
        Supervisor("top", [serving(history, "a"), serving(history, "a")])


def test_by_default_a_hang_ends_the_process_with_status_70_and_says_where_it_hung() -> None:
    program = textwrap.dedent("""
        import trio
        from redstreamd.service.child import Child
        from redstreamd.service.supervisor import Supervisor

        async def deaf(*, task_status):
            task_status.started()
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()

        async def main():
            supervisor = Supervisor("top", [Child("deaf-child", deaf, stop_timeout_seconds=0.05)])
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                nursery.cancel_scope.cancel()

        trio.run(main)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 70
    assert "did not stop when cancelled: deaf-child" in done.stderr
    assert "in sleep_forever" in done.stderr
    assert "Current thread" in done.stderr
