"""What each of several clients gets that ask for different amounts, and what one gets alone."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from tests.bench.accounting import cpu_seconds
from tests.bench.peers import ENTRY
from tests.fairness.field import Field, attacking
from tests.fairness.figures import Polite
from tests.fairness.rows import Crowd, Row, call
from tests.support.daemon import Daemon, in_its_place, running_daemon
from tests.support.servers import Server

#: Connections of each client, and calls in flight on each of them.
DEMANDS: Final = ((1, 8), (1, 16), (1, 32), (1, 64), (1, 256), (4, 64), (10, 32), (10, 256))
SOLO: Final = ((1, 256),)
_COUNTER: Final = Path(__file__).with_name("share_counter.py")


@attrs.frozen
class Shares:
    """What clients got.

    Attributes:
        rates: Calls a second of each.
        per_core: Calls of all in a second of the daemon's CPU time.
        polite: What the polite client saw beside them; None without one.
        of_due: Of each, what it got of what it was due, as the daemon counts it; none unless that does.
        call_seconds: Of each, what a call of it was charged; likewise.
    """

    rates: Sequence[float]
    per_core: float
    polite: Polite | None
    of_due: Sequence[float] = ()
    call_seconds: Sequence[float] = ()


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


def client(number: int, connections: int, depth: int) -> Row:
    """Return a client with so many calls in flight on so many connections."""
    line = call("stream_add", stream=f"shares:{number}", entries=[ENTRY])
    return Row(str(number), "adds", lambda: [Crowd([line], connections, depth)])


def measure(
    field: Field, demands: Sequence[tuple[int, int]], seconds: float, *, polite: bool, counts: bool = False
) -> Shares:
    """Let clients add entries to a stream each, and return what they got.

    Args:
        field: The daemon.
        demands: Of each client, as in `DEMANDS`.
        seconds: How long.
        polite: Whether the polite client calls beside them.
        counts: Whether the daemon is one that counts, see `counting_daemon`.

    Raises:
        RuntimeError: A call failed.
    """
    pid = field.daemon.process.pid
    rows = [client(number, *demand) for number, demand in enumerate(demands)]
    with attacking(field, *rows) as attackers:
        if counts:
            _told(field.daemon)
        used = cpu_seconds(pid)
        for attacker in attackers:
            attacker.count()
        seen = field.alone(seconds) if polite else None
        if not polite:
            time.sleep(seconds)
        used = cpu_seconds(pid) - used
        told = _told(field.daemon) if counts else {}
        counted = [attacker.end() for attacker in attackers]
    if sum(each["errors"] + each["closed"] for each in counted):
        raise RuntimeError(f"calls failed: {counted}")
    rates = [each["answers"] / each["seconds"] for each in counted]
    # Who is not named was neither served nor seen: that is no share at all.
    found = [told.get(str(attacker.process.pid), (0.0, 0.0)) for attacker in attackers] if counts else []
    return Shares(
        rates,
        sum(each["answers"] for each in counted) / used,
        seen,
        [got / due if due else 0.0 for got, due in found],
        [got / max(each["answers"], 1) for (got, _), each in zip(found, counted, strict=False)],
    )
