"""Exceptions by which a child tells its supervisor what to do, and those that a supervisor raises.

Also helpers for exception groups. `DoNotRestart` and `TerminateTree` are suture's ``ErrDoNotRestart`` and
``ErrTerminateSupervisorTree``.
"""

from __future__ import annotations

from collections.abc import Iterator


class DoNotRestart(Exception):  # noqa: N818 -- an outcome that a child chooses, not an error
    """Raised by a child that is not to be restarted; its siblings continue."""


class TerminateTree(Exception):  # noqa: N818 -- an outcome that a child chooses, not an error
    """Raised by a child to end the whole tree: each supervisor above stops its children and raises it."""


class StartTimedOutError(Exception):
    """A child did not call ``task_status.started()`` in time."""

    def __init__(self, child: str, timeout_seconds: float) -> None:
        """Name the child and the limit."""
        super().__init__(f"{child} did not start within {timeout_seconds:g} s")
        self.child = child
        self.timeout_seconds = timeout_seconds


class EndedBeforeStartError(Exception):
    """A permanent child returned without calling ``task_status.started()``."""

    def __init__(self, child: str) -> None:
        """Name the child."""
        super().__init__(f"{child} returned without having started")
        self.child = child


class ChildHungError(Exception):
    """A child did not start in time, and did not end when it was cancelled."""

    def __init__(self, supervisor: str, child: str) -> None:
        """Name the supervisor and the child."""
        super().__init__(f"{supervisor}: {child} neither started nor ended when cancelled")
        self.supervisor = supervisor
        self.child = child


class StartFailedError(Exception):
    """A child failed before its first start; ``__cause__`` is its error."""

    def __init__(self, supervisor: str, child: str) -> None:
        """Name the supervisor and the child."""
        super().__init__(f"{supervisor}: {child} could not be started")
        self.supervisor = supervisor
        self.child = child


class TooManyFailuresError(Exception):
    """The children failed more often than the limits allow; ``__cause__`` is the last failure."""

    def __init__(self, supervisor: str, child: str, failures: float) -> None:
        """Name the supervisor, the child that failed last, and the decayed count."""
        super().__init__(f"{supervisor}: too many failures ({failures:.1f}), the last one in {child}")
        self.supervisor = supervisor
        self.child = child
        self.failures = failures


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield `exc`, or the members of a group at any depth."""
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions:
            yield from leaves(member)
    else:
        yield exc


def unwrapped(exc: BaseException) -> BaseException:
    """Return the exception inside groups of one, as nurseries raise them."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def has(exc: BaseException, kind: type[BaseException]) -> bool:
    """Return whether `exc` is of the type `kind`, or a group that contains one."""
    return any(isinstance(leaf, kind) for leaf in leaves(exc))
