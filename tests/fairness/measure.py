"""Runs the polite client alone and beside an attacker, and judges what it saw."""

from __future__ import annotations

import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from tests.bench.accounting import busy_seconds, cpu_seconds, rss_kib
from tests.bench.peers import MODERN, line
from tests.fairness.rows import MIB, POLITE_STREAM, Crowd, Flood, Promise, Row, call
from tests.support.daemon import PROGRAM, Daemon, read_resource
from tests.support.history import History, Line, Told, content, entries_of
from tests.support.servers import Server

HERE: Final = Path(__file__).parent
KINDS: Final = ("server/discover", "stream_add", "stream_read")
#: Milliseconds of each kind of call beside any attacker, on two cores.
GOALS_P50: Final = (3.0, 5.0, 5.0)
GOALS_P99: Final = (20.0, 25.0, 25.0)
GOAL_PEAK: Final = 512 * MIB
#: What may be left of the memory afterwards: so much more than before, or this many times that.
GOAL_LEFT: Final = 32 * MIB, 1.3

#: The polite client begins a call so many seconds after the one before.
GAP: Final = 0.005
#: What the daemon has to finish what it had read from an attacker that left, and to give memory back.
_REST_SECONDS = 60.0
_LEFT_SECONDS = 5.0
_FREED_SECONDS = 1.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile of times in seconds, in milliseconds; NaN of none."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * share)] * 1e3 if ordered else float("nan")


@attrs.frozen
class Polite:
    """What the polite client saw.

    Attributes:
        times: Seconds from request to answer, of each kind of call.
        fair: The same without what the daemon, Redis and the client waited for a core.
        ran: How long the daemon was running meanwhile.
        late: Seconds by which the client's own sleeps ended late.
        refused: Answers that are errors.
        lost: Calls without an answer.
        cpu: CPU seconds of the client.
    """

    times: tuple[list[float], ...]
    fair: tuple[list[float], ...]
    ran: tuple[list[float], ...]
    late: list[float]
    refused: list[str]
    lost: int

    def p50(self, *, fair: bool = False) -> list[float]:
        """Medians of the kinds in milliseconds."""
        return [quantile(each, 0.5) for each in (self.fair if fair else self.times)]

    def p99(self, *, fair: bool = False) -> list[float]:
        """99th percentiles of the kinds in milliseconds."""
        return [quantile(each, 0.99) for each in (self.fair if fair else self.times)]

    @property
    def longest(self) -> list[float]:
        """The longest of each kind in milliseconds."""
        return [quantile(each, 1.0) for each in self.times]

    @property
    def calls(self) -> int:
        """How many were answered."""
        return sum(map(len, self.times))


@attrs.frozen
class Beside:
    """What was measured beside an attacker.

    Attributes:
        row: The attacker.
        polite: What the polite client saw.
        attack: What the attacker counted.
        seconds: For how long.
        cores: CPU seconds in a second: of the daemon, of Redis, of the attacker, and of all others.
        memory: Bytes of the daemon: before, at the most, and afterwards.
        rest_seconds: How long the daemon went on working when the attacker had left.
        broken: Promises of the row that were not kept.
        frames: Who had the loop, if that was asked for: share and function.
    """

    row: Row
    polite: Polite
    attack: Mapping[str, Any]
    seconds: float
    cores: Mapping[str, float]
    memory: tuple[int, int, int]
    rest_seconds: float
    broken: Sequence[str]
    frames: Sequence[tuple[float, str]]

    def shortfalls(
        self,
        *,
        fair: bool = False,
        p50: Sequence[float] = GOALS_P50,
        p99: Sequence[float] = GOALS_P99,
    ) -> list[str]:
        """Return what of the goals is not reached, with these bounds of the times in milliseconds."""
        short = [
            f"{kind} {name} {value:.1f} ms > {goal:.3g}"
            for name, values, goals in (
                ("p50", self.polite.p50(fair=fair), p50),
                ("p99", self.polite.p99(fair=fair), p99),
            )
            for kind, value, goal in zip(KINDS, values, goals, strict=True)
            if not value <= goal
        ]
        if self.polite.refused:
            short.append(f"{len(self.polite.refused)} refused: {self.polite.refused[0][:300]}")
        if self.polite.lost:
            short.append(f"{self.polite.lost} lost")
        short += self.broken
        before, peak, left = self.memory
        if peak > GOAL_PEAK:
            short.append(f"memory {peak / MIB:.0f} MiB > {GOAL_PEAK / MIB:.0f}")
        if left > allowed_left(before):
            short.append(f"memory afterwards {left / MIB:.0f} MiB > {allowed_left(before) / MIB:.0f}")
        return short


def allowed_left(before: float) -> float:
    """Return how many bytes a daemon may have after an attack."""
    more, times = GOAL_LEFT
    return max(before + more, before * times)


