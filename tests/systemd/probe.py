"""A small daemon on redstreamd's service modules, for tests of these with a real service manager.

Runs inside the container in the place of `redstreamd serve`. Each connection sends one line and
gets one line back; what it does in between is the test's wish.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from redstreamd.event_log.kinds import all_kinds
from redstreamd.event_log.process_log import set_up_log
from redstreamd.service.child import Child
from redstreamd.service.crash_dump import install_crash_dump
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.log_record import Record, Severity
from redstreamd.service.notify import Notifier
from redstreamd.service.socket_activation import adopt_sockets
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.watchdog import Watchdog, watchdog_interval


def record(text: str) -> Record:
    return Record(Severity.INFO, "0" * 31 + "1", "probe", text)


def stalled(count: int, call: Callable[[int], object]) -> float:
    """How long a call takes: the 99th percentile.

    Without the calls in which the kernel took the processor away for others. One that blocks gives it up.
    """
    took_seconds = []
    for number in range(count):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        begun_at = time.perf_counter()
        call(number)
        took = time.perf_counter() - begun_at
        if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before:
            took_seconds.append(took)
    return sorted(took_seconds)[len(took_seconds) * 99 // 100]


def dropped_program(directory: Path) -> int:
    """Write a program into `directory` and run it; returns its exit status."""
    program = directory / "rs-program"
    # Small, and a program all the same: what matters is whether the kernel runs a file that lies there.
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    return subprocess.run([program], check=False).returncode


#: What an expression may use.
_AT_HAND = (ctypes, os, mmap, socket, subprocess, sys, tempfile, Path, dropped_program)


def outcome_of(expression: str) -> str:
    """What becomes of a Python expression in here: its value, or the error."""
    try:
        return repr(eval(expression, {each.__name__.rpartition(".")[2]: each for each in _AT_HAND}))
    except Exception as exc:  # noqa: BLE001 -- whatever it is, it is the answer
        return f"{type(exc).__name__}: {exc}"


async def main() -> None:
    log = set_up_log()
    install_crash_dump()
    notifier = Notifier.from_environment()
    interval_seconds = watchdog_interval()
    listeners = adopt_sockets().named("mcp")
    served = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal served
        served += 1
        async with stream:
            wish = (await stream.receive_some(1000)).decode().strip()
            await stream.send_all(json.dumps(do(wish)).encode() + b"\n")

    def do(wish: str) -> object:
        match wish.split():
            case ["hang"]:
                time.sleep(1000)
            case ["log", count]:
                stall = stalled(int(count), lambda n: log.output.write(record(f"record {n:06} {'x' * 400}")))
                return {"stall_seconds": stall, "dropped": log.output.statistics().dropped}
            case ["log", count, text]:
                for number in range(int(count)):
                    log.output.write(record(f"{text} {number:06}"))
                    time.sleep(0.001)
            case ["large", size]:
                log.output.write(record("x\n" * (int(size) // 2)))
            case ["every", "kind"]:
                # One record of each kind, as the daemon would write it.
                for kind in all_kinds():
                    about = (("PRINCIPAL", f"probe/{kind.name}"),)
                    log.output.write(Record(kind.severity, kind.message_id, kind.name, kind.name, about))
            case ["notify", count]:
                stall = stalled(int(count), lambda n: notifier.status(f"status {n}"))
                return {"stall_seconds": stall, "full": notifier.statistics().full}
            case ["ping"]:
                with socket.socket(socket.AF_UNIX) as redis:
                    redis.connect(os.environ["REDSTREAMD_REDIS_PATH"])
                    redis.sendall(b"PING\r\n")
                    return redis.recv(100).decode().strip()
            case ["arguments"]:
                return [Path(argument).read_text() for argument in sys.argv[1:]]
            case ["run", *words]:
                return outcome_of(" ".join(words))
            case ["exit", status]:
                os._exit(int(status))
        return {"pid": os.getpid(), "environ": dict(os.environ), "uid": os.getuid()}

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(trio.serve_listeners, answer, [listener])
            task_status.started()

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            await anext(signals)
            notifier.stopping("on the way out")
            supervisor.request_stop()
            await trio.sleep_forever()

    watchdog = Watchdog(
        notifier, Heartbeats(), interval_seconds=interval_seconds, status=lambda: f"served {served}"
    )
    supervisor = Supervisor(
        "probe",
        [
            Child("log", log.output.run),
            Child("watchdog", watchdog.run),
            Child("signals", stop_on_signal),
            Child("listeners", serve),
        ],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        log.output.write(record(f"ready with {len(listeners)} listeners"))
        notifier.ready()


if __name__ == "__main__":
    if sys.argv[1:2] == ["exit"]:
        sys.exit(int(sys.argv[2]))
    trio.run(main)
