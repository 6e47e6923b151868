"""What each of several clients gets that ask for different amounts, and what one gets alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import attrs

from tests.bench.accounting import cpu_seconds
from tests.bench.peers import ENTRY
from tests.fairness.field import Field, attacking
from tests.fairness.figures import Polite
from tests.fairness.rows import Crowd, Row, call

#: Connections of each client, and calls in flight on each of them.
DEMANDS: Final = ((1, 8), (1, 16), (1, 32), (1, 64), (1, 256), (4, 64), (10, 32), (10, 256))
SOLO: Final = ((1, 256),)


@attrs.frozen
class Shares:
    """What clients got.

    Attributes:
        rates: Calls a second of each.
        per_core: Calls of all in a second of the daemon's CPU time.
        polite: What the polite client saw beside them; None without one.
    """

    rates: Sequence[float]
    per_core: float
    polite: Polite | None


def client(number: int, connections: int, depth: int) -> Row:
    """Return a client with so many calls in flight on so many connections."""
    line = call("stream_add", stream=f"shares:{number}", entries=[ENTRY])
    return Row(str(number), "adds", lambda: [Crowd([line], connections, depth)])


def measure(field: Field, demands: Sequence[tuple[int, int]], seconds: float, *, polite: bool) -> Shares:
    """Let clients add entries to a stream each, and return what they got.

    Args:
        field: The daemon.
        demands: Of each client, as in `DEMANDS`.
        seconds: How long.
        polite: Whether the polite client calls beside them.

    Raises:
        RuntimeError: A call failed.
    """
    pid = field.daemon.process.pid
    rows = [client(number, *demand) for number, demand in enumerate(demands)]
    with attacking(field, *rows) as attackers:
        used = cpu_seconds(pid)
        for attacker in attackers:
            attacker.count()
        seen = field.alone(seconds) if polite else None
        if not polite:
            time.sleep(seconds)
        used = cpu_seconds(pid) - used
        counted = [attacker.end() for attacker in attackers]
    if sum(each["errors"] + each["closed"] for each in counted):
        raise RuntimeError(f"calls failed: {counted}")
    rates = [each["answers"] / each["seconds"] for each in counted]
    return Shares(rates, sum(each["answers"] for each in counted) / used, seen)