@attrs.define
class Field:
    """A daemon and its Redis, and the polite client's history with them.

    Attributes:
        server: Redis.
        daemon: The daemon.
        history: What the polite client was told.
        number: Of the next entry that it adds.
        resting: Bytes of the daemon before the first attacker.
    """

    server: Server
    daemon: Daemon
    history: History = attrs.field(factory=History)
    number: int = 0
    resting: int = 0

    @property
    def _pids(self) -> list[int]:
        assert self.server.process is not None
        return [self.daemon.process.pid, self.server.process.pid]

    def prepare(self) -> None:
        """Let the daemon have served once all that the polite client asks for."""
        self.alone(0.1)
        self.resting = rss_kib(self.daemon.process.pid) * 1024

    def alone(self, seconds: float) -> Polite:
        """Run the polite client for so many seconds and judge its adds."""
        first = self.number
        count = round(seconds / GAP / len(KINDS)) + 1
        self.number += count
        lines = []
        for number in range(count):
            self.history.lines[first + number] = Line(Told.REFUSED)
            lines += [
                line("server/discover", {"_meta": MODERN}, number * len(KINDS)),
                _numbered(
                    call("stream_add", stream=POLITE_STREAM, entries=[content(first + number)]), number, 1
                ),
                _numbered(call("stream_read", stream=POLITE_STREAM, direction="backward"), number, 2),
            ]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(lines))
            file.flush()
            done = subprocess.run(
                [
                    *(sys.executable, "-I", "-S", HERE / "polite.py"),
                    *(self.daemon.path, file.name, str(seconds), str(GAP), ",".join(map(str, self._pids))),
                ],
                stdout=subprocess.PIPE,
                check=True,
            )
        return self._seen(first, json.loads(done.stdout))

    def _seen(self, first: int, output: Mapping[str, Any]) -> Polite:
        polite = Polite(([], [], []), ([], [], []), ([], [], []), output["late"], [], 0)
        lost = 0
        for place, (_, took, waited, ran, answer) in enumerate(output["calls"]):
            number, kind = divmod(place, len(KINDS))
            told, entry_id = Told.UNKNOWN, None
            if answer is None:
                lost += 1
            else:
                message = json.loads(answer)
                assert message["id"] == place, answer[:300]
                polite.times[kind].append(took)
                polite.ran[kind].append(ran)
                # No less than what the daemon has run: it may wait for a core while Redis has it.
                polite.fair[kind].append(max(took - waited, ran))
                result = message.get("result", {"isError": True})
                if result.get("isError"):
                    polite.refused.append(answer)
                    told = Told.REFUSED
                elif kind == 1:
                    told, (entry_id,) = Told.ACKNOWLEDGED, result["structuredContent"]["ids"]
            if kind == 1:
                self.history.lines[first + number] = Line(told, entry_id)
        return attrs.evolve(polite, lost=lost)

    def judge(self) -> None:
        """Compare what the polite client was told with what is in Redis, and forget both."""
        self.history.judge(entries_of(self.server, POLITE_STREAM), acknowledged=1)
        self.history = History()
        self.server.flush()

    def beside(self, row: Row, seconds: float, *, full: bool = False, profile: bool = False) -> Beside:
        """Run the polite client beside the attacker of a row."""
        row.prepare(self.server, full)
        pid = self.daemon.process.pid
        waits = _waits(self.daemon) if Promise.FREED in row.also else 0
        Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
        pids = dict(zip(("daemon", "Redis"), self._pids, strict=True))
        with contextlib.ExitStack() as stack:
            attacker = stack.enter_context(_attacking(self, row))
            pids["attacker"] = attacker.pid
            profiled = stack.enter_context(_profiled(pid, seconds)) if profile else None
            began, all_before = time.monotonic(), busy_seconds()
            used = {name: cpu_seconds(each) for name, each in pids.items()}
            polite = self.alone(seconds)
            cpu = {name: cpu_seconds(each) - used[name] for name, each in pids.items()}
            took = time.monotonic() - began
            cpu["others"] = max(0.0, busy_seconds() - all_before - sum(cpu.values()))
            broken = [*self._unkept(row)]
            output, _ = attacker.communicate()
            if attacker.returncode:
                raise RuntimeError(f"the attacker ended with {attacker.returncode}")
            frames = _frames(profiled) if profiled else ()
        if Promise.FREED in row.also and (took_freeing := _until_free(self.daemon, waits)) > _FREED_SECONDS:
            broken.append(f"its waits were gone after {took_freeing:.1f} s")
        rest = self._rest()
        return Beside(
            row=row,
            polite=polite,
            attack=json.loads(output),
            seconds=took,
            cores={name: each / took for name, each in cpu.items()},
            memory=(self.resting, _peak(pid), self._left()),
            rest_seconds=rest,
            broken=broken,
            frames=frames,
        )

    def _rest(self) -> float:
        """Wait until the daemon and Redis have nothing to do; return how long that took."""
        began = time.monotonic()
        while True:
            used = [cpu_seconds(pid) for pid in self._pids]
            time.sleep(0.1)
            idle = all(
                cpu_seconds(pid) - before < 0.004 for pid, before in zip(self._pids, used, strict=True)
            )
            took = time.monotonic() - began - 0.1
            if idle or took > _REST_SECONDS:
                return took

    def _unkept(self, row: Row) -> Iterator[str]:
        """Yield which promises are not kept while the attacker is there."""
        if Promise.STATUS in row.also:
            done = subprocess.run(
                [PROGRAM, "status", "--socket", self.daemon.path], capture_output=True, text=True
            )
            if done.returncode or "connections" not in done.stdout:
                yield f"status: {done.stdout[:300]}{done.stderr[:300]}"
        if Promise.WAIT in row.also:
            try:
                result = self.daemon.call("stream_wait", streams=[POLITE_STREAM], timeout_seconds=0.2)
            except (OSError, RuntimeError) as error:
                yield f"a wait of another process failed: {error!r}"
            else:
                if result["isError"]:
                    yield f"a wait of another process was refused: {result['content'][0]['text'][:300]}"

    def _left(self) -> int:
        deadline = time.monotonic() + _LEFT_SECONDS
        while True:
            left = rss_kib(self.daemon.process.pid) * 1024
            if left <= allowed_left(self.resting) or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def _numbered(template: bytes, number: int, kind: int) -> bytes:
    return template.replace(b"@ID@", b"%d" % (number * len(KINDS) + kind), 1)


