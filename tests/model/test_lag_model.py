"""How far a group is behind, against the truth: whatever was added, read, trimmed and deleted.

Each server loses count in its own way. What is told as the lag is the lag, and what is told as its bounds
holds, whether entries were counted one by one or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from redstreamd.streams.bounds import Bounds
from redstreamd.streams.diagnosis.lag import compute_lag
from tests.support.buses import BusThread
from tests.support.counts import LONG
from tests.support.servers import Server

#: So few are counted that the count is often not the whole lag.
COUNTED = 4
ADD = st.tuples(st.just("add"), st.integers(1, 8))
READ = st.tuples(st.just("read"), st.integers(1, 5))
TRIM = st.tuples(st.just("trim"), st.integers(0, 12))
#: After these the server often tells no number at all, so they are seldom done.
OTHERS = st.sampled_from(["delete", "set position", "create anew"])
OTHER = st.tuples(OTHERS, st.integers(1, 20))
STEPS = st.lists(st.one_of(ADD, ADD, ADD, READ, READ, READ, TRIM, OTHER), min_size=10, max_size=30)


@pytest.mark.parametrize(
    ("kind", "examples"),
    [
        ("redis", 25),
        ("valkey", 10),
        ("redis8", 10),
        pytest.param("redis", 500, marks=LONG),
        pytest.param("valkey", 150, marks=LONG),
        pytest.param("redis8", 150, marks=LONG),
    ],
)
def test_what_is_told_of_a_lag_is_true(request: pytest.FixtureRequest, kind: str, examples: int) -> None:
    server: Server = request.getfixturevalue(f"{kind}_server")
    threads = BusThread(server, 1, bounds=Bounds(lag_counted=COUNTED))

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS)
    def run(steps: Sequence[tuple[str, int]]) -> None:
        server.flush()
        server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
        for what, number in steps:
            take_step(server, what, number)
            check_lag(server, threads)

    try:
        run()
    finally:
        threads.close()


def take_step(server: Server, what: str, number: int) -> None:
    if what == "add":
        for _ in range(number):
            server.command("EVAL", ADD_ONE, 1, "s")
    elif what == "read":
        server.command("XREADGROUP", "GROUP", "g", "c", "COUNT", number, "STREAMS", "s", ">")
    elif what == "trim":
        server.command("XTRIM", "s", "MAXLEN", "=", number)
    elif what == "delete":
        server.command("XDEL", "s", f"{number}-0")
    elif what == "set position":
        server.command("XGROUP", "SETID", "s", "g", f"{number}-0")
    else:
        server.commands(("XGROUP", "DESTROY", "s", "g"), ("XGROUP", "CREATE", "s", "g", f"{number}-0"))


#: Adds an entry: 1-0 to the new stream, then 2-0, ...
ADD_ONE = """
local last = redis.call('XINFO', 'STREAM', KEYS[1])
for n = 1, #last, 2 do
  if last[n] == 'last-generated-id' then
    return redis.call('XADD', KEYS[1], string.match(last[n + 1], '^%d+') + 1 .. '-0', 'n', 'x')
  end
end
"""


def check_lag(server: Server, threads: BusThread) -> None:
    diagnosis = threads.call(partial(threads.buses[0].diagnoser.diagnose, "s"))
    (facts,) = diagnosis.groups
    waiting = len(server.command("XRANGE", "s", f"({facts.info.last_delivered_id}", "+"))
    for lag in (facts.lag, compute_lag(diagnosis.stream, facts.info, counted=None)):
        assert lag.least <= waiting <= lag.most, (diagnosis.stream, facts.info)
        assert lag.least <= lag.entries <= lag.most
    assert facts.lag.exact or waiting >= COUNTED
