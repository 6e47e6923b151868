"""Learns from the service manager that memory is short, and has some of it given back.

The protocol is systemd's (https://systemd.io/MEMORY_PRESSURE): $MEMORY_PRESSURE_WATCH names a file of the
kernel's pressure stall information, a FIFO or a Unix socket. What $MEMORY_PRESSURE_WRITE holds, in base64, is
written to it at first. A file of the kernel then has an exceptional condition (POLLPRI) at each pressure, the
others have something to read. trio does not wait for exceptional conditions; so the descriptor is put into an
epoll of its own, which is readable whenever one is there (epoll(7) on nesting).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import select
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

import msgspec
import trio

from redstreamd.service.process_stats import resident_bytes

#: How long new waits are refused after the last pressure. The kernel tells of one at most every two seconds.
SHED_SECONDS: Final = 10.0
#: The least time between two reactions, however often the manager tells of a pressure.
_LEAST_SECONDS: Final = 1.0
_READ_BYTES: Final = 4_096


class MemoryPressed(msgspec.Struct, frozen=True):
    """Memory is short, and what could be given back was.

    Attributes:
        resident: What the process had in memory, in bytes.
        freed: How much of it was given back.
        shed_seconds: For how long new waits are refused.
    """

    resident: int
    freed: int
    shed_seconds: float


class PressureNotWatched(msgspec.Struct, frozen=True):
    """The service manager asks to watch something that cannot be watched.

    Attributes:
        path: What it names.
        reason: Why not.
    """

    path: str
    reason: str


PressureEvent = MemoryPressed | PressureNotWatched


class PressureStatistics(msgspec.Struct, frozen=True):
    """A snapshot.

    Attributes:
        watched: What is watched; None for nothing.
        times: How often memory was short.
        is_shedding: Whether new waits are refused now.
    """

    watched: str | None
    times: int
    is_shedding: bool


class MemoryPressure:
    """Watches for pressure, and reacts."""

    def __init__(
        self,
        path: str | None,
        written: bytes,
        *,
        give_back: Callable[[], Awaitable[None]],
        shed: Callable[[bool], None],
        report: Callable[[PressureEvent], None],
        shed_seconds: float = SHED_SECONDS,
    ) -> None:
        """Watch nothing yet.

        Args:
            path: What to watch; None or /dev/null for nothing.
            written: Written to it at first.
            give_back: Frees what is only kept to save time.
            shed: Called with true to refuse new waits, and with false to let them in again.
            report: Called with each event.
            shed_seconds: How long new waits are refused.
        """
        self._path = None if path in (None, "", "/dev/null") else path
        self._written = written
        self._give_back = give_back
        self._shed = shed
        self._report = report
        self._shed_seconds = shed_seconds
        self._times = 0
        self._is_shedding = False

    def statistics(self) -> PressureStatistics:
        """Return a snapshot."""
        return PressureStatistics(self._path, self._times, self._is_shedding)

    def notice(self) -> str:
        """Return what the status line begins with while memory is short; else nothing."""
        return "short of memory: new waits are refused" if self._is_shedding else ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """React to each pressure until cancelled; returns if there is nothing to watch.

        ``task_status.started()`` is called once it is watched. New waits are let in when this ends.
        """
        try:
            with contextlib.ExitStack() as resources:
                if self._path is None:
                    task_status.started()
                    return
                try:
                    pressed = resources.enter_context(_watched(self._path, self._written))
                except OSError as error:
                    task_status.started()
                    self._report(PressureNotWatched(self._path, error.strerror or type(error).__name__))
                    return
                task_status.started()
                await self._react(pressed)
        finally:
            self._set_shedding(False)

    async def _react(self, pressed: Callable[[], Awaitable[bool]]) -> None:
        while True:
            # After a pressure for as long as waits are refused, else for ever.
            with trio.move_on_after(self._shed_seconds if self._is_shedding else float("inf")) as waiting:
                if not await pressed():
                    return
            if waiting.cancelled_caught:
                self._set_shedding(False)
                continue
            self._times += 1
            self._set_shedding(True)
            before = resident_bytes()
            await self._give_back()
            freed = max(0, before - resident_bytes())
            self._report(MemoryPressed(before, freed, self._shed_seconds))
            await trio.sleep(_LEAST_SECONDS)

    def _set_shedding(self, is_shedding: bool) -> None:
        if is_shedding != self._is_shedding:
            self._is_shedding = is_shedding
            self._shed(is_shedding)


def from_environment(environ: Mapping[str, str] = os.environ) -> tuple[str | None, bytes]:
    """Return what to watch, and what to write to it; what is no base64 is as nothing."""
    try:
        written = base64.b64decode(environ.get("MEMORY_PRESSURE_WRITE", ""), validate=True)
    except binascii.Error:
        written = b""
    return environ.get("MEMORY_PRESSURE_WATCH"), written


@contextlib.contextmanager
def _watched(path: str, written: bytes) -> Iterator[Callable[[], Awaitable[bool]]]:
    """Open what is to be watched, and yield what waits for a pressure; it returns false if there is no other.

    Raises:
        OSError: It cannot be opened, written or watched.
    """
    with contextlib.ExitStack() as resources:
        kind = stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116
        if kind == stat.S_IFSOCK:
            connection = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.connect(path)
            connection.setblocking(False)
            descriptor = connection.fileno()
        else:
            # A FIFO that is open for both never ends, whoever else closes it.
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            resources.callback(os.close, descriptor)
        if written:
            os.write(descriptor, written)
        is_file = kind == stat.S_IFREG
        poll = resources.enter_context(select.epoll(1))
        poll.register(descriptor, select.EPOLLPRI if is_file else select.EPOLLIN)

        async def pressed() -> bool:
            await trio.lowlevel.wait_readable(poll.fileno())
            events = poll.poll(0)
            if is_file:
                # The group of the service is gone.
                return not any(event & select.EPOLLERR for _, event in events)
            with contextlib.suppress(BlockingIOError):
                return bool(os.read(descriptor, _READ_BYTES))
            return True

        yield pressed