def _waits(daemon: Daemon) -> int:
    """Return how many waits and subscriptions the daemon holds."""
    watches: int = read_resource(daemon.path, "redstream://health")["waiting"]["watches"]
    return watches


def _until_free(daemon: Daemon, before: int) -> float:
    """Return the seconds until no more than so many waits are left; a minute at the most."""
    began = time.monotonic()
    while (left := _waits(daemon)) > before and time.monotonic() < began + _REST_SECONDS:
        time.sleep(0.02)
    return time.monotonic() - began if left <= before else float("inf")


def _peak(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) * 1024


@contextlib.contextmanager
def _attacking(field: Field, row: Row) -> Iterator[subprocess.Popen[bytes]]:
    """Run the attacker of a row for the block; it has begun when the block does."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        json.dump({"crowds": list(map(_crowd, row.crowds())), "flood": row.flood and _flood(row.flood)}, file)
        file.flush()
        attacker = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                HERE / "attacker.py",
                field.daemon.path,
                field.server.path,
                file.name,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert attacker.stdout is not None
            if attacker.stdout.readline() != b"ready\n":
                raise RuntimeError("the attacker could not begin")
            yield attacker
        finally:
            attacker.kill()
            attacker.communicate()


def _crowd(crowd: Crowd) -> dict[str, Any]:
    return attrs.asdict(crowd) | {"lines": [each.decode("latin-1") for each in crowd.lines]}


def _flood(flood: Flood) -> dict[str, Any]:
    # As a client of Redis sends it (RESP).
    words = ["XADD", flood.stream, "MAXLEN", "~", "10000", "*", "type", "order", "id", "A-1001"]
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return {"command": command, "at_once": flood.at_once, "every": flood.every}


@contextlib.contextmanager
def _profiled(pid: int, seconds: float) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Sample the daemon's stacks for so many seconds with py-spy, which has to be installed."""
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise SystemExit(f"{program} is not installed (pip install py-spy)")
    with tempfile.TemporaryDirectory() as directory:
        stacks = Path(directory) / "stacks"
        words = ["record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", "200"]
        recording = subprocess.Popen(
            [program, *words, "--nonblocking", "--format", "raw", "--output", stacks],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield recording, stacks
        finally:
            recording.kill()
            recording.wait()


def _frames(profiled: tuple[subprocess.Popen[bytes], Path]) -> list[tuple[float, str]]:
    recording, stacks = profiled
    recording.wait(60)
    own: dict[str, int] = {}
    total = 0
    for text in stacks.read_text("utf-8").splitlines():
        stack, _, count = text.rpartition(" ")
        total += int(count)
        names = stack.split(";")
        own[names[-1]] = own.get(names[-1], 0) + int(count)
        # The innermost function of the daemon's own, where another package's has the core.
        ours = [each for each in names if "redstreamd/" in each]
        if ours and ours[-1] != names[-1]:
            name = f"under {ours[-1]}"
            own[name] = own.get(name, 0) + int(count)
    return sorted(((count / total, name) for name, count in own.items()), reverse=True)[:14]


def interleaved(polites: Sequence[Polite]) -> Polite:
    """Return several runs of the polite client as one."""
    return Polite(
        *(
            tuple(
                [value for each in polites for value in getattr(each, name)[kind]]
                for kind in range(len(KINDS))
            )
            for name in ("times", "fair", "ran")
        ),
        late=[value for each in polites for value in each.late],
        refused=[value for each in polites for value in each.refused],
        lost=sum(each.lost for each in polites),
    )


def median_late(polite: Polite) -> float:
    """Return by how many milliseconds the client's sleeps ended late, half of them."""
    return statistics.median(polite.late) * 1e3 if polite.late else float("nan")
