"""Starts daemons that need not import what another process has imported for all of them.

To import what the daemon consists of takes more processor time than most tests of it. So each process of a
run has one process that imports it once and forks (`preloaded_program.py`). What it forks becomes a child of
the tests, with a process ID, signals, an exit status and descriptors like any other.

What depends on how a process starts is started as usual: tests of starting and of memory at the start,
measurements, and whatever gives variables to the interpreter or the C library.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support import preloaded_program

PROGRAM: Final = Path(sys.executable).with_name("redstreamd")

#: What runs the words after the name of a network namespace in that.
IN_NAMESPACE: Final = ("ip", "netns", "exec")

#: Variables that are read when the program runs. Others may be for the interpreter or for libraries.
_READ_LATE: Final = (
    *("REDIS_", "REDSTREAMD_", "XDG_", "HOME", "PATH", "NOTIFY_SOCKET", "WATCHDOG_", "JOURNAL_STREAM"),
    *("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "MEMORY_PRESSURE_", "INVOCATION_ID"),
)
# linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36

_FORKING: Final = threading.Lock()
_LIBC = ctypes.CDLL(None, use_errno=True)


def start(
    command: Sequence[str | Path], *, env: Mapping[str, str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a command as `subprocess.Popen` does, preloaded if that makes no difference to what it does."""
    _, words = _namespace_in(command)
    is_python = Path(words[0]) == PROGRAM or tuple(words[:2]) == (sys.executable, "-c")
    if is_python and _early(env) == _early(environment()):
        return _Preloaded(command, env=env, **options)
    return subprocess.Popen(command, env=env, **options)


def _namespace_in(command: Sequence[str | Path]) -> tuple[str, Sequence[str | Path]]:
    """Return the network namespace in which a command is to run, or an empty name, and the rest of it."""
    if tuple(command[: len(IN_NAMESPACE)]) != IN_NAMESPACE:
        return "", command
    namespace, *words = command[len(IN_NAMESPACE) :]
    return str(namespace), words


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    input: Any = None,  # noqa: A002 -- subprocess's own word
    timeout: float = 120,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command to its end as `subprocess.run` does, and return its status and what it wrote."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        pipes["stdin"] = subprocess.PIPE
    with start(command, env=env, **pipes | options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        finally:
            process.kill()  # which does nothing to one that has ended
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATE)}


def environment() -> dict[str, str]:
    """Return what the process that imports is started with; `clean_environment` gives it to daemons, too."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return kept | {"PYTHONWARNINGS": "error"}


class _Preloaded(subprocess.Popen[bytes]):
    """`subprocess.Popen` for the console script, but for the way in which the process is made.

    The process gets no other descriptors than its standard ones.
    """

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *more: Any) -> None:
        _close_fds, _pass_fds, directory, environment, _, _, _, p2cread, _, _, c2pwrite, _, errwrite = more[
            :13
        ]
        given = (p2cread, c2pwrite, errwrite)
        namespace, words = _namespace_in(args)
        request = {
            "arguments": [os.fspath(word) for word in words],
            "namespace": namespace,
            "environment": environment,
            "directory": os.fspath(directory or Path.cwd()),
            "session": more[-2],
        }
        descriptors = [number if each == -1 else each for number, each in enumerate(given)]
        self.pid = _fork(json.dumps(request).encode(), descriptors)
        self._child_created = True
        self._close_pipe_fds(*more[7:13])  # type: ignore[attr-defined]


def _fork(request: bytes, descriptors: list[int]) -> int:
    # One at a time: threads may start processes, too.
    with _FORKING:
        asked = _importer()
        # A process whose parent ends becomes a child of the nearest such reaper.
        _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(asked, [request], descriptors)
            answer = asked.recv(20)
        finally:
            _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    if not answer:
        raise RuntimeError("the process that imports the daemon has ended; its error is above")
    return int(answer)


@functools.cache
def _importer() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, preloaded_program.__file__, str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env=environment(),
        start_new_session=True,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
