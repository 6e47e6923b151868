"""Metrics over HTTP: what is asked is answered, and slow, silent and hostile clients disturb nobody."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from redstreamd.mcpio.listeners import open_unix_listener
from redstreamd.metrics.metrics_events import MetricsEvent, MetricsFailed
from redstreamd.metrics.metrics_server import MAX_CONNECTIONS, MetricsServer

PAGE = b"redstreamd_figure 1\n" * 5_000
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\nAccept: text/plain\r\n\r\n"


class Running:
    """A running server."""

    def __init__(self, path: str, events: list[MetricsEvent], accepted: list[str]) -> None:
        self.path = path
        self.events = events
        self.accepted = accepted

    async def connect(self) -> trio.SocketStream:
        return await trio.open_unix_socket(self.path)

    async def ask(self, request: bytes = GET) -> tuple[str, dict[str, str], bytes]:
        """Make one request over a connection of its own."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return await answer(stream)


@asynccontextmanager
async def running(
    directory: Path, page: bytes | Exception = PAGE, **seconds: float
) -> AsyncIterator[Running]:
    events: list[MetricsEvent] = []
    accepted: list[str] = []

    async def write(accept: str) -> tuple[bytes, str]:
        accepted.append(accept)
        if isinstance(page, Exception):
            raise page
        return page, "text/plain; version=0.0.4"

    listener = await open_unix_listener(str(directory / "metrics.sock"))
    server = MetricsServer([listener], write, about="About it.", on_event=events.append, **seconds)
    async with listener, trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield Running(str(directory / "metrics.sock"), events, accepted)
        nursery.cancel_scope.cancel()


