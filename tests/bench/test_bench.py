"""The load generator counts right and notices failures; the page holds the figures of its run."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.bench import accounting, collector, goals, load, peers, plots, rows, scales, steps
from tests.bench.daemons import Daemons
from tests.bench.goals import Goal
from tests.bench.load import LoadError, template
from tests.bench.page import of_run
from tests.bench.rows import Bench
from tests.bench.sharing import Sharing
from tests.bench.waits import Waits
from tests.support.daemon import Daemon
from tests.support.servers import Server, missing

DOCS = Path(__file__).parent.parent.parent / "docs"
ADD = template("stream_add", {"stream": "a:b:c"})


@pytest.fixture(autouse=True)
def compiler() -> None:
    if shutil.which("cc") is None:
        missing("cc", "apt-get install gcc libc6-dev")


@contextlib.contextmanager
def answering(
    answer: Callable[[bytes], bytes], count: int = 1
) -> Iterator[tuple[list[load.Link], list[bytes]]]:
    """Serve so many connections by a function from line to line; yields them and what arrived."""
    arrived: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            for line in lines:
                arrived.append(line)
                connection.sendall(answer(line))

    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(count)]
        threads = [threading.Thread(target=serve, args=(theirs,)) for _, theirs in pairs]
        for ours, theirs in pairs:
            stack.enter_context(theirs)
            stack.enter_context(ours)
        for thread in threads:
            thread.start()
        try:
            yield [(ours.fileno(), ours.fileno()) for ours, _ in pairs], arrived
        finally:
            for ours, _ in pairs:
                ours.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=10)


def echo(line: bytes) -> bytes:
    return line


@pytest.mark.parametrize(("clients", "depth"), [(1, 1), (1, 16), (3, 4)])
def test_every_answer_is_counted_once(clients: int, depth: int) -> None:
    with answering(echo, clients) as (links, arrived):
        result = load.run(links, [ADD], depth=depth, seconds=0.1, warm_up=0, pattern='"method"', per_call=1)
    assert result.calls > 0
    assert result.calls <= result.timed == len(arrived)
    assert 0 < result.p50 <= result.p99 <= result.longest
    ids = [int(re.findall(rb'"id":(\d+)', line)[0]) for line in arrived]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    "failure",
    [
        b'{"jsonrpc":"2.0","id":%b,"error":{"code":-32602,"message":"no"}}\n',
        b'{"jsonrpc":"2.0","id":%b,"result":{"content":[],"isError":true}}\n',
        b'{"result":{"content":[],"isError":true},"jsonrpc":"2.0","id":%b}\n',
    ],
)
def test_one_call_that_fails_among_many_fails_the_run(failure: bytes) -> None:
    seen = iter(range(1_000_000))

    def answer(line: bytes) -> bytes:
        return failure % re.findall(rb'"id":(\d+)', line)[0] if next(seen) == 20 else line

    with answering(answer) as (links, _), pytest.raises(LoadError, match="a call failed"):
        load.run(links, [ADD], depth=4, seconds=0.5)


def test_failures_are_counted_where_they_are_a_figure() -> None:
    def answer(line: bytes) -> bytes:
        return line.replace(b'"method"', b'"isError":true,"method"')

    with answering(answer) as (links, arrived):
        result = load.run(links, [ADD], seconds=0.05, warm_up=0, tolerant=True)
    assert result.failed == len(arrived)


def test_an_answer_to_another_request_fails_the_run() -> None:
    with (
        answering(lambda line: re.sub(rb'"id":\d+', b'"id":1999999999', line)) as (links, _),
        pytest.raises(LoadError, match="no request in flight"),
    ):
        load.run(links, [ADD], seconds=0.5)


def test_answers_without_what_was_asked_for_fail_the_run() -> None:
    with answering(echo) as (links, _), pytest.raises(LoadError, match="not 1 in each"):
        load.run(links, [ADD], seconds=0.05, pattern='"ids":["', per_call=1)


def test_a_connection_that_ends_fails_the_run() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(LoadError, match="closed the connection"):
            load.run([(ours.fileno(), ours.fileno())], [ADD], seconds=0.5)


def test_a_chain_hands_on_the_lease_of_its_own_answer() -> None:
    taken: set[bytes] = set()

    def answer(line: bytes) -> bytes:
        number = re.findall(rb'"id":(\d+)', line)[0]
        if b"work_take" in line:
            taken.add(number)
            return b'{"id":%b,"result":{"structuredContent":{"lease":"lease2.%b"}}}\n' % (number, number)
        taken.remove(re.findall(rb'"lease":"lease2\.(\d+)"', line)[0])
        return line

    chain = [template("work_take", {}), template("work_done", {"lease": "@LEASE@"})]
    with answering(answer) as (links, arrived):
        result = load.run(links, chain, depth=3, seconds=0.1, warm_up=0)
    assert result.cycles > 3
    assert sum(b"work_done" in line for line in arrived) + len(taken) == sum(
        b"work_take" in line for line in arrived
    )
    assert len(taken) <= 3


def test_large_requests_pass_a_socket_that_fills() -> None:
    large = template("stream_add", {"data": "x" * 1_000_000})
    with answering(echo) as (links, arrived):
        result = load.run(links, [large], depth=4, seconds=0.1, warm_up=0)
    assert result.timed == len(arrived) > 0
    assert all(len(line) > 1_000_000 for line in arrived)


def test_each_client_is_a_process_of_its_own_however_many_connections_it_has(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with peers.connected(path, clients=2, each=3) as ours, contextlib.ExitStack() as stack:
            theirs = [stack.enter_context(listener.accept()[0]) for _ in ours]
            pids = [
                struct.unpack("3i", each.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                for each in theirs
            ]
            for each in theirs:
                each.sendall(b"to you")
            assert [each.recv(10) for each in ours] == [b"to you"] * 6
    assert sorted(map(pids.count, set(pids))) == [3, 3]
    assert os.getpid() not in pids
    with pytest.raises(ConnectionError, match="refused"), peers.connected(path, clients=1):
        pass


def test_cpu_time_is_the_kernels() -> None:
    earlier = time.process_time()
    spent = accounting.Spent.by(os.getpid())
    later = time.process_time()
    while time.process_time() < later + 0.05:
        pass
    assert 0.05 <= spent.seconds(os.getpid()) < time.process_time() - earlier
    assert accounting.pss_kib(os.getpid()) > 1_000


def test_a_pause_of_the_collector_is_written_down(tmp_path: Path) -> None:
    began = time.monotonic()
    callbacks = gc.callbacks[:]
    try:
        collector.watch(str(tmp_path / "pauses"))
        gc.collect()
    finally:
        gc.callbacks[:] = callbacks
    found = collector.pauses(tmp_path / "pauses", began)
    assert [generation for generation, _ in found].count(2) == 1
    assert all(0 < length < time.monotonic() - began for _, length in found)
    assert collector.pauses(tmp_path / "pauses", time.monotonic()) == []


def test_the_page_and_its_drawings_are_of_the_run_whose_results_lie_beside_them() -> None:
    """Make them anew with: python -m tests.bench --page."""
    run = json.loads((DOCS / "performance.json").read_text("utf-8"))
    page = (DOCS / "performance.md").read_text("utf-8")
    assert of_run(page, run) == page
    drawings = {path.name: path.read_text("utf-8") for path in (DOCS / "plots").glob("*.svg")}
    assert drawings == plots.drawings(run)
    assert set(re.findall(r"\(plots/([\w.]+)\)", page)) == set(drawings)


def test_a_goal_compares_the_worse_era_with_its_peer() -> None:
    ours = tuple(("add", f"redstreamd, {era}", "1", "rate") for era in peers.ERAS)
    faster = Goal("adding", 2.0, ours, ("add", "peer", "1", "rate"), "peer", relative=True, unit="calls/s")
    sooner = Goal("waking", 10.0, ours, unit="ms", lower=True)
    rows = dict(zip([place[1] for place in faster.places()], (300.0, 100.0, 200.0), strict=True))
    found = {("add", row, "1"): {"rate": [rate, 0.0, 999.0]} for row, rate in rows.items()}
    assert faster.reached(found) == ([1.5, 0.5], 200.0)
    assert faster.ratio([1.5, 0.5]) == 0.25
    assert sooner.reached(found) == ([300.0, 100.0], None)
    assert sooner.ratio([20.0, 40.0]) == 0.25
    del found["add", "peer", "1"]
    assert faster.reached(found) is None


def test_each_goal_is_a_row_and_is_found_in_what_is_measured(redis: Server) -> None:
    """What a goal needs is named in two places; a run of all would find out after many minutes."""
    ours = [peers.redstreamd("", 0, modern=modern) for modern in (False, True)]
    others = [peers.stdio(name, [], ours[0].add, ours[0].read) for name in (peers.ORIGINAL, peers.OFFICIAL)]
    bench = Bench(redis, (ours[0], ours[1]), [*ours, *others], 1, True)
    cells = [cell for part in (rows.adding, rows.batches, rows.large, *scales.PARTS) for cell in part(bench)]
    cells += Waits(redis, cast("Daemon", None), 1_000).cells()
    cells += [*Daemons(redis, 1, 1_000).cells(), *Sharing(redis).cells()]
    assert {(cell.table, cell.row, cell.column) for cell in cells} >= goals.CELLS
    table = goals.table({"cells": []}).splitlines()
    assert len(table) == 2 + len(goals.GOALS)
    assert all("not measured" in row for row in table[2:])


def test_a_step_measured_again_takes_its_own_place() -> None:
    first, second = ({"name": name, "commit": "c", "turn": 1} for name in "ab")
    again = first | {"turn": 2}
    assert steps.added(steps.added(steps.added([], first), second), again) == [second, again]
