"""Accepts the connections of one listener, and goes on when the system does not accept."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from redstreamd.mcpio.connection_events import AcceptPaused, AcceptResumed, EventHook
from redstreamd.mcpio.served_listener import ServedListener, has_waiting, take_waiting

# Between attempts to accept while the system refuses: rare enough to cost no CPU time, and a descriptor that
# becomes free is used within a second.
PAUSE_SECONDS: Final = 0.05
MAX_PAUSE_SECONDS: Final = 1.0
# What accepting those that wait may take in a pass of the scheduler. They are in one line with whoever comes
# next, so they are accepted faster than one client connects, and wait for their turns afterwards.
ACCEPT_SECONDS: Final = 0.001
# For accepting all that wait when the daemon stops. Who comes faster than that does not keep it. Work on
# what clients sent goes on meanwhile, so half a second was too short for 20 on a busy machine.
BACKLOG_SECONDS: Final = 5.0

Admit = Callable[[trio.SocketStream], Awaitable[None]]


async def accept_clients(
    served: ServedListener,
    admit: Admit,
    *,
    free_descriptor: Callable[[], Awaitable[bool]],
    may_go_on: Callable[[], bool],
    report: EventHook,
) -> NoReturn:
    """Accept until cancelled; a failed `accept` is retried forever, with growing pauses.

    Args:
        served: Where to accept.
        admit: Called with each connection.
        free_descriptor: Gives up a descriptor, because there is none for the next client; returns whether it
            could.
        may_go_on: Whether the next connection that waits may be accepted in the same pass of the scheduler.
        report: Called with `AcceptPaused` and `AcceptResumed`.
    """
    pause = PAUSE_SECONDS
    paused_since: float | None = None
    while True:
        try:
            stream = await served.listener.accept()
        except OSError as exc:
            if exc.errno == errno.EMFILE and await free_descriptor():
                continue
            if paused_since is None:
                paused_since = trio.current_time()
                report(AcceptPaused(served.principal, exc))
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            continue
        if paused_since is not None:
            report(AcceptResumed(served.principal, trio.current_time() - paused_since))
            paused_since = None
            pause = PAUSE_SECONDS
        ends = time.perf_counter() + ACCEPT_SECONDS
        await admit(stream)
        while (
            time.perf_counter() < ends
            and may_go_on()
            and (waiting := take_waiting(served.listener)) is not None
        ):
            await admit(waiting)


async def accept_waiting(served: ServedListener, admit: Admit) -> None:
    """Accept the connections that closing the listener would reset."""
    with trio.move_on_after(BACKLOG_SECONDS), contextlib.suppress(OSError):
        while not served.outlives_us and has_waiting(served.listener):
            await admit(await served.listener.accept())
