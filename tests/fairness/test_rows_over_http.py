"""Attackers over Streamable HTTP disturb nobody more than those on the socket do, whichever way others come.

The rows are those of test_rows.py. What is in flight on one connection there has a connection each here, as
far as a peer may have so many; the attacker is another host than the polite client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import FIGURE
from tests.fairness.__main__ import brief
from tests.fairness.field import Field
from tests.fairness.over_http import HTTP_ROWS
from tests.fairness.rows import MIB, ROWS, Row
from tests.fairness.test_rows import LEFT_MIB, Baseline, allowed_times
from tests.support.http_daemon import running_http_daemon
from tests.support.measured import measured
from tests.support.servers import Server

#: What `make test` runs: many adds and many connections for a client of HTTP, many for one of lines.
SAMPLE = frozenset({("43a", "HTTP"), ("54", "lines"), ("62", "HTTP")})
#: What `make soak-ci` runs beside that; `make soak` has them all.
SOAK_CI = frozenset({("48", "lines"), ("60", "HTTP"), ("63", "HTTP"), ("70", "lines"), ("70", "HTTP")})
WAYS = ("lines", "HTTP")


@pytest.fixture(scope="module")
def field(redis_server: Server) -> Iterator[Field]:
    redis_server.flush()
    with running_http_daemon(redis_server) as running:
        found = Field(redis_server, running.daemon, left_bytes=LEFT_MIB * MIB, attacked_port=running.port)
        found.prepare()
        yield found


@pytest.fixture(scope="module")
def baselines(field: Field) -> dict[str, Baseline]:
    found = {}
    for way in WAYS:
        field.polite_port = field.attacked_port if way == "HTTP" else 0
        found[way] = Baseline([field.alone(1.0)])
    return found


def cases() -> Iterator[Any]:
    """Yield each row from 43 on with its seconds, for a polite client of each kind."""
    # Over HTTP an attacker is one host, however many processes it has. From 64 on they are about lines.
    rows = [row for row in ROWS if "43" <= row.name[:2] < "60" and not row.round_ms]
    for row in [*rows, *HTTP_ROWS]:
        for way in WAYS:
            if (row.name, way) in SAMPLE:
                yield pytest.param(row, way, 1.5, id=f"{row.name}-{way}")
            elif (row.name, way) in SOAK_CI:
                yield pytest.param(row, way, 1.5, marks=pytest.mark.soak_ci, id=f"{row.name}-{way}")
            yield pytest.param(row, way, 30, marks=pytest.mark.soak, id=f"{row.name}-{way}-30")


@pytest.mark.parametrize(("row", "way", "seconds"), list(cases()))
def test_a_polite_client_is_served_beside(
    row: Row,
    way: str,
    seconds: float,
    field: Field,
    baselines: dict[str, Baseline],
    record_property: Callable[[str, object], None],
) -> None:
    field.polite_port = field.attacked_port if way == "HTTP" else 0
    baseline = baselines[way]
    baseline.runs.append(field.alone(0.3))
    found = field.beside(row, seconds, full=seconds >= 30)
    alone = baseline.all()
    record_property(FIGURE, f"over HTTP, polite by {way}: {brief(found, alone)}")
    field.judge()
    times = allowed_times(row, full=seconds >= 30)
    short = found.shortfalls(alone, fair=True, scaled=True, times=times, left_mib=LEFT_MIB)
    assert not [*found.polite.failures(), *found.broken]
    # The attacker was there.
    assert found.attack["answers"] or found.attack["open"]
    with measured:
        assert not short, f"{short}\n{brief(found, alone)}\nalone: p50 {alone.p50()} p99 {alone.p99()} ms"
        # Each kind of call was answered, and again and again.
        assert min(map(len, found.polite.times)) >= 5
