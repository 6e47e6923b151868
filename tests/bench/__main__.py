"""Measures redstreamd beside its peers: ``make bench``, ``make bench-fast``.

Everything is measured once a round, so that what else the machine does meets all alike; the figure is the
median of the rounds. A full run writes docs/performance.json and what is made of it; a fast one prints its
tables. With ``--step`` it measures the daemon alone, perhaps of another checkout, and adds a row to the table
of steps.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.bench import accounting, goals, install, peers, plots, report, rows, scales, steps
from tests.bench.daemons import Daemons
from tests.bench.page import of_run
from tests.bench.rows import Bench, Cell, Sample
from tests.bench.sharing import Sharing
from tests.bench.waits import Floor, Waits
from tests.support.daemon import running_daemon
from tests.support.servers import start_redis

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
RESULTS = DOCS / "performance.json"
SO_FAR = ROOT / "build" / "bench" / "performance.json"


@contextlib.contextmanager
def everything(seconds: float, *, full: bool) -> Iterator[tuple[list[Cell], dict[str, str]]]:
    """Start all servers and yield what is measured, with the versions of what it is measured beside."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_redis())
        daemon = stack.enter_context(running_daemon(server, preload=False))
        eras = tuple(
            peers.redstreamd(daemon.path, daemon.process.pid, modern=modern) for modern in (False, True)
        )
        others = [
            stack.enter_context(peers.original(server, 8)),
            stack.enter_context(peers.redis_mcp_server(server, 8)),
            stack.enter_context(peers.echo(server)),
            stack.enter_context(peers.floor(server)),
        ]
        crowd = 1_000 if full else 200
        floor_of_waits = stack.enter_context(Floor.running(server))
        bench = Bench(server, eras, [*eras, *others], seconds, full)
        cells = [
            *(
                cell
                for part in (rows.adding, rows.batches, rows.large, *scales.PARTS)
                for cell in part(bench)
            ),
            *Waits(server, daemon, crowd).cells(),
            *Waits(server, floor_of_waits, crowd).of_floor(),
            *Daemons(server, seconds, crowd).cells(),
            *Sharing(server).cells(),
        ]
        info = server.command("INFO", "server").decode()
        node = subprocess.run([install.NODE, "--version"], capture_output=True, text=True, check=True).stdout
        versions = {
            "Redis": info.split("redis_version:")[1].split()[0],
            "Node.js": node.strip().removeprefix("v"),
            "redis-mcp-server": install.REDIS_MCP_SERVER.split("==")[1],
        }
        yield cells, versions


def figures(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return median, lowest and highest of each figure, to four digits."""
    return {
        name: [float(f"{of(sample[name] for sample in samples):.4g}") for of in (statistics.median, min, max)]
        for name in samples[0]
    }


def measure(rounds: int, seconds: float, only: Sequence[str], *, full: bool) -> dict[str, Any]:
    """Measure everything and return the run; a file keeps the rounds so far, in case a later one fails."""
    began = time.monotonic()
    machine = accounting.machine()
    found: dict[int, list[Sample]] = defaultdict(list)
    run: dict[str, Any] = {}
    with everything(seconds, full=full) as (cells, versions):
        chosen = [cell for cell in cells if not only or cell.table in only or goals.wants(cell, only)]
        for turn in range(rounds):
            for place, cell in enumerate(chosen):
                what = f"{cell.table}, {cell.row} {cell.column}"
                done = f"round {turn + 1}/{rounds}, {place + 1}/{len(chosen)}: {what}"
                print(f"{time.monotonic() - began:5.0f} s  {done}", file=sys.stderr, flush=True)
                try:
                    found[place].append(cell.measure())
                except Exception as failure:
                    failure.add_note(done)
                    raise
            run = {
                "date": dt.datetime.now(dt.UTC).date().isoformat(),
                "machine": machine,
                "versions": versions,
                "rounds": turn + 1,
                "seconds": seconds,
                "minutes": round((time.monotonic() - began) / 60, 1),
                "cells": [
                    {
                        "table": each.table,
                        "row": each.row,
                        "column": each.column,
                        "figures": figures(found[place]),
                    }
                    for place, each in enumerate(chosen)
                ],
            }
            store(run, SO_FAR)
    return run


def store(run: report.Run, file: Path) -> None:
    """Write a run, a cell and a step a line."""
    lists = {
        name: ",\n".join(json.dumps(each, ensure_ascii=False) for each in run.get(name, ()))
        for name in ("steps", "cells")
    }
    head = json.dumps({name: value for name, value in run.items() if name not in lists}, ensure_ascii=False)
    text = "".join(f', "{name}": [\n{lines}\n]' for name, lines in lists.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head[:-1]}{text}}}\n", "utf-8")


def publish(run: report.Run) -> None:
    """Write what docs/ holds of a run, and its file."""
    store(run, RESULTS)
    page = DOCS / "performance.md"
    page.write_text(of_run(page.read_text("utf-8"), run), "utf-8")
    for name, drawing in plots.drawings(run).items():
        (DOCS / "plots").mkdir(exist_ok=True)
        (DOCS / "plots" / name).write_text(drawing, "utf-8")
    print(RESULTS)


def published() -> dict[str, Any]:
    """Return what docs/ holds."""
    run: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    return run


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--fast", action="store_true", help="fewer and smaller rows, two rounds; docs/ stays as it is"
    )
    parser.add_argument("--rounds", type=int, help="rounds, of which the median counts")
    parser.add_argument("--seconds", type=float, help="length of a window")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TABLE",
        help="only this table, or only what the goals need (goals); prints figures",
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing; make docs/ from docs/performance.json"
    )
    parser.add_argument(
        "--step", metavar="NAME", help="measure the daemon alone, and add a row of this name to the steps"
    )
    parser.add_argument(
        "--tree",
        type=Path,
        default=ROOT,
        metavar="PATH",
        help="with --step: the checkout whose daemon is measured, with the packages installed here",
    )
    parser.add_argument(
        "--cancels", type=int, default=20_000, help="with --step: requests of the run with cancellations"
    )
    parser.add_argument("--kills", type=int, default=20, help="with --step: kills of the daemon")
    return parser.parse_args()


def main() -> None:
    """Measure, or only make the page anew from the last run's file."""
    options = arguments()
    if options.page:
        publish(published())
        return
    # What was started is ended, too, if this is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    rounds = options.rounds or (2 if options.fast else 5)
    seconds = options.seconds or (0.4 if options.fast else 0.8)
    if options.step is not None:
        step = steps.measure(
            options.step,
            options.tree.resolve(),
            rounds=rounds,
            seconds=seconds,
            cancels=options.cancels,
            kills=options.kills,
        )
        run = published()
        run["steps"] = steps.added(run.get("steps", []), step)
        publish(run)
        print(steps.table({"steps": [step]}))
        return
    run = measure(rounds, seconds, options.only, full=not options.fast)
    print(SO_FAR)
    if not options.only and not options.fast:
        publish(run | {"steps": published().get("steps", [])})
    for cell in run["cells"] if options.only else ():
        medians = {name: of[0] for name, of in cell["figures"].items()}
        print(cell["table"], cell["row"], cell["column"], medians)
    if "goals" in options.only or not options.only:
        print(goals.table(run))
    if not options.only:
        print(report.tables(run))


if __name__ == "__main__":
    main()
