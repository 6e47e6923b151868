"""The largest there may be: entries of 100 MiB, ten million of them, a million pending, five thousand groups.

Each is listed, read and diagnosed by a daemon whose memory stays bounded. The figures are printed (``-s``)
and stand in docs/performance.md.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from tests.support.counts import long
from tests.support.daemon import Daemon, call, running_daemon
from tests.support.fair_clock import running_clock
from tests.support.measured import measured
from tests.support.servers import Server, start_redis
from tests.support.waiting import wait_until

MIB = 1 << 20
STREAM = "big"
PLACE = {"stream": STREAM, "group": "g0"}


@pytest.fixture
def big_redis() -> Iterator[Server]:
    """A Redis of the test's own, which gives its memory back when it stops."""
    with start_redis() as server:
        yield server


def memory(daemon: Daemon, name: str = "VmRSS") -> float:
    """Return the daemon's memory in MiB: VmRSS now, VmHWM at its height (proc(5))."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text("ascii")
    (line,) = (line for line in status.splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) / 1024


def calls(daemon: Daemon, *tools: tuple[str, dict[str, Any]]) -> dict[str, float]:
    """Call each tool, print seconds and memory, and return the seconds of each.

    Every call succeeds, and none answers with more than the bound of a result and what stands beside it.
    """
    took: dict[str, float] = {}
    for tool, arguments in tools:
        with running_clock() as clock:
            began = clock()
            result = call(daemon.path, tool, arguments)
            took[tool] = clock() - began
        assert not result["isError"], result["content"]
        size = len(result["content"][0]["text"].encode())
        assert size <= 40_000
        print(
            f"\n{tool}: {took[tool] * 1000:.1f} ms, {size} bytes, daemon {memory(daemon):.0f} MiB "
            f"(height {memory(daemon, 'VmHWM'):.0f})",
            end="",
        )
    return took


def other_programs_add(server: Server, value: bytes) -> None:
    """XADD one entry around the daemon."""
    # Its type stub knows tuples of one argument only.
    pack: Callable[[tuple[object, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(server.path)
        connection.sendall(pack(("XADD", STREAM, "*", "name", "image", "bytes", value)))
        assert connection.recv(64).startswith(b"$")


def look(*more: tuple[str, dict[str, Any]]) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return the calls of somebody who looks at the stream, then `more`."""
    return (
        ("stream_list", {}),
        ("stream_read", {"stream": STREAM, "direction": "backward"}),
        ("stream_wait", {"streams": [STREAM], "cursor": "0-0", "timeout_seconds": 0}),
        ("stream_health", {"stream": STREAM, "detail": "full"}),
        *more,
    )


@long
def test_an_entry_of_100_mib_is_listed_read_and_taken_in_bounded_memory(big_redis: Server) -> None:
    other_programs_add(big_redis, os.urandom(1024).hex().encode() * (50 * 1024))
    with running_daemon(big_redis, REDSTREAMD_TOOLS_PROFILE="operator") as daemon:
        calls(daemon, ("stream_list", {}))
        before = memory(daemon)
        took = calls(
            daemon,
            *look(("work_take", {**PLACE, "consumer": "a"})),
            ("pending_list", PLACE),
            ("group_manage", {**PLACE, "action": "set_position", "start": "latest"}),
        )
        height = memory(daemon, "VmHWM")
        # None of it is kept: what was freed goes back once the daemon has been idle for a second.
        wait_until(lambda: memory(daemon) - before < 20)
        print(f"\nmemory: {before:.0f} MiB before, {height:.0f} at its height, {memory(daemon):.0f} after")
    with measured:
        assert max(took.values()) < 10
    # The reply, the value made of it, and its JSON: no more copies of it at a time than these.
    assert height - before < 350


