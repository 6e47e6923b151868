"""What the access log costs: ``.venv/bin/python -m tests.bench.access_log``.

Two daemons on one Redis, one of them with the access log, take turns; a ratio is that of two windows next to
each other. Where the machine does something else meanwhile, the CPU time of a call says more than the rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from tests.bench import load, peers
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.servers import start_redis

ON = "--set=daemon.access_log=true"
FORM = "--set=daemon.log_format=json"


def window(daemon: Daemon, *, depth: int, seconds: float) -> load.Result:
    """Measure one window of adding entries, through one connection."""
    peer = peers.redstreamd(daemon.path, daemon.process.pid, modern=True)
    with peer.links(1) as links:
        return load.run(links, [peer.add.template], depth=depth, seconds=seconds, pids=peer.pids(1))


def recorded(directory: Path) -> tuple[int, int]:
    """Return how many records of calls the log holds, and how many calls these tell of."""
    records = calls = 0
    for line in (directory / "log").read_text("utf-8").splitlines():
        fields = json.loads(line)
        if fields["REDSTREAMD_EVENT"] in ("call_served", "calls_served"):
            records += 1
            calls += int(fields.get("REDSTREAMD_COUNT", 1))
    return records, calls


def main() -> None:
    """Measure, and print a line for each depth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    for depth in (1, 16, 64):
        rates, costs, calls = [], [], []
        with home() as place, home() as other, start_redis() as server:
            with (
                running_daemon(server, FORM, directory=place, preload=False) as plain,
                running_daemon(server, FORM, ON, directory=other, preload=False) as logging,
            ):
                for number in range(arguments.rounds):
                    # Who is first in one round is second in the next.
                    order = (plain, logging) if number % 2 else (logging, plain)
                    measured = [window(each, depth=depth, seconds=arguments.seconds) for each in order]
                    without, with_it = measured if number % 2 else reversed(measured)
                    rates.append(with_it.calls / with_it.seconds / (without.calls / without.seconds))
                    costs.append(sum(with_it.cpu) / with_it.calls / (sum(without.cpu) / without.calls))
                    calls.append(with_it.calls / with_it.seconds)
            records, told = recorded(other)
        print(
            f"{depth} in flight: {statistics.median(rates):.3f} of the calls/s ({min(rates):.3f} to "
            f"{max(rates):.3f}), {statistics.median(costs):.3f} of the CPU time of a call "
            f"({min(costs):.3f} to {max(costs):.3f}); {statistics.median(calls):,.0f} calls/s with it; "
            f"{records:,} records of {told:,} calls"
        )


if __name__ == "__main__":
    main()
