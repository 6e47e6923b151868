"""Imports what the daemon imports, once, and forks a process for each one that is wanted.

`tests/support/preloaded.py` starts it and says how it is asked. A process that it forks runs the program of
the console script from its first line, with arguments, environment, directory and descriptors of its own. It
only finds in memory what an import would have read from the disk. Nothing else of the tests is imported here.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The largest request: arguments and an environment.
REQUEST_BYTES = 1 << 20

_CLONE_NEWNET = 0x40000000


def load() -> None:
    """Import what serving needs, in the daemon's own way and order, and build what is the same for all."""
    from redstreamd.startup.lazy_packages import make_lazy
    from redstreamd.startup.start_without_collector import collect_as_usual, collect_nothing

    collect_nothing()
    from redstreamd.daemon import daemon, sdk_models

    make_lazy(daemon._LAZY_PACKAGES)
    importlib.import_module("redstreamd.daemon.serving")
    with sdk_models.models_built_later():
        importlib.import_module("redstreamd.daemon.sdk_kernels")
    from redstreamd.redisio.error_replies import load_parser

    load_parser()
    sdk_models.build_models()
    collect_as_usual()


def become(request: dict[str, Any], descriptors: Sequence[int]) -> None:
    """Make this process what the request wants, as `subprocess` would."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    # Those that are there keep in mind what kind of file they were opened on.
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        former = getattr(sys, f"__{name}__")
        buffering = 1 if name == "stderr" else -1
        anew = open(  # noqa: SIM115 -- for as long as the process runs
            number,
            former.mode,
            buffering,
            encoding=former.encoding,
            errors=former.errors,
            closefd=False,
        )
        setattr(sys, name, anew)
        setattr(sys, f"__{name}__", anew)
    os.closerange(3, 1 << 16)
    if request["namespace"]:
        _enter(request["namespace"])
    if request["session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["arguments"]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    import trio

    # The order in which it runs tasks; `random` is seeded anew by itself.
    trio._core._run._r.seed()


def _enter(namespace: str) -> None:
    """Enter a network namespace, as `ip netns exec` does."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {namespace}")
    os.close(descriptor)


def serve(asked: socket.socket) -> None:
    """Fork until the other side closes; returns in the processes that are to run the program."""
    while True:
        data, descriptors, _, _ = socket.recv_fds(asked, REQUEST_BYTES, 3)
        if not data:
            asked.close()
            sys.exit()
        told, tell = os.pipe()
        # A process between, which ends, so that the one that runs becomes a child of whoever asks.
        between = os.fork()
        if not between:
            parent = os.getpid()
            wanted = os.fork()
            if wanted:
                os.write(tell, str(wanted).encode())
                os._exit(0)
            while os.getppid() == parent:
                time.sleep(0.0005)
            asked.detach()  # `become` closes it
            become(json.loads(data), descriptors)
            return
        os.waitpid(between, 0)
        for descriptor in (tell, *descriptors):
            os.close(descriptor)
        asked.send(os.read(told, 20))
        os.close(told)


def run() -> None:
    """Run the console script, or the lines of Python that stand in for it."""
    program, *words = sys.argv
    if words[:1] == ["-c"]:
        lines = words.pop(0) and words.pop(0)
        sys.argv[:] = ["-c", *words]
        sys.path.insert(0, "")
        exec(compile(lines, "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    load()
    serve(socket.socket(fileno=int(sys.argv[1])))
    run()
