"""Instructions of the daemon for one call, by valgrind's callgrind.

    .venv/bin/python -m tests.bench.instructions [--tree PATH] [--of ERA] [NAME ...]

Other programs of the machine do not change them, so two checkouts can be compared while it has other work.
Waves of calls are sent on one connection; the least of some waves counts. The turns of the event loop are
made longer, since callgrind is some fifty times slower than the processor: else a wave would be cut into more
turns than it is. So are the time from one collection of garbage to the next, and that for which takes of new
entries look for nothing else. They begin once the daemon imports nothing more. What runs besides calls
(heartbeats, pings) is a part of it, less than one percent; more on a busy machine, where it takes longer. The
floor, which shows what pure Python needs at least, is counted likewise where it serves the call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from tests.bench import floor
from tests.bench.accounting import cpu_seconds
from tests.bench.load import template
from tests.bench.peers import ENTRY, MODERN, STREAM, line
from tests.support.daemon import clean_environment, home
from tests.support.servers import Server, redis_binary, running

_WAVES: Final = 3
_SLOWER: Final = 50
#: For a start below valgrind.
_START_SECONDS: Final = 300
_COLUMNS: Final = ("handshake", "2026-07-28", "floor")

# The first argument is what turns are longer by, and the time that Redis has to reply to a PING or is silent.
_DAEMON: Final = """
import sys
from redstreamd.admission import turns
from redstreamd.redisio.topology import Topology
from redstreamd.service import collector
from redstreamd.streams import life_signs, takes
for module in (turns, collector):
    for name in [name for name in vars(module) if name.endswith("_SECONDS")]:
        setattr(module, name, getattr(module, name) * float(sys.argv[1]))
for module, name in ((takes, "NO_SCAN_SECONDS"), (life_signs, "QUIET_SECONDS")):
    setattr(module, name, getattr(module, name) * float(sys.argv[1]))
