"""Measures stream_add through the real daemon, beside redis-benchmark on the same server.

Run by ``make bench``. One client process on one connection keeps 1, 16 or 64 requests in flight, in
each era of MCP; redis-benchmark does plain XADD of the same entry with as many connections.
Prints the table that docs/performance.md holds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable

from tests.support.daemon import running_daemon
from tests.support.servers import Server, start_redis

DEPTHS = (1, 16, 64)
ENTRY = {"type": "order", "id": "A-1001", "amount": "12.50", "currency": "EUR"}

_MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def handshake(connection: socket.socket) -> None:
    """Open a session of the handshake era."""
    info = {"name": "bench", "version": "0"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
    for message in (
        {"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ):
        connection.sendall(json.dumps(message).encode() + b"\n")
    while b"\n" not in connection.recv(1 << 16):
        pass


def calls_per_second(path: str, depth: int, seconds: float, *, modern: bool) -> float:
    """Keep `depth` calls in flight for `seconds` and return how many were answered each second."""
    params = {"name": "stream_add", "arguments": {"stream": "bench:add:stream", "entries": [ENTRY]}}
    if modern:
        params["_meta"] = _MODERN
    call = {"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": params}
    before, after = json.dumps(call).encode().split(b'"id": 0')

    def line(number: int) -> bytes:
        return b'%b"id": %d%b\n' % (before, number, after)

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        if not modern:
            handshake(connection)
        sent = depth
        answered = 0
        connection.sendall(b"".join(line(number) for number in range(depth)))
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            data = connection.recv(1 << 18)
            if b'"isError":true' in data or b'"error"' in data:
                raise RuntimeError(data[:500])
            count = data.count(b"\n")
            answered += count
            connection.sendall(b"".join(line(sent + number) for number in range(count)))
            sent += count
        return answered / elapsed


def redis_benchmark(server: Server, clients: int, seconds: float) -> float:
    """Return the XADD commands per second of redis-benchmark with as many connections."""
    fields = [part for pair in ENTRY.items() for part in pair]
    count = int(20_000 * seconds) if clients == 1 else int(60_000 * seconds)
    ended = subprocess.run(
        [
            *("redis-benchmark", "-s", server.path, "-c", str(clients), "-n", str(count), "-q"),
            *("XADD", "bench:add:plain", "*", *fields),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.findall(r"([\d.]+) requests per second", ended.stdout)
    return float(found[-1])


def best(measure: Callable[[], float], rounds: int) -> float:
    """Return the best of several rounds: interruptions only ever make a round slower."""
    return max(measure() for _ in range(rounds))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the best counts")
    options = parser.parse_args()
    if shutil.which("redis-benchmark") is None:
        raise SystemExit("redis-benchmark is not installed (apt-get install redis-tools)")
    with start_redis() as server, running_daemon(server) as daemon:
        rows = [
            (
                "stream_add, handshake era",
                lambda depth: calls_per_second(daemon.path, depth, options.seconds, modern=False),
            ),
            (
                "stream_add, 2026-07-28",
                lambda depth: calls_per_second(daemon.path, depth, options.seconds, modern=True),
            ),
            ("redis-benchmark XADD", lambda depth: redis_benchmark(server, depth, options.seconds)),
        ]
        version = server.command("INFO", "server").split(b"redis_version:")[1].split()[0].decode()
        print(f"Python {platform.python_version()}, Redis {version}, {os.cpu_count()} cores,")
        print(f"best of {options.rounds} rounds of {options.seconds:g} s, calls per second\n")
        print("| in flight | " + " | ".join(str(depth) for depth in DEPTHS) + " |")
        print("|---|" + "---|" * len(DEPTHS))
        for what, measure in rows:
            figures = [best(lambda m=measure, d=depth: m(d), options.rounds) for depth in DEPTHS]
            print(f"| {what} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |", flush=True)


if __name__ == "__main__":
    main()