@long
def test_ten_million_entries_cost_the_daemon_nothing(big_redis: Server) -> None:
    entries = 10_000_000
    script = "for n = ARGV[1], ARGV[2] do redis.call('XADD', KEYS[1], n .. '-0', 'n', n) end"
    for start in range(1, entries + 1, 250_000):
        big_redis.command("EVAL", script, 1, STREAM, start, start + 249_999)
    assert big_redis.command("XLEN", STREAM) == entries
    with running_daemon(big_redis, REDSTREAMD_TOOLS_PROFILE="operator") as daemon:
        calls(daemon, ("stream_list", {}))
        before = memory(daemon)
        middle = str(entries // 2)
        took = calls(
            daemon,
            *look(
                ("stream_read", {"stream": STREAM, "start": f"{middle}-0", "count": 100}),
                ("stream_read", {"stream": STREAM, "filter": {"n": "no such"}}),
                ("group_create", {**PLACE, "start": f"{middle}-0"}),
                ("stream_health", {"stream": STREAM}),
                ("work_take", {**PLACE, "consumer": "a", "count": 100}),
                ("group_manage", {**PLACE, "action": "set_position", "start": "latest"}),
                ("stream_manage", {"stream": STREAM, "action": "trim", "max_length": entries - 500_000}),
            ),
        )
        height = memory(daemon, "VmHWM")
    print(f"\nmemory: {before:.0f} MiB before, {height:.0f} at its height")
    with measured:
        assert max(took.values()) < 10
    assert height - before < 20


def test_five_thousand_groups_are_looked_at_in_bounded_memory_and_time(big_redis: Server) -> None:
    big_redis.command("XADD", STREAM, "*", "n", "1")
    big_redis.command(
        "EVAL",
        "for n = 0, 4999 do redis.call('XGROUP', 'CREATE', KEYS[1], 'g' .. n, '0') end",
        *(1, STREAM),
    )
    with running_daemon(big_redis, REDSTREAMD_TOOLS_PROFILE="operator") as daemon:
        calls(daemon, ("stream_list", {}))
        before = memory(daemon)
        took = calls(
            daemon,
            *look(
                ("stream_health", {**PLACE}),
                ("work_take", {**PLACE, "consumer": "a"}),
                ("pending_list", PLACE),
                ("group_manage", {**PLACE, "action": "destroy"}),
            ),
        )
        # To ask every group in one step would stop the server.
        trim = call(daemon.path, "stream_manage", {"stream": STREAM, "action": "trim", "max_length": 0})
        assert trim["content"][0]["text"].startswith("TOO_LARGE")
        height = memory(daemon, "VmHWM")
    print(f"\nmemory: {before:.0f} MiB before, {height:.0f} at its height")
    with measured:
        assert max(took.values()) < 5
    assert height - before < 30


def server_ms(server: Server, daemon: Daemon, tool: str, **arguments: Any) -> float:
    """Call a tool and return the milliseconds that the server's one thread spent on the scripts of it."""
    server.command("CONFIG", "RESETSTAT")
    result = call(daemon.path, tool, arguments)
    assert not result["isError"], result["content"]
    lines = server.command("INFO", "commandstats").decode().splitlines()
    spent = [float(line.split("usec=")[1].split(",")[0]) for line in lines if line.startswith("cmdstat_eval")]
    print(f"\n{tool}: {sum(spent) / 1000:.2f} ms of the server", end="")
    return sum(spent) / 1000


@long
@pytest.mark.parametrize(("entries", "consumers"), [(1_000_000, 1), (100_000, 100_000)])
def test_a_take_and_an_add_cost_no_more_where_much_is_pending(
    big_redis: Server, entries: int, consumers: int
) -> None:
    """No other client is served meanwhile, so it must not grow with the data of others."""
    at_once = 50_000
    add = "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'n', n) end"
    read = """for n = ARGV[1], ARGV[2] do
        redis.call('XREADGROUP', 'GROUP', 'g0', 'c' .. n, 'COUNT', ARGV[3], 'STREAMS', KEYS[1], '>')
    end"""
    for _ in range(0, entries, at_once):
        big_redis.command("EVAL", add, 1, STREAM, at_once)
    big_redis.command("XGROUP", "CREATE", STREAM, "g0", "0")
    each = entries // consumers
    step = max(1, at_once // each)
    for first in range(1, consumers + 1, step):
        big_redis.command("EVAL", read, 1, STREAM, first, min(first + step - 1, consumers), each)
    assert big_redis.command("XPENDING", STREAM, "g0")[0] == entries
    take = {**PLACE, "consumer": "a"}
    more = {"stream": STREAM, "entries": [{"n": 1}] * 10}
    with running_daemon(big_redis, REDSTREAMD_TOOLS_PROFILE="operator") as daemon:
        # Until their scripts are known to the server, each is sent and read whole.
        call(daemon.path, "work_take", take)
        call(daemon.path, "stream_add", {**more, "max_length": 10**9})
        took = {
            "take, nothing new": server_ms(big_redis, daemon, "work_take", **take | {"count": 100}),
            "add, nothing to trim": server_ms(big_redis, daemon, "stream_add", **more, max_length=10**9),
            "take, new entries": server_ms(big_redis, daemon, "work_take", **take, count=10),
            "add, held by the group": server_ms(big_redis, daemon, "stream_add", **more, max_length=10),
            "health": server_ms(big_redis, daemon, "stream_health", stream=STREAM),
            "list": server_ms(big_redis, daemon, "pending_list", **PLACE, min_deliveries=2),
        }
    print(f"\n{entries:,} entries pending at {consumers:,}: {took}")
    with measured:
        assert max(took.values()) < 50