async def answer(stream: trio.SocketStream, *, has_body: bool = True) -> tuple[str, dict[str, str], bytes]:
    """Read one response: its status line, its headers and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some(65_536)
        if not part:
            raise EOFError(data)
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("ascii").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    while has_body and len(body) < int(headers["content-length"]):
        body += await stream.receive_some(65_536)
    return status, headers, body


async def is_closed(stream: trio.SocketStream) -> bool:
    """Read until the other side closes."""
    try:
        while await stream.receive_some(65_536):
            pass
    except trio.BrokenResourceError:
        pass
    return True


async def test_what_is_asked_is_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        status, headers, body = await server.ask()
        assert (status, body) == ("HTTP/1.1 200 OK", PAGE)
        assert headers["content-type"] == "text/plain; version=0.0.4"
        assert server.accepted == ["text/plain"]
        status, _, body = await server.ask(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (status, body) == ("HTTP/1.1 200 OK", b"About it.\n")
        status, _, _ = await server.ask(b"GET /favicon.ico HTTP/1.1\r\nHost: here\r\n\r\n")
        assert status == "HTTP/1.1 404 Not Found"
        status, headers, _ = await server.ask(b"POST /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (status, headers["allow"]) == ("HTTP/1.1 405 Method Not Allowed", "get, head")
        status, _, body = await server.ask(b"GET /metrics?x=1 HTTP/1.0\r\n\r\n")
        assert (status, body) == ("HTTP/1.1 200 OK", PAGE)
        async with await server.connect() as stream:
            await stream.send_all(GET.replace(b"GET", b"HEAD"))
            status, headers, body = await answer(stream, has_body=False)
            assert (status, headers["content-length"], body) == ("HTTP/1.1 200 OK", str(len(PAGE)), b"")
            # The connection is kept, also for requests that come together.
            await stream.send_all(GET)
            assert (await answer(stream))[2] == PAGE
            await stream.send_all(GET.replace(b"/metrics", b"/") * 2)
            with trio.fail_after(60):
                both = b""
                while both.count(b"About it.") < 2:
                    both += await stream.receive_some(65_536)
        assert server.events == []


async def test_a_request_may_come_byte_by_byte(tmp_path: Path) -> None:
    async with running(tmp_path) as server, await server.connect() as stream:
        for at in range(len(GET)):
            await stream.send_all(GET[at : at + 1])
        assert (await answer(stream))[2] == PAGE


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300) + b"\n", "400"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}\n\n', "400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\nHost: here\r\nX: " + b"x" * 20_000, "431"),
    ],
    ids=["tls", "mcp", "no host", "length", "long"],
)
async def test_what_is_no_request_is_refused_and_the_next_client_is_served(
    tmp_path: Path, garbage: bytes, status: str
) -> None:
    async with running(tmp_path) as server:
        async with await server.connect() as stream:
            await stream.send_all(garbage)
            assert (await answer(stream))[0].split()[1] == status
            assert await is_closed(stream)
        assert (await server.ask())[2] == PAGE
        assert server.events == []


async def test_a_request_with_a_body_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as server, await server.connect() as stream:
        await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\n")
        _, headers, body = await answer(stream)
        assert (headers["connection"], body) == ("close", PAGE)
        await stream.send_all(bytes(1_000))
        assert await is_closed(stream)


async def test_who_sends_a_request_too_slowly_or_none_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path, request_seconds=0.5, rest_seconds=0.1) as server:
        began = trio.current_time()
        async with await server.connect() as silent, await server.connect() as slow:
            await slow.send_all(GET[:20])
            with trio.fail_after(60):
                assert await is_closed(slow)
                assert await is_closed(silent)
                assert trio.current_time() - began >= 0.4
        assert (await server.ask())[2] == PAGE


async def test_a_new_client_takes_the_place_of_who_was_silent_longest(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        silent = [await server.connect() for _ in range(MAX_CONNECTIONS)]
        for each in silent[1:]:
            await each.send_all(GET)
            assert (await answer(each))[2] == PAGE
        # The first never asked; of the others the first has waited longest.
        for longest in (silent[0], silent[1]):
            async with await server.connect() as stream:
                await stream.send_all(GET)
                assert (await answer(stream))[2] == PAGE
                assert await is_closed(longest)
                silent.append(await server.connect())
        for each in silent:
            await each.aclose()


async def test_beside_hostile_clients_a_polite_one_is_served(tmp_path: Path) -> None:
    hostile = (b"", b"GET", GET[:-2], bytes(100), GET * 5, b"\r\n" * 100) * 2
    assert len(hostile) > MAX_CONNECTIONS
    async with running(tmp_path, page=b"x 1\n") as server, contextlib.AsyncExitStack() as connected:
        for what in hostile:
            stream = await connected.enter_async_context(await server.connect())
            await stream.send_all(what)
            assert (await server.ask())[2] == b"x 1\n"
        assert server.events == []


async def test_who_does_not_read_is_let_go_while_others_are_served(tmp_path: Path) -> None:
    page = bytes(8_000_000)
    async with (
        running(tmp_path, page=page, response_seconds=3) as server,
        await server.connect() as stuck,
        await server.connect() as stream,
    ):
        await stuck.send_all(GET)
        await stream.send_all(GET)
        received = 0
        while received < len(page):
            part = await stream.receive_some(1_000_000)
            assert part
            received += len(part)
        # What the kernel holds could still be read, so that is not tried before the connection has ended.
        with contextlib.suppress(trio.BrokenResourceError):
            while True:
                await stuck.send_all(b"x")
                await trio.sleep(0.05)
        left = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while part := await stuck.receive_some(1_000_000):
                left += len(part)
        assert left < len(page)


async def test_a_defect_is_told_to_who_asked_and_recorded(tmp_path: Path) -> None:
    async with running(tmp_path, page=ValueError("broken")) as server:
        status, _, body = await server.ask()
        assert status == "HTTP/1.1 500 Internal Server Error"
        assert b"broken" not in body
        assert [type(event) for event in server.events] == [MetricsFailed]
        assert (await server.ask(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"))[0] == "HTTP/1.1 200 OK"