Topology.__init__.__kwdefaults__["ping_timeout"] *= float(sys.argv[1])
from redstreamd.cli import main
sys.argv[1:2] = []
sys.exit(main())
"""


Call = tuple[str, dict[str, Any]]


@attrs.frozen
class Wave:
    """Calls that are sent at once.

    Attributes:
        calls: Tool and arguments of each; or what makes them of the answers to those before.
        is_of_floor: Whether the floor serves it, too.
        before: Calls that precede each wave, and are not counted.
        times: How often it is sent in a row; what runs besides calls is a small part then.
    """

    calls: Sequence[Call] | Callable[[list[bytes]], Sequence[Call]]
    is_of_floor: bool = False
    before: Sequence[Sequence[Call]] = ()
    times: int = 1


_ONE = ("stream_add", {"stream": STREAM, "entries": [ENTRY]})
_LONG = {"text": "a" * 32_000}


def _take(count: int) -> Call:
    return "work_take", {"stream": "bench:work", "group": "bench", "consumer": "bench", "count": count}


def _done(taken: list[bytes]) -> list[Call]:
    leases = (json.loads(answer)["result"]["structuredContent"]["lease"] for answer in taken)
    return [("work_done", {"lease": lease}) for lease in leases]


def _before_takes(count: int) -> list[list[Call]]:
    """Return calls after which takes of so many entries find them, and look for nothing else.

    One take looks at everything first, and saves the group's clock.
    """
    added = ("stream_add", {"stream": "bench:work", "entries": [ENTRY] * 100})
    return [[added] * (2 * count), [_take(count)]]


WAVES: Final = {
    "add of 1, 64 in flight": Wave([_ONE] * 64, is_of_floor=True),
    "add of 1, 1 in flight": Wave([_ONE], is_of_floor=True, times=32),
    "add of 100, 16 in flight": Wave(
        [("stream_add", {"stream": STREAM, "entries": [ENTRY] * 100})] * 16, is_of_floor=True
    ),
    "add of 32 KB, 16 in flight": Wave(
        [("stream_add", {"stream": "bench:long", "entries": [_LONG]})] * 16, is_of_floor=True
    ),
    "read of 100, 16 in flight": Wave(
        [("stream_read", {"stream": STREAM, "count": 100})] * 16, is_of_floor=True
    ),
    "list of 1, 16 in flight": Wave([("stream_list", {"count": 1})] * 16),
    "work_take of 1, 64 in flight": Wave([_take(1)] * 64, before=_before_takes(1)),
    "work_done of 1, 64 in flight": Wave(_done, before=[*_before_takes(1), [_take(1)] * 64]),
    "work_take of 10, 16 in flight": Wave([_take(10)] * 16, before=_before_takes(10)),
    "work_done of 10, 16 in flight": Wave(_done, before=[*_before_takes(10), [_take(10)] * 16]),
}


#: Not a wave: an entry that another program adds, which wakes one who waits, and his next wait.
WAKE: Final = "wake of 1 and its next wait"
_WAKES: Final = 30
#: From one to the next: so long it takes at most, below callgrind, until he waits again.
_WAKE_SECONDS: Final = 0.25


#: Not a wave either: an entry for which many wait at one stream, who then wait again; for each of them.
CROWD: Final = "wake of each of many and its next wait"
_MANY: Final = 500
_ENTRIES: Final = 6
_OTHERS: Final = (WAKE, CROWD)
#: The daemon is done when it takes less than this part of a core for so many seconds, so often in a row.
_IDLE: Final = 0.3
_IDLE_SECONDS: Final = 0.2
_IDLE_TIMES: Final = 3


class _Client:
    """A connection that sends waves and awaits their answers."""

    def __init__(self, path: Path, *, is_modern: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_START_SECONDS)
        self._socket.connect(str(path))
        self._meta = MODERN if is_modern else None
        self._last = 0
        if not is_modern:
            info = {"name": "bench", "version": "0"}
            asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
            self._exchange([line("initialize", asked, 0)])
            self._socket.sendall(line("notifications/initialized", {}))

    def prepare(self, wave: Wave) -> Sequence[Call]:
        """Make the calls that precede a wave, and return those of the wave."""
        answers: list[bytes] = []
        for calls in wave.before:
            answers = self.send(calls)
        return wave.calls(answers) if callable(wave.calls) else wave.calls

    def send(self, calls: Sequence[Call]) -> list[bytes]:
        lines = []
        for tool, arguments in calls:
            self._last += 1
            made = template(tool, arguments, meta=self._meta)
            lines.append(made.replace(b"@ID@", str(self._last).encode()))
        return self._exchange(lines)

    def wait(self, cursor: str) -> None:
        """Send a wait."""
        arguments = {"streams": [STREAM], "cursor": cursor, "timeout_seconds": 600}
        self._last += 1
        made = template("stream_wait", arguments, meta=self._meta)
        self._socket.sendall(made.replace(b"@ID@", str(self._last).encode()))

    def told(self) -> str:
        """Take the answer to a wait, and return the cursor for the next one."""
        (answer,) = self._exchange([b""])
        return str(json.loads(answer)["result"]["structuredContent"]["next_cursor"])

    def close(self) -> None:
        self._socket.close()

    def _exchange(self, lines: list[bytes]) -> list[bytes]:
        self._socket.sendall(b"".join(lines))
        received = bytearray()
        while received.count(b"\n") < len(lines):
            data = self._socket.recv(1 << 20)
            if not data:
                raise RuntimeError("the connection was closed")
            received += data
        answers = bytes(received).splitlines()
        for answer in answers:
            if b'"isError":true' in answer or b'"error":{' in answer:
                raise RuntimeError(f"a call failed: {answer[:500]!r}")
        return answers


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        return tried.connect_ex(str(path)) == 0


def _control(*arguments: str) -> None:
    subprocess.run(["callgrind_control", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def _counted(
    command: Sequence[str], folder: Path, is_ready: Callable[[], bool], **options: Any
) -> Iterator[int]:
    """Run a server below callgrind until the end of the block; yield its process id once it is ready."""
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes"]
    output = f"--callgrind-out-file={folder}/callgrind"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*valgrind, output, *command], stdout=log, stderr=log, **options)
    try:
        limit = time.monotonic() + _START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.1)
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _instructions(pid: int, folder: Path) -> int:
    _control("-d", str(pid))
    newest = max(folder.glob("callgrind.*"), key=lambda path: path.stat().st_mtime)
    totals = [each for each in newest.read_text().splitlines() if each.startswith(("summary:", "totals:"))]
    newest.unlink()
    return int(totals[0].split()[1])


def _measure(
    pid: int, folder: Path, path: Path, names: Sequence[str], *, is_modern: bool
) -> Iterator[tuple[str, float]]:
    client = _Client(path, is_modern=is_modern)
    for name in names:
        wave = WAVES[name]
        for _ in range(4):
            client.send(client.prepare(wave))
        _control("-i", "on", str(pid))
        counts = []
        for _ in range(_WAVES):
            calls = client.prepare(wave)
            _control("-z", str(pid))
            for _ in range(wave.times):
                client.send(calls)
            counts.append(_instructions(pid, folder) / (len(calls) * wave.times))
        _control("-i", "off", str(pid))
        yield name, min(counts)
    client.close()


def _measure_wakes(pid: int, folder: Path, path: Path, redis: Server, *, is_modern: bool) -> float:
    """Return the instructions of a wake, less those of the same time without one."""
    client = _Client(path, is_modern=is_modern)
    entry = [word for member in ENTRY.items() for word in member]
    redis.command("DEL", STREAM)
    client.wait("0-0")

    def wake(times: int) -> None:
        for _ in range(times):
            time.sleep(_WAKE_SECONDS)
            redis.command("XADD", STREAM, "*", *entry)
            client.wait(client.told())
        time.sleep(_WAKE_SECONDS)

    wake(4)
    _control("-i", "on", str(pid))
    counts = []
    for _ in range(_WAVES):
        _control("-z", str(pid))
        began = time.monotonic()
        wake(_WAKES)
        taken = time.monotonic() - began
        counted = _instructions(pid, folder)
        _control("-z", str(pid))
        time.sleep(taken)
        counts.append((counted - _instructions(pid, folder)) / _WAKES)
    _control("-i", "off", str(pid))
    client.close()
    return statistics.median(counts)


def _wait_idle(pid: int) -> None:
    idle = 0
    while idle < _IDLE_TIMES:
        before = cpu_seconds(pid)
        time.sleep(_IDLE_SECONDS)
        idle = idle + 1 if cpu_seconds(pid) - before < _IDLE * _IDLE_SECONDS else 0


def _measure_crowd(pid: int, folder: Path, path: Path, redis: Server, *, is_modern: bool) -> float:
    """Return the instructions for each of many who are told together and wait again."""
    with contextlib.ExitStack() as stack:
        clients = [_Client(path, is_modern=is_modern) for _ in range(_MANY)]
        for client in clients:
            stack.callback(client.close)
        entry = [word for member in ENTRY.items() for word in member]

        def wake(times: int) -> None:
            for _ in range(times):
                redis.command("XADD", STREAM, "*", *entry)
                cursors = [client.told() for client in clients]
                for client, cursor in zip(clients, cursors, strict=True):
                    client.wait(cursor)
                _wait_idle(pid)

        cursor = redis.command("XADD", STREAM, "*", *entry).decode()
        for client in clients:
            client.wait(cursor)
        _wait_idle(pid)
        _control("-i", "on", str(pid))
        wake(1)
        _control("-z", str(pid))
        # What is not done on a busy machine when it seems idle is done, and counted, with the next entry.
        wake(_ENTRIES)
        counted = _instructions(pid, folder)
        _control("-i", "off", str(pid))
    return counted / _ENTRIES / _MANY


def _of_daemon(
    redis: Server, tree: Path, names: Sequence[str], *, is_modern: bool
) -> Iterator[tuple[str, float]]:
    with home() as place, tempfile.TemporaryDirectory() as made:
        path, folder = place / "mcp.sock", Path(made)
        # Where a call has less time than a command, it needs a timer of its own, and so a task.
        times = ("--set", "redis.command_timeout_seconds=100", "--set", "tools.call_timeout_seconds=200")
        settings = ["--listen", f"unix:{path}", *times]
        command = [sys.executable, "-c", _DAEMON, str(_SLOWER), "serve", *settings]
        variables = redis.variables() | {"PYTHONPATH": str(tree)}
        environment = clean_environment(place, **variables)

        def is_ready() -> bool:
            # Said once nothing is imported any more; a thread does that beside the first calls.
            return b"Ctrl-C" in (folder / "log").read_bytes()

        with _counted(command, folder, is_ready, env=environment, cwd=tree) as pid:
            waves = [name for name in names if name in WAVES]
            yield from _measure(pid, folder, path, waves, is_modern=is_modern)
            if WAKE in names:
                yield WAKE, _measure_wakes(pid, folder, path, redis, is_modern=is_modern)
            if CROWD in names:
                yield CROWD, _measure_crowd(pid, folder, path, redis, is_modern=is_modern)


def _of_floor(redis: Server, names: Sequence[str]) -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory(prefix="rs-") as made:
        folder = Path(made)
        path = folder / "floor.sock"
        command = [sys.executable, str(floor.__file__), str(path), str(redis.path)]
        mine = [name for name in names if name in WAVES and WAVES[name].is_of_floor]
        with _counted(command, folder, lambda: _listens(path)) as pid:
            yield from _measure(pid, folder, path, mine, is_modern=False)


def main() -> None:
    """Print instructions of a call, of the daemon in each era and of the floor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *WAVES, *_OTHERS], metavar="NAME")
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="checkout whose daemon it is")
    parser.add_argument("--of", nargs="*", choices=_COLUMNS, default=_COLUMNS, help="an era, or the floor")
    given = parser.parse_args()
    names = given.names or [*WAVES, *_OTHERS]
    with running(redis_binary()) as redis:
        for column in given.of:
            counts = (
                _of_floor(redis, names)
                if column == "floor"
                else _of_daemon(redis, given.tree.resolve(), names, is_modern=column != "handshake")
            )
            print(f"instructions of a call, {column}")
            for name, count in counts:
                print(f"{name:40}{count:14,.0f}", flush=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    main()
