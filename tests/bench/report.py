"""Results as tables, made from the file of a run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

#: Cores that others may keep busy, in the median of all rows, before a run says that it was disturbed.
QUIET = 0.1

#: A run as its file holds it, and the figures of one cell: name to median, lowest and highest.
Run = Mapping[str, Any]
Figures = Mapping[str, list[float]]


def number(value: float) -> str:
    """Write a figure with as many places as it has meaning."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cells(run: Run, table: str) -> Iterator[tuple[str, str, Figures]]:
    """Yield row, column and figures of a table's cells, in the order of the run."""
    for cell in run["cells"]:
        if cell["table"] == table:
            yield cell["row"], cell["column"], cell["figures"]


def by_place(run: Run) -> dict[tuple[str, str, str], Figures]:
    """Return the figures of all cells by table, row and column."""
    return {(cell["table"], cell["row"], cell["column"]): cell["figures"] for cell in run["cells"]}


def markdown(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """Make a table."""
    rows = [list(head), *map(list, lines)]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def by_column(run: Run, table: str, corner: str, write: Callable[[Figures], str]) -> str:
    """Make a table with the cells' columns, and without the rows in which nothing is written."""
    found: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for row, column, figures in cells(run, table):
        columns[column] = None
        found.setdefault(row, {})[column] = write(figures)
    lines = (
        [row, *(of.get(column, "") for column in columns)] for row, of in found.items() if any(of.values())
    )
    return markdown([corner, *columns], lines)


def by_figure(run: Run, table: str, corner: str, wanted: Mapping[str, str]) -> str:
    """Make a table with a column for each of the wanted figures, by name and heading."""
    lines = (
        [row, *(number(figures[name][0]) if name in figures else "" for name in wanted)]
        for row, _, figures in cells(run, table)
    )
    return markdown([corner, *wanted.values()], lines)


def rate(figures: Figures) -> str:
    """Write how many a second."""
    return number(figures["rate"][0])


def cost(figures: Figures) -> str:
    """Write the CPU time of the server and of Redis for each, in µs."""
    return (
        " / ".join(number(figures[name][0]) for name in ("server_us", "redis_us"))
        if "server_us" in figures
        else ""
    )


def latency(figures: Figures) -> str:
    """Write median and 99th percentile."""
    return (
        " / ".join(number(figures[name][0]) for name in ("p50_ms", "p99_ms")) if "p50_ms" in figures else ""
    )


def _medians(run: Run, name: str, *, but: str = "\0") -> list[float]:
    return [
        each["figures"][name][0]
        for each in run["cells"]
        if name in each["figures"] and but not in each["row"]
    ]


def introduction(run: Run) -> str:
    """Say where and how the run was made, and how much it was disturbed."""
    machine = run["machine"]
    rates = [each["figures"]["rate"] for each in run["cells"] if "rate" in each["figures"]]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    spread = statistics.median((high - low) / median for median, low, high in rates)
    others = _medians(run, "others_cores")
    generator = _medians(run, "generator_percent", but="echo")
    disturbed = statistics.median(others) > QUIET
    warning = "**The machine was busy with other things: compare rows, and quote no figure alone.**\n\n"
    return f"""\
{warning * disturbed}One run of {run["minutes"]:.0f} minutes on {run["date"]}: {machine["processor"]},
{machine["system"]}, Python {machine["python"]}, {versions}. The load average was
{machine["load"]} when it began.

- Each figure is the median of {run["rounds"]} rounds. A round measures everything once, in windows of
  {run["seconds"]:g} s. The highest and the lowest rate of a row differ by {spread:.0%} of its median (the
  median of all rows).
- The load generator took {statistics.median(generator):.1f} % of a core (median of all rows but the echo
  server's), at most {max(generator):.1f} %.
- Other programs, and the host of the machine, kept {statistics.median(others):.2f} cores busy (median of all
  rows), at most {max(others):.2f}."""


_ADDING = """\
### Adding one entry

Calls per second, by calls in flight. A server on standard input and output has one client only, so in the
last column there are eight processes of it."""
_BATCHES = """\
### Many entries a call

Entries per second, by calls in flight."""
_LARGE = """\
### Large entries

Megabytes per second, an entry of 32 KiB a call, by calls in flight. Of redis-benchmark it is one client, with
so many commands at a time."""
_CYCLES = """\
### Work, an entry at a time

Cycles of three calls per second, by cycles in flight. Below, the CPU time of a cycle, of the daemon / of
Redis, in µs."""
_WAKING = """\
### Waking

Time from XADD to the answer at each client that waits, and to the last of those that wait for the same
entry; CPU time of an added entry, until all are told and with the next wait of each. The last column tells
how many updates arrive per second while one entry is announced to all subscribers."""
_SCALES = """\
### Cost by size and number

CPU time of a call, of the daemon / of Redis, in µs. Below each table, the same in calls per second."""
_STARTING = """\
### Starting

From the start of the process, in ms, and the resident memory of a process that has answered a call. The first
call without a handshake is made to a process of its own."""
_MEMORY = """\
### Memory

The daemon after its first calls, and what each of many connections adds, in KiB: connected only, after a call
of the 2026-07-28 era, after a handshake, and with a handshake and a wait that is asleep."""
_COLLECTOR = """\
### Pauses of the collector

Collections by Python's garbage collector in the daemon while something is measured; connecting the clients is
part of it."""
_POLITE = """\
### A polite client

A client that makes a call each 10 ms: alone; beside a greedy client, whose 50 connections each keep 64 calls
of 100 entries in flight; and beside 50 such clients with a connection each. A client is a process. Beside 50
greedy ones the polite one may have a fifty-first of the daemon, as each of them. Calls that were in flight at
the end of the window are awaited and counted."""

_SHARING = """\
### Sharing

One client that asks for all it can get, and eight with 8 to 2,560 calls in flight on 1 to 10 connections. Of
one: what a second of the daemon's CPU time gives with admission, as a part of what it gives without, both by
the best of many windows in turn. Of eight: what they get together, as a part of what one gets alone, and how
far the furthest is from an equal share."""

_WAITS = {
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "last_ms": "last, ms",
    "told_ms": "daemon until told, ms",
    "server_ms": "daemon, ms",
    "redis_ms": "Redis, ms",
    "rate": "/ s",
}
_STARTS = {
    "listening_ms": "listening",
    "direct_ms": "first call without a handshake",
    "handshake_ms": "first handshake",
    "call_ms": "first call after it",
    "mib": "MiB",
}
_KIB = {
    "connected_kib": "connected",
    "modern_kib": "2026-07-28",
    "handshake_kib": "handshake",
    "wait_kib": "waiting",
}
_PAUSES = {
    "per_second": "/ s",
    "percent": "% of time",
    "full": "full collections",
    "longest_ms": "longest, ms",
}
_CALLS = {
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "longest_ms": "longest, ms",
    "calls": "calls",
    "failed": "failed",
}
_PARTS = {"rate": "calls/s", "percent": "%", "deviation_percent": "furthest from equal, %"}

#: Tables that are drawn, too, by what their columns are.
SCALES = {
    "sizes": "size of the entry",
    "streams": "streams",
    "groups": "groups of the stream",
    "connections": "connections, each with a call in flight",
}


def tables(run: Run) -> str:
    """Return the tables of everything that was measured."""
    depth = "in flight"
    parts = [introduction(run)]
    parts += [_ADDING, by_column(run, "add", depth, rate), "![Calls per second](plots/calls.svg)"]
    parts += ["CPU time of a call, of the server / of Redis, in µs:", by_column(run, "add", depth, cost)]
    parts += ["Time of a call, median / 99th percentile, in ms:", by_column(run, "add", depth, latency)]
    parts += [_BATCHES, by_column(run, "batches", depth, rate)]
    parts += [
        "CPU time of an entry, of the server / of Redis, in µs:",
        by_column(run, "batches", depth, cost),
    ]
    parts += [_LARGE, by_column(run, "large", depth, rate)]
    parts += [_CYCLES, by_column(run, "cycles", depth, rate), by_column(run, "cycles", depth, cost)]
    parts += [_WAKING, by_figure(run, "waits", "", _WAITS), _SCALES]
    for table, title in SCALES.items():
        parts += [by_column(run, table, title, cost), by_column(run, table, title, rate)]
        parts += [f"![CPU time of a call by {title}](plots/{table}.svg)"]
    parts += [_STARTING, by_figure(run, "start", "", _STARTS)]
    parts += [_MEMORY, by_figure(run, "memory", "", {"mib": "daemon, MiB"} | _KIB)]
    parts += [_COLLECTOR, by_figure(run, "collector", "", _PAUSES)]
    parts += [_POLITE, by_figure(run, "polite", "", _CALLS | {"mib": "daemon, MiB"})]
    parts += [_SHARING, by_figure(run, "sharing", "", _PARTS)]
    return "\n\n".join(parts)
