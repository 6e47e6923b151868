"""What each of several clients gets that ask for different amounts, and what one gets alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.bench.accounting import cpu_seconds
from tests.bench.peers import ENTRY
from tests.fairness.field import Field, attacking
from tests.fairness.figures import Polite, pooled
from tests.fairness.rows import Crowd, Row, call
from tests.support.daemon import Daemon, in_its_place, running_daemon
from tests.support.servers import Server

#: Connections of each client, and calls in flight on each of them.
DEMANDS: Final = ((1, 8), (1, 16), (1, 32), (1, 64), (1, 256), (4, 64), (10, 32), (10, 256))
_COUNTER: Final = Path(__file__).with_name("share_counter.py")


@attrs.frozen
class Shares:
    """What clients got.

    Attributes:
        seconds: How long.
        cpu: CPU seconds of the daemon.
        answers: Answers that each got.
        polite: What the polite client saw beside them; None without one.
        got_and_due: Seconds of work that each got, and that it was due, as the daemon counts them; none
            unless that does.
    """

    seconds: float
    cpu: float
    answers: Sequence[float]
    polite: Polite | None
    got_and_due: Sequence[tuple[float, ...]] = ()

    @property
    def rates(self) -> list[float]:
        """Calls a second of each."""
        return [each / self.seconds for each in self.answers]

    @property
    def per_core(self) -> float:
        """Calls of all in a second of the daemon's CPU time."""
        return sum(self.answers) / self.cpu

    @property
    def of_due(self) -> list[float]:
        """Of each, what it got of what it was due."""
        return [got / due if due else 0.0 for got, due in self.got_and_due]

    @property
    def call_seconds(self) -> list[float]:
        """Of each, what a call of it was charged."""
        return [got / max(count, 1) for (got, _), count in zip(self.got_and_due, self.answers, strict=False)]


def together(slices: Sequence[Shares]) -> Shares:
    """Return what the same clients got in several slices of time."""
    return Shares(
        sum(each.seconds for each in slices),
        sum(each.cpu for each in slices),
        [sum(of) for of in zip(*(each.answers for each in slices), strict=True)],
        pooled([each.polite for each in slices if each.polite is not None]),
        [
            (sum(got for got, _ in of), sum(due for _, due in of))
            for of in zip(*(each.got_and_due for each in slices), strict=True)
        ],
    )


@contextlib.contextmanager
def counting_daemon(server: Server, *options: str) -> Iterator[Daemon]:
    """Run the daemon that counts what each process gets and is due; see share_counter.py."""
    with running_daemon(server, program=(*in_its_place(str(_COUNTER)), *options)) as daemon:
        yield daemon


def _told(daemon: Daemon) -> Mapping[str, Sequence[float]]:
    """Return seconds that processes got and were due since this was last asked."""
    before = daemon.log.count("\nshares:") + daemon.log.startswith("shares:")
    daemon.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = [each for each in daemon.log.splitlines(keepends=True) if each.startswith("shares:")]
        if len(lines) > before and lines[-1].endswith("\n"):
            found: Mapping[str, Sequence[float]] = json.loads(lines[-1].removeprefix("shares:"))
            return found
        time.sleep(0.01)
    raise RuntimeError(f"the daemon did not tell shares: {daemon.log}")


def _crowd(number: int, connections: int, depth: int) -> Crowd:
    return Crowd([call("stream_add", stream=f"shares:{number}", entries=[ENTRY])], connections, depth)


#: Clients that add entries, to a stream each.
EIGHT: Final = [
    Row(str(number), "adds", lambda number=number, demand=demand: [_crowd(number, *demand)])  # type: ignore[misc]
    for number, demand in enumerate(DEMANDS)
]
#: One with 256 calls in flight on a connection.
SOLO: Final = [Row("solo", "adds", lambda: [_crowd(0, 1, 256)])]
#: One that asks for all that the eight ask for, on as many connections.
ALL_BY_ONE: Final = [
    Row("all", "adds", lambda: [_crowd(number, *demand) for number, demand in enumerate(DEMANDS)])
]


@contextlib.contextmanager
def before_others(field: Field) -> Iterator[None]:
    """Let the daemon, Redis and the clients have the cores before other programs of the machine.

    The kernel shares the cores among sessions of processes (autogroups, sched(7)), and each session's part
    among its processes. Without the right to it nothing is changed. Only a test that is alone may do this.
    """
    assert field.server.process is not None
    # Clients are started by this process, and take after it.
    pids = os.getpid(), field.server.process.pid, field.daemon.process.pid
    with contextlib.ExitStack() as stack:
        for pid in pids:
            stack.callback(_set_nice, pid, os.getpriority(os.PRIO_PROCESS, pid))
            _set_nice(pid, -15)
        yield


def _set_nice(pid: int, nice: int) -> None:
    # There may be no autogroups, or no such process any more.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), "ascii")


def measure(
    field: Field, clients: Sequence[Row], seconds: float, *, polite: bool, counts: bool = False
) -> Shares:
    """Let clients call all the time, and return what they got.

    Args:
        field: The daemon.
        clients: What each asks for.
        seconds: How long.
        polite: Whether the polite client calls beside them.
        counts: Whether the daemon is one that counts, see `counting_daemon`.

    Raises:
        RuntimeError: A call failed.
    """
    pid = field.daemon.process.pid
    with attacking(field, *clients) as attackers:
        if counts:
            _told(field.daemon)
        used, began = cpu_seconds(pid), time.monotonic()
        for attacker in attackers:
            attacker.count()
        seen = field.alone(seconds) if polite else None
        if not polite:
            time.sleep(seconds)
        used, took = cpu_seconds(pid) - used, time.monotonic() - began
        told = _told(field.daemon) if counts else {}
        counted = [attacker.end() for attacker in attackers]
    if sum(each["errors"] + each["closed"] for each in counted):
        raise RuntimeError(f"calls failed: {counted}")
    # Who is not named was neither served nor seen: that is no share at all.
    got_and_due = [tuple(told.get(str(each.process.pid), (0.0, 0.0))) for each in attackers] if counts else []
    return Shares(
        took, used, [each["answers"] / each["seconds"] * took for each in counted], seen, got_and_due
    )
