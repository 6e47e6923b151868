"""Random requests of HTTP, cut and broken off anywhere: what comes back is HTTP, and nobody is disturbed."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from tests.bench.accounting import rss_kib
from tests.conftest import FIGURE
from tests.fairness.field import Field
from tests.fairness.figures import GOAL_PEAK, LONGEST_TURN
from tests.fuzz import forget_peak, peak_bytes, seeded
from tests.fuzz.http_requests import Requests, requests
from tests.fuzz.test_fuzzed_requests import DEFECTS, tools_of
from tests.streamable_http.raw_http import HEADERS, responses
from tests.support.counts import counts
from tests.support.http_daemon import running_http_daemon
from tests.support.measured import measured
from tests.support.servers import Server
from tests.support.waiting import wait_until

CONNECTIONS: Final = 4
#: Of one connection.
REQUESTS: Final = 6
#: Statuses of the daemon; of a defect it would be 500.
STATUSES: Final = frozenset(
    {
        100,
        200,
        202,
        204,
        400,
        401,
        403,
        404,
        405,
        406,
        408,
        409,
        411,
        413,
        414,
        415,
        417,
        421,
        431,
        501,
        503,
        505,
    }
)
MIB: Final = 1 << 20
#: Memory after an hour is what it was after the first minute, and a little more.
GROWTH: Final = 48 * MIB
#: Incomplete requests, sessions and connections are not kept long here.
TIMES: Final = tuple(
    word
    for setting in (
        "head_seconds=0.5",
        "body_seconds=0.5",
        "session_idle_seconds=1",
        "event_pause_seconds=0.2",
    )
    for word in ("--set", f"http.{setting}")
)
RESET: Final = struct.pack("ii", 1, 0)


@attrs.define
class Seen:
    """What came of the requests.

    Attributes:
        requests: How many were sent.
        statuses: How many responses had each status.
        bad: What a response must not be.
    """

    requests: int = 0
    statuses: dict[int, int] = attrs.field(factory=dict)
    bad: list[str] = attrs.field(factory=list)

    def take(self, data: bytes, methods: Sequence[bytes]) -> None:
        """Look at all that came over a connection."""
        for response in responses(data, methods):
            self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
            if (
                response.status not in STATUSES
                or not set(response.headers) <= HEADERS
                or b'"code":-32603' in response.body
                or b'"code":"INTERNAL"' in response.body
            ):
                self.bad.append(repr(response)[:1_000])


async def fuzz(port: int, make: Requests, seen: Seen, until: float) -> None:
    """Send requests over one connection after the other, and end each in some way."""
    rng = make.rng
    while trio.current_time() < until:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        sent = [make.opening(), *(make.request() for _ in range(rng.randrange(1, REQUESTS)))]
        seen.requests += len(sent)
        data = b"".join(sent)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        received = bytearray()
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(receive, stream, received)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for piece in cut(rng, data):
                    await stream.send_all(piece)
                    await trio.lowlevel.checkpoint()
                if rng.random() < 0.2:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    nursery.cancel_scope.cancel()
                    continue
                await stream.send_eof()
            # A response of events does not end by itself.
            nursery.cancel_scope.deadline = trio.current_time() + 5
        methods = [request.split(b" ", 1)[0] for request in sent]
        if b"HEAD" not in methods:
            seen.take(whole(bytes(received)), methods)
        found = re.search(rb"(?i)mcp-session-id: (\S+)", received)
        make.session = found[1].decode() if found else make.session


async def receive(stream: trio.SocketStream, received: bytearray) -> None:
    """Keep all that comes, until the end."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in stream:
            received += data


def whole(data: bytes) -> bytes:
    """Return what came without the head that did not come to its end."""
    begin = data.rfind(b"HTTP/1.1 ")
    return data if begin < 0 or b"\r\n\r\n" in data[begin:] else data[:begin]


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """Return data in a few pieces."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 3, 10))))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


async def attacked(field: Field, port: int, seconds: float, rng: random.Random, seen: Seen) -> Any:
    """Send requests in both eras for so many seconds, and return what the polite client saw meanwhile."""
    tools = await tools_of(field.daemon.path)
    polite: list[Any] = []
    async with trio.open_nursery() as nursery:
        until = trio.current_time() + seconds
        for _ in range(CONNECTIONS // 2):
            for era in ("handshake", "modern"):
                make = requests(random.Random(rng.random()), era, tools)
                nursery.start_soon(fuzz, port, make, seen, until)
        polite.append(await trio.to_thread.run_sync(field.alone, seconds))
    return polite[0]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("seconds", counts(2, ci=30, full=3_600))
@pytest.mark.limit(120, seconds=3)
def test_no_request_crashes_the_daemon_or_disturbs_another_client(
    seconds: float, redis: Server, record_property: Callable[[str, object], None]
) -> None:
    rng, repeat = seeded("HTTP")
    print(repeat)
    seen = Seen()
    with running_http_daemon(redis, "--set", "tools.profile=operator", *TIMES) as running:
        pid = running.daemon.process.pid
        field = Field(redis, running.daemon, polite_port=running.port)
        field.prepare()
        alone = field.alone(0.3)
        # What stays of the first requests is no growth.
        early = min(seconds / 2, 60)
        first = trio.run(attacked, field, running.port, early, rng, seen)
        before, memory = descriptors(pid), rss_kib(pid) * 1024
        forget_peak(pid)
        polite = trio.run(attacked, field, running.port, seconds - early, rng, seen)
        peak = peak_bytes(pid)

        def growth() -> int:
            return rss_kib(pid) * 1024 - memory

        # What a peak has left goes back once the daemon has been idle for a second.
        wait_until(lambda: growth() <= GROWTH, timeout_seconds=60)
        grown = growth()
        # But for connections to Redis that were made meanwhile.
        wait_until(lambda: descriptors(pid) <= before + 3, timeout_seconds=60)
        field.judge()
        log = running.daemon.log
    beside, ours = polite.p50(fair=True), alone.p50(fair=True)
    record_property(
        FIGURE,
        f"fuzz of HTTP ({repeat}): {seen.requests} requests, {dict(sorted(seen.statuses.items()))}, peak "
        f"{peak >> 20} MiB, {grown >> 20} MiB more; a polite client p50 "
        f"{', '.join(f'{each:.1f}' for each in beside)} ms",
    )
    assert (seen.bad, [each for each in DEFECTS if each in log]) == ([], []), f"{repeat}\n{log[-3_000:]}"
    assert {200, 400} <= set(seen.statuses), repeat
    for each in (first, polite):
        assert (each.lost, each.refused) == (0, []), repeat
    with measured:
        assert peak <= GOAL_PEAK, repeat
        assert all(
            there <= 3 * alone_ms + LONGEST_TURN for there, alone_ms in zip(beside, ours, strict=True)
        ), f"{repeat}: {beside} ms, alone {ours} ms"
