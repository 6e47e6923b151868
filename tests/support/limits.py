"""Runs each test within a time limit, and async tests inside the contexts that their fixtures hand over.

tests/conftest.py takes the hook from here. The limit counts real time, also where a test's clock is virtual.
It counts the test itself, without the set-up of its fixtures. On a machine on which more programs want the
processor than usual, a limit is longer in proportion.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from inspect import isasyncgenfunction, iscoroutinefunction
from types import FrameType
from typing import Any, Generic, TypeVar

import attrs
import pytest
import trio

from tests.support.fair_clock import busyness

#: For an async test. The hub's sweep after 30 s must not hide that a push did not wake a waiter.
ASYNC_SECONDS = 25
#: For a test that waits for other processes, each of which it gives a time of its own.
SYNC_SECONDS = 600
#: For the counts of a soak, which are many.
SOAK_SECONDS = 3600
#: How many times as long a limit is at most where more programs want the processor than usual. Elsewhere it
#: stays as it is, so that what takes too long, or is hidden by something that comes later, shows.
MOST_EXTENSION = 4.0
#: What a test that is cancelled has for its end, before it is interrupted wherever it is.
GRACE_SECONDS = 10

T = TypeVar("T")


@attrs.frozen
class Deferred(Generic[T]):
    """The value of a fixture that needs a nursery: a context, entered by the test that names the fixture.

    An async generator fixture must not yield inside a nursery. anyio's plugin runs all fixtures and tests in
    one task, one after the other. A background task that fails would cancel that task, and with it the ends
    of the fixtures. Entered in the test, the nursery cancels the test, which raises the error.
    """

    context: AbstractAsyncContextManager[T]


def limit_of(item: pytest.Function) -> float:
    """Return the seconds that a test may take.

    `@pytest.mark.limit(60)` says them; `limit(60, times=5)` adds five for each of the parameter `times`.
    """
    mark = item.get_closest_marker("limit")
    if mark is not None:
        (seconds,) = mark.args
        return float(seconds + sum(each * item.callspec.params[name] for name, each in mark.kwargs.items()))
    if item.get_closest_marker("soak") or item.get_closest_marker("soak_ci"):
        return SOAK_SECONDS
    return ASYNC_SECONDS if iscoroutinefunction(_inner(item)) else SYNC_SECONDS


def _inner(item: pytest.Function) -> Callable[..., Any]:
    """Return the function of a test, below what Hypothesis wraps around it."""
    inner: Callable[..., Any] = (
        item.obj.hypothesis.inner_test if hasattr(item.obj, "hypothesis") else item.obj
    )
    return inner


class _Alarm:
    """Ends a test at its limit: cancels it where it is async, and otherwise interrupts it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.extended = False
        self.message = f"the test took longer than its limit of {seconds:g} s"
        self.cancel: Callable[[], None] | None = None
        self.rung = False

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """Handle the signal: give a test on a busy machine more time once, and then end it."""
        if not self.extended:
            self.extended = True
            longer = min(busyness(), MOST_EXTENSION) - 1
            if longer > 0:
                signal.setitimer(signal.ITIMER_REAL, longer * self.seconds, GRACE_SECONDS)
                return
        self.rung = True
        cancel, self.cancel = self.cancel, None
        if cancel is None:
            pytest.fail(self.message)
        cancel()

    async def run(self, test: Callable[..., Any], /, **arguments: Any) -> None:
        """Run an async test inside the contexts among its arguments; fail it when it is cancelled."""
        __tracebackhide__ = True
        if self.rung:  # Hypothesis repeats the example that was cancelled
            pytest.fail(self.message)
        at_limit = None
        token = trio.lowlevel.current_trio_token()
        with trio.CancelScope() as scope, _lone_errors():
            self.cancel = functools.partial(token.run_sync_soon, scope.cancel)
            try:
                async with AsyncExitStack() as around:
                    for name, value in arguments.items():
                        if isinstance(value, Deferred):
                            arguments[name] = await around.enter_async_context(value.context)
                    await test(**arguments)
            except BaseException as error:
                at_limit = error
                raise
        if scope.cancelled_caught:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise pytest.fail.Exception(self.message) from at_limit


@contextmanager
def _lone_errors() -> Iterator[None]:
    """Raise an error that is alone in its groups as it is: pytest shows what its parts were."""
    __tracebackhide__ = True
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from error.__cause__


@contextmanager
def _alarm(seconds: float) -> Iterator[_Alarm]:
    alarm = _Alarm(seconds)
    before = signal.signal(signal.SIGALRM, alarm.ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, GRACE_SECONDS)
    try:
        yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Any:
    """Run the test within its limit."""
    __tracebackhide__ = True
    test = _inner(pyfuncitem)
    with _alarm(limit_of(pyfuncitem)) as alarm, pytest.MonkeyPatch.context() as patch:
        if iscoroutinefunction(test):
            options = _own_run(pyfuncitem)

            @functools.wraps(test)
            async def limited(**arguments: Any) -> None:
                __tracebackhide__ = True
                await alarm.run(test, **arguments)

            def run(**arguments: Any) -> None:
                __tracebackhide__ = True
                trio.run(functools.partial(limited, **arguments), **options or {})

            called = limited if options is None else run
            if test is pyfuncitem.obj:
                patch.setattr(pyfuncitem, "obj", called)
            else:
                patch.setattr(pyfuncitem.obj.hypothesis, "inner_test", called)
        return (yield)


def _own_run(item: pytest.Function) -> dict[str, Any] | None:
    """Return the options for a run of trio of the test's own; None if it shares one with async fixtures.

    For those, anyio's plugin runs trio as a guest, which waits for whatever happens in one more thread: that
    takes more of the processor's time than the rest of many tests.
    """
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [fixtures[name][-1].func for name in item.fixturenames if name in fixtures]
    if any(iscoroutinefunction(each) or isasyncgenfunction(each) for each in functions):
        return None
    backend = item.funcargs["anyio_backend"]
    return {} if isinstance(backend, str) else backend[1]
