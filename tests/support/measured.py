"""What a test measures is measured again, alone, before it fails: beside other tests a figure shows nothing.

Times, rates, and shares of processes depend on what else runs on the machine. Assertions about them stand in
`with measured:`. Where one of these fails, the whole test is repeated while no other process of the run has a
test; only if it fails each time is it failed. What else a test asserts is never repeated. The end of the run
names all that was measured again.

tests/conftest.py registers this module as a plugin.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from _pytest.runner import runtestprotocol

#: How often what failed is measured again, where the test does not say `@pytest.mark.repetitions(5)`.
REPETITIONS = 2
#: The property of a test that keeps what each of its measurements failed with.
PROPERTY = "measured again"

_BROKEN = pytest.StashKey[bool]()


class BoundError(AssertionError):
    """A measured figure is not within its bounds."""


class _Measured:
    """A block of assertions about what was measured, and about nothing else."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell the failures of these assertions from all others."""
        __tracebackhide__ = True
        if isinstance(error, AssertionError):
            raise BoundError(str(error)).with_traceback(traceback) from None


measured = _Measured()


def _is_of_bounds(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_of_bounds, error.exceptions))
    return isinstance(error, BoundError)


@contextlib.contextmanager
def turn(directory: Path | None, *, alone: bool) -> Iterator[None]:
    """Let all processes of a run have tests in the block, or this one only.

    Who wants to be alone holds the gate while those who are inside end, so that no others enter before. The
    kernel releases the locks of a process that dies.

    Args:
        directory: What the processes of the run have in common; None where there is only this one.
        alone: Only this process.
    """
    if directory is None:
        yield
        return
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (directory / "gate.lock").open("w") as gate, (directory / "turn.lock").open("w") as inside:
        fcntl.flock(gate, kind)
        fcntl.flock(inside, kind)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            # To close it would not suffice: children that were forked meanwhile share it.
            fcntl.flock(inside, fcntl.LOCK_UN)


def _common(config: pytest.Config) -> Path | None:
    """Return the directory of a parallel run, below which each of its processes has one."""
    return Path(config.option.basetemp).parent if hasattr(config, "workerinput") else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Keep whether only bounds are why the test failed."""
    if call.when == "call":
        item.stash[_BROKEN] = call.excinfo is not None and _is_of_bounds(call.excinfo.value)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test beside those of other processes, and again alone where what it measured is why it failed.

    The turn is waited for before the limit of the test begins.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before, directory = list(item.user_properties), _common(item.config)
    with turn(directory, alone=False):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if _repeatable(item, reports):
        with turn(directory, alone=True):
            failures: list[str] = []
            mark = item.get_closest_marker("repetitions")
            most = REPETITIONS if mark is None else mark.args[0]
            while len(failures) < most and _repeatable(item, reports):
                failures.append(_failure(reports))
                item.user_properties[:] = [*before, (PROPERTY, failures)]
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _repeatable(item: pytest.Item, reports: list[pytest.TestReport]) -> bool:
    """Return whether bounds are all that failed; an error in the end of a fixture is not to be lost."""
    return item.stash.get(_BROKEN, False) and [each.when for each in reports if each.failed] == ["call"]


def _failure(reports: list[pytest.TestReport]) -> str:
    (failed,) = (each for each in reports if each.failed)
    return str(getattr(failed.longrepr, "reprcrash", failed.longreprtext))


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were repeated, and what their first measurement failed with."""
    repeated = [
        (report, failures)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, failures in report.user_properties
        if name == PROPERTY and report.when == "call"
    ]
    if repeated:
        terminalreporter.section("measured again, alone")
    for report, failures in repeated:
        assert isinstance(failures, list)
        times = "once" if len(failures) == 1 else f"{len(failures)} times"
        terminalreporter.write_line(f"{report.nodeid}: {report.outcome} when measured again {times}")
        for line in failures[0].splitlines():
            terminalreporter.write_line(f"    {line}")
