"""What the access log costs a call, and that it tells of each however many there are."""

from __future__ import annotations

import pytest

from tests.bench.access_log import FORM, ON, recorded, window
from tests.bench.peers import STREAM
from tests.support.daemon import home, running_daemon
from tests.support.servers import Server

#: By how much the CPU time of a call may grow. It grows by 2 to 4 %; by 100 % if each call were a record.
#: The rest is for a machine that does something else.
MOST = 1.25
LEAST_ROUNDS, MOST_ROUNDS = 3, 16


@pytest.mark.limit(120)
def test_the_log_costs_little_and_each_call_is_in_some_record(redis: Server) -> None:
    """The least of several windows counts, because what else the machine does only adds to it."""
    costs: dict[str, list[float]] = {"without": [], "with it": []}
    logged = 0
    with home() as other:
        with (
            running_daemon(redis, FORM) as plain,
            running_daemon(redis, FORM, ON, directory=other) as logging,
        ):
            for number in range(MOST_ROUNDS):
                pair = [("without", plain), ("with it", logging)]
                for name, daemon in pair if number % 2 else reversed(pair):
                    before = redis.command("XLEN", STREAM)
                    result = window(daemon, depth=16, seconds=0.3)
                    costs[name].append(sum(result.cpu) / result.calls)
                    if daemon is logging:
                        logged += redis.command("XLEN", STREAM) - before
                if number + 1 >= LEAST_ROUNDS and min(costs["with it"]) < MOST * min(costs["without"]):
                    break
        records, told = recorded(other)
    assert told == logged
    # Many were summed up, or this shows nothing.
    assert logged > 1.5 * records
    assert min(costs["with it"]) < MOST * min(costs["without"]), costs
