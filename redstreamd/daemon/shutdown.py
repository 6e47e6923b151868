"""Stops the daemon on a signal: drains, then stops the supervisor."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import trio

from redstreamd.event_log.daemon_events import Stopping, StoppingAtOnce
from redstreamd.service.notify import Notifier
from redstreamd.service.supervisor import Supervisor

T = TypeVar("T")

#: The signals that stop every daemon. For SIGHUP see `reload_signal`.
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# How much time to stop is requested at once, and again and again. It is several times the interval, because
# a daemon that gets little of the processor must not be killed while it answers.
_EXTENSION_SECONDS = 10.0
_EXTENSION_INTERVAL_SECONDS = 2.0


async def unless_stopped(start: Callable[[], Awaitable[T]]) -> T | None:
    """Run `start` and return its result, or None if a signal arrives meanwhile, which cancels it.

    For what comes before `run_until_signal`.
    """
    result: T | None = None
    async with trio.open_nursery() as nursery:

        async def cancel_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
            with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
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
    signals: Sequence[signal.Signals],
    *,
    on_event: Callable[[Stopping | StoppingAtOnce], None],
) -> None:
    """Run `supervisor` until it ends or one of `signals` stops it.

    The first signal calls `drain` and then stops the supervisor. A second signal stops it at once.
    """

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*signals) as received:
            task_status.started()
            await anext(received)
            async with trio.open_nursery() as stopping:
                stopping.start_soon(drain_and_stop)
                await anext(received)
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
        await trio.sleep(_EXTENSION_INTERVAL_SECONDS)


def with_hangup() -> tuple[signal.Signals, ...]:
    """Return the signals that stop what does not reload: SIGHUP, too, unless nohup(1) ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return STOP_SIGNALS if ignored else (*STOP_SIGNALS, signal.SIGHUP)
