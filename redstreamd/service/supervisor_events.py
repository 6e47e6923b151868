"""Events of a supervisor, as typed values for one hook."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class ChildStarted(msgspec.Struct, frozen=True):
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


class ChildFailed(msgspec.Struct, frozen=True):
    """A child raised, did not start in time, or broke while it was being stopped.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        error: What it raised; several errors as the group of the child's nursery.
        failures: The supervisor's decayed failure count, this failure included if it counts.
        restart_in_seconds: The pause before the next start, or None if there will be none.
    """

    supervisor: str
    child: str
    error: BaseException
    failures: float
    restart_in_seconds: float | None


class ChildFinished(msgspec.Struct, frozen=True):
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


class ChildStopped(msgspec.Struct, frozen=True):
    """A child was stopped, or its pending restart dropped, because its supervisor ends.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        stop_seconds: Time from the cancellation to its end.
    """

    supervisor: str
    child: str
    stop_seconds: float


class ChildHung(msgspec.Struct, frozen=True):
    """A cancelled child did not end within its stop timeout.

    Attributes:
        supervisor: The supervisor's name.
        child: The child's name.
        waited_seconds: Its stop timeout.
        task_tree: The child's trio tasks with their stacks, as text.
    """

    supervisor: str
    child: str
    waited_seconds: float
    task_tree: str


class SupervisorFailed(msgspec.Struct, frozen=True):
    """A supervisor gave up and stops its children; ``run()`` will raise the error.

    Attributes:
        supervisor: The supervisor's name.
        error: What ``run()`` will raise.
    """

    supervisor: str
    error: BaseException


SupervisorEvent = ChildStarted | ChildFailed | ChildFinished | ChildStopped | ChildHung | SupervisorFailed
EventHook = Callable[[SupervisorEvent], None]
