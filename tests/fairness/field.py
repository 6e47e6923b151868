"""A daemon and its Redis, and how the polite client and the attackers are run against them."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from redstreamd.errors import Code
from tests.bench.accounting import busy_seconds, cpu_seconds, rss_kib
from tests.bench.peers import MODERN, line
from tests.fairness import loop_profile
from tests.fairness.figures import KINDS, Beside, Polite, allowed_left
from tests.fairness.over_http import http_head, over_http
from tests.fairness.rows import POLITE_STREAM, Crowd, Flood, Promise, Row, call
from tests.support.daemon import PROGRAM, Daemon, ask_line, read_resource
from tests.support.history import History, Line, Told, content, entries_of, told_by
from tests.support.servers import Server

HERE: Final = Path(__file__).parent
#: The polite client begins a call so many seconds after the one before.
GAP: Final = 0.005
#: What the daemon has to finish what it had read from an attacker that left, and to give memory back.
_REST_SECONDS = 60.0
_LEFT_SECONDS = 5.0
#: So many clients connect, one after the other, where that is promised.
_CONNECTS = 4


@attrs.define
class Field:
    """A daemon and its Redis, and the polite client's history with them.

    Attributes:
        server: Redis.
        daemon: The daemon.
        history: What the polite client was told.
        number: Of the next entry that it adds.
        resting: Bytes of the daemon before the first attacker.
        left_bytes: What may be left after an attacker, if that is more than the goal: less is not waited for.
        polite_port: Where the polite client speaks HTTP; 0 for lines on the socket.
        attacked_port: Where attackers do, likewise.
    """

    server: Server
    daemon: Daemon
    history: History = attrs.field(factory=History)
    number: int = 0
    resting: int = 0
    left_bytes: int = 0
    polite_port: int = 0
    attacked_port: int = 0

    @property
    def _pids(self) -> list[int]:
        assert self.server.process is not None
        return [self.daemon.process.pid, self.server.process.pid]

    def prepare(self) -> None:
        """Let the daemon have served once all that the polite client asks for, and be done with its start."""
        self.alone(0.1)
        self._rest()
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
            if self.polite_port:
                lines = [json.dumps(http_head(each)).encode() + b"\n" + each for each in lines]
            file.write(b"".join(lines))
            file.flush()
            done = subprocess.run(
                [
                    *_python("polite.py"),
                    f"http:{self.polite_port}" if self.polite_port else self.daemon.path,
                    *(file.name, str(seconds), str(GAP), ",".join(map(str, self._pids))),
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
                    told = told_by(Code(code)) if (code := _code(result)) else Told.REFUSED
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
            (attacker,) = stack.enter_context(attacking(self, row))
            pids["attacker"] = attacker.process.pid
            profiled = stack.enter_context(loop_profile.profiled(pid, seconds)) if profile else None
            began, all_before = time.monotonic(), busy_seconds()
            used = {name: cpu_seconds(each) for name, each in pids.items()}
            attacker.count()
            polite = self.alone(seconds)
            cpu = {name: cpu_seconds(each) - used[name] for name, each in pids.items()}
            took = time.monotonic() - began
            cpu["others"] = max(0.0, busy_seconds() - all_before - sum(cpu.values()))
            connecting = self._connecting() if Promise.CONNECT in row.also else 0.0
            broken = [*self._unkept(row)]
            attack = attacker.end()
            frames = loop_profile.frames(profiled) if profiled else ()
        freed = _until_free(self.daemon, waits) if Promise.FREED in row.also else 0.0
        rest = self._rest()
        return Beside(
            row=row,
            polite=polite,
            attack=attack,
            seconds=took,
            cores={name: each / took for name, each in cpu.items()},
            memory=(self.resting, _peak(pid), self._left()),
            rest_seconds=rest,
            broken=broken,
            freed_seconds=freed,
            connect_seconds=connecting,
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

    def _connecting(self) -> float:
        """Return the most seconds until a client that connects is answered, without waiting for a core."""
        most = 0.0
        for _ in range(_CONNECTS):
            pid, began = self.daemon.process.pid, time.monotonic()
            waited = _waited_for_core(pid)
            ask_line(self.daemon.path, line("server/discover", {"_meta": MODERN}, 1), _REST_SECONDS)
            waited = _waited_for_core(pid) - waited
            most = max(most, time.monotonic() - began - waited)
        return most

    def _left(self) -> int:
        deadline = time.monotonic() + _LEFT_SECONDS
        while True:
            left = rss_kib(self.daemon.process.pid) * 1024
            if left <= max(allowed_left(self.resting), self.left_bytes) or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def _code(result: Mapping[str, Any]) -> str | None:
    """Return the code of a tool's error; None of an error of the protocol."""
    code: str | None = result.get("structuredContent", {}).get("code")
    return code


