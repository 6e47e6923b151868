"""Stops the daemon on a signal: drains, then stops the supervisor."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from redstreamd.event_log.daemon_events import Stopping, StoppingAtOnce
from redstreamd.service.notify import Notifier
from redstreamd.service.supervisor import Supervisor

T = TypeVar("T")

# How much time to stop is requested at once, and again after half of it.
_EXTENSION_SECONDS = 4.0


async def unless_stopped(start: Callable[[], Awaitable[T]]) -> T | None:
    """Run `start` and return its result, or None if a signal arrives meanwhile, which cancels it.

    For what comes before `run_until_signal`.
    """
    result: T | None = None
    async with trio.open_nursery() as nursery:

        async def cancel_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(*_stop_signals()) as signals:
                task_status.started()
                await anext(signals)
                stopped.set()
                nursery.cancel_scope.cancel()

        stopped = trio.Event()
        await nursery.start(cancel_on_signal)
        result = await start()
        nursery.cancel_scope.cancel()
    # Where `start` cannot be cancelled, it has a result nevertheless.
    return None if stopped.is_set() else result


async def run_until_signal(
    supervisor: Supervisor,
    drain: Callable[[], Awaitable[None]],
    *,
    on_event: Callable[[Stopping | StoppingAtOnce], None],
) -> None:
    """Run `supervisor` until it ends or a signal stops it.

    The first signal calls `drain` and then stops the supervisor. A second signal stops it at once.
    """

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_stop_signals()) as signals:
            task_status.started()
            await anext(signals)
            async with trio.open_nursery() as stopping:
                stopping.start_soon(drain_and_stop)
                await anext(signals)
                on_event(StoppingAtOnce())
                supervisor.request_stop()

    async def drain_and_stop() -> None:
        on_event(Stopping())
        await drain()
        supervisor.request_stop()

    async with trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal)
        await supervisor.run()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def extended_stop_timeout(notifier: Notifier) -> AsyncIterator[None]:
    """Report to the service manager that the daemon stops, and extend its timeout during the block."""
    notifier.stopping("answering what is in flight")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_extend_timeout, notifier)
        yield
        nursery.cancel_scope.cancel()


async def _extend_timeout(notifier: Notifier) -> None:
    while True:
        notifier.extend_timeout(_EXTENSION_SECONDS)
        await trio.sleep(_EXTENSION_SECONDS / 2)


def _stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop the daemon; SIGHUP (a closed terminal) unless nohup(1) ignores it."""
    usual = (signal.SIGTERM, signal.SIGINT)
    return usual if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*usual, signal.SIGHUP)
