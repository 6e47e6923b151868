"""What a call costs by the size of entries, and by the number of streams, groups and connections."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tests.bench.accounting import cpu_seconds, quantiles_ms
from tests.bench.load import template
from tests.bench.peers import ENTRY, STREAM, Asked, line
from tests.bench.rows import Bench, Cell, Sample, fresh
from tests.support.servers import Server

_SIZES = {"100 B": 100, "1 KiB": 1 << 10, "10 KiB": 10 << 10, "100 KiB": 100 << 10, "1 MiB": 1 << 20}
_COUNTS = (1, 10, 100, 1_000)


def _plain_entries(server: Server, names: Sequence[str], size: int = 100) -> None:
    """Add an entry to each of many streams, past the daemon."""
    for first in range(0, len(names), 1_000):
        server.commands(*(("XADD", name, "*", "data", "x" * size) for name in names[first : first + 1_000]))


def sizes(bench: Bench) -> Iterator[Cell]:
    """Adding and reading one entry, by its size."""
    for label, size in _SIZES.items():

        def add(size: int = size) -> Sample:
            asked = Asked(
                template("stream_add", {"stream": STREAM, "entries": [{"data": "x" * size}]}), '"ids":["', 1
            )
            return fresh(bench, lambda: bench.asked(bench.daemon, asked, depth=4))

        def read(size: int = size) -> Sample:
            asked = Asked(template("stream_read", {"stream": STREAM, "count": 1}), '"fields":', 1)
            prepare = partial(_plain_entries, bench.server, [STREAM], size)
            return fresh(bench, lambda: bench.asked(bench.daemon, asked, depth=4), prepare)

        yield Cell("sizes", "stream_add", label, add)
        yield Cell("sizes", "stream_read", label, read)


def streams(bench: Bench) -> Iterator[Cell]:
    """Listing streams, by how many there are."""
    for count in (10, 100, 1_000, 10_000, *([100_000] if bench.full else [])):

        def page(count: int = count) -> Sample:
            asked = Asked(template("stream_list", {"count": 50}), '"uri":', min(50, count))
            names = [f"bench:orders:{number:06}" for number in range(count)]
            prepare = partial(_plain_entries, bench.server, names)
            return fresh(bench, lambda: bench.asked(bench.daemon, asked) | _following(bench, count), prepare)

        yield Cell("streams", "stream_list, page of 50", f"{count:,}", page)


def _following(bench: Bench, count: int) -> Sample:
    """Return what the pages after the first take, a hundred of them at most."""
    (pid,) = bench.daemon.pids(1)
    times: list[float] = []
    with bench.daemon.links(1) as ((inward, outward),), open(inward, "rb", closefd=False) as answers:
        cursor: dict[str, str] = {}
        used = cpu_seconds(pid)
        for number in range(min(101, count // 50)):
            began = time.perf_counter()
            arguments = {"count": 50} | cursor
            os.write(outward, line("tools/call", {"name": "stream_list", "arguments": arguments}, number))
            found = json.loads(answers.readline())["result"]["structuredContent"]
            if number:
                times.append(time.perf_counter() - began)
            else:
                used = cpu_seconds(pid)
            cursor = {"cursor": found["next_cursor"]} if found.get("next_cursor") else {}
        used = cpu_seconds(pid) - used
    if not times:
        return {}
    return {"next_ms": quantiles_ms(times)["p50_ms"], "next_server_us": used / len(times) * 1e6}


def groups(bench: Bench) -> Iterator[Cell]:
    """Adding to a stream and diagnosing it, by the number of its groups."""
    trimming = {"stream": STREAM, "entries": [ENTRY], "max_length": 1_000}
    calls = {
        "stream_add": bench.daemon.add.template,
        "stream_add with max_length": template("stream_add", trimming),
        "stream_health": template("stream_health", {"stream": STREAM}),
    }
    for count in _COUNTS:

        def prepare(count: int = count) -> None:
            _plain_entries(bench.server, [STREAM])
            bench.server.commands(
                *(("XGROUP", "CREATE", STREAM, f"group-{each}", "$") for each in range(count))
            )

        for row, asked in calls.items():

            def call(asked: bytes = asked, prepare: Callable[[], None] = prepare) -> Sample:
                return fresh(bench, lambda: bench.calls(bench.daemon, [asked]), prepare)

            yield Cell("groups", row, f"{count:,}", call)


def connections(bench: Bench) -> Iterator[Cell]:
    """Adding an entry at a time over each of many connections of one client."""
    for count in _COUNTS:

        def add(count: int = count) -> Sample:
            return fresh(bench, lambda: bench.asked(bench.daemon, bench.daemon.add, each=count))

        yield Cell("connections", "stream_add", f"{count:,}", add)


PARTS = (sizes, streams, groups, connections)