def _python(program: str) -> list[str | Path]:
    """Return the words that start a program of this directory without what it does not need."""
    return [sys.executable, "-I", "-S", HERE / program]


def _numbered(template: bytes, number: int, kind: int) -> bytes:
    return template.replace(b"@ID@", b"%d" % (number * len(KINDS) + kind), 1)


def _waits(daemon: Daemon) -> int:
    """Return how many waits and subscriptions the daemon holds."""
    watches: int = read_resource(daemon.path, "redstream://health")["waiting"]["watches"]
    return watches


def _until_free(daemon: Daemon, before: int) -> float:
    """Return the seconds until only so many waits are left, without what the daemon waited for a core."""
    began, waited = time.monotonic(), _waited_for_core(daemon.process.pid)
    while (left := _waits(daemon)) > before and time.monotonic() < began + _REST_SECONDS:
        time.sleep(0.02)
    waited = _waited_for_core(daemon.process.pid) - waited
    return time.monotonic() - began - waited if left <= before else float("inf")


def _waited_for_core(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_bytes().split()[1]) / 1e9


def _peak(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) * 1024


@attrs.define
class Attacker:
    """An attacker that runs.

    Attributes:
        process: Its process.
    """

    process: subprocess.Popen[bytes]

    def wait_begun(self) -> None:
        """Return once it has sent what its connections take."""
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError("the attacker could not begin")

    def count(self) -> None:
        """Let it count from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """End it, and return what it counted."""
        output, _ = self.process.communicate()
        if self.process.returncode:
            raise RuntimeError(f"the attacker ended with {self.process.returncode}")
        counted: dict[str, Any] = json.loads(output)
        return counted


@contextlib.contextmanager
def attacking(field: Field, *rows: Row) -> Iterator[list[Attacker]]:
    """Run the attackers of some rows for the block; all have begun when the block does."""
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(_started(field, row)) for row in rows]
        for attacker in attackers:
            attacker.wait_begun()
        yield attackers


@contextlib.contextmanager
def _started(field: Field, row: Row) -> Iterator[Attacker]:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        crowds = [over_http(each) for each in row.crowds()] if field.attacked_port else row.crowds()
        json.dump({"crowds": list(map(_crowd, crowds)), "flood": row.flood and _flood(row.flood)}, file)
        file.flush()
        address = f"http:{field.attacked_port}" if field.attacked_port else field.daemon.path
        process = subprocess.Popen(
            [*_python("attacker.py"), address, field.server.path, file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            yield Attacker(process)
        finally:
            process.kill()
            process.communicate()


def _crowd(crowd: Crowd) -> dict[str, Any]:
    return attrs.asdict(crowd) | {"lines": [each.decode("latin-1") for each in crowd.lines]}


def _flood(flood: Flood) -> dict[str, Any]:
    # As a client of Redis sends it (RESP).
    words = ["XADD", flood.stream, "MAXLEN", "~", "10000", "*", "type", "order", "id", "A-1001"]
    command = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return {"command": command, "at_once": flood.at_once, "every": flood.every}
