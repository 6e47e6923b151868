"""What a supervisor reports, as typed values handed to one hook.

Owns the vocabulary; whether an event becomes a journal record, a counter or a line of a
test's history is the hook's business. Events are plain facts in the past tense, so a
hook never has to ask the supervisor anything back.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen
class ChildStarted:
    """A child called ``task_status.started()``.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        starts: How often it has been started in this run of its supervisor; 1 is the first time.
        start_seconds: How long the start took.
    """

    supervisor: str
    child: str
    starts: int
    start_seconds: float


@attrs.frozen
class ChildFailed:
    """A child raised, did not start in time, or broke while it was being stopped.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        error: What it raised; several errors are still the group that the child's nursery made of them.
        failures: The supervisor's decayed failure count, this failure included if it counts.
        restart_in_seconds: The pause before the next start, or None if there will be none.
    """

    supervisor: str
    child: str
    error: BaseException
    failures: float
    restart_in_seconds: float | None


@attrs.frozen
class ChildFinished:
    """A child returned, or asked not to be restarted.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        reason: Why it asked not to be restarted; empty if it simply returned.
        restart_in_seconds: The pause before the next start, or None if there will be none.
    """

    supervisor: str
    child: str
    reason: str
    restart_in_seconds: float | None


@attrs.frozen
class ChildStopped:
    """A child that ran, started, or waited to be restarted was stopped because its supervisor ends.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        stop_seconds: How long it took from the cancellation to its end.
    """

    supervisor: str
    child: str
    stop_seconds: float


@attrs.frozen
class ChildHung:
    """A cancelled child did not end within its stop timeout.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        waited_seconds: How long it was waited for.
        task_tree: The child's trio tasks and where each of them stands, for people.
    """

    supervisor: str
    child: str
    waited_seconds: float
    task_tree: str


@attrs.frozen
class SupervisorFailed:
    """A supervisor gave up and stops its other children; ``run()`` will raise the error.

    Attributes:
        supervisor: The supervisor's name.
        error: What ``run()`` will raise.
    """

    supervisor: str
    error: BaseException


SupervisorEvent = ChildStarted | ChildFailed | ChildFinished | ChildStopped | ChildHung | SupervisorFailed
EventHook = Callable[[SupervisorEvent], None]
