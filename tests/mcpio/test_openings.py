"""What a connection begins with tells a client of MCP from other programs, however the bytes arrive."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.mcpio import openings
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.mcpio.openings import Foreign, Text, Undecided, judge
from tests.mcpio.serving import Pair
from tests.support.mcp_client import RawClient

MARK = openings.BYTE_ORDER_MARK


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", Ending.TLS),
        (b"*1\r", Ending.REDIS),
        (b"*12\r", Ending.REDIS),
        (b"GET / HTTP/1.1\r", Ending.HTTP),
        (b"PRI * HTTP/2.0\r", Ending.HTTP),
        (b"POST /" + b"x" * 5_000, Ending.HTTP),
        # SSL 2, PostgreSQL, UTF-16 in both orders with and without a mark, gzip.
        (b"\x80\x2e\x01\x03\x01", Ending.BINARY),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", Ending.BINARY),
        ("{}".encode("utf-16-le"), Ending.BINARY),
        ("{}".encode("utf-16-be"), Ending.BINARY),
        (b"\xff\xfe{\x00}\x00", Ending.BINARY),
        (b"\xfe\xff\x00{\x00}", Ending.BINARY),
        (b"\x1f\x8b\x08", Ending.BINARY),
        (b" \t\x00\x00", Ending.BINARY),
    ],
)
def test_other_protocols_are_recognised_by_their_first_bytes(line: bytes, ending: Ending) -> None:
    verdict = judge(line, whole=True)
    assert isinstance(verdict, Foreign)
    assert verdict.ending is ending
    if ending is not Ending.HTTP:
        # Without waiting for more; it may not come.
        assert judge(line[:4], whole=False) == verdict


@pytest.mark.parametrize(
    ("line", "mark_bytes"),
    [
        (b'{"jsonrpc":"2.0"}', 0),
        (b" {", 0),
        (b"[", 0),
        (b"{", 0),
        (b"", 0),
        (b"1", 0),
        (MARK, 3),
        (MARK + b"{}", 3),
        (MARK + b" {}\r", 3),
        ("\u00e9".encode(), 0),
        ("\u4e2d".encode(), 0),
        (b"hello", 0),
        (b"HELLO", 0),
        (b"PING\r", 0),
        (b"GET key\r", 0),
        (b"* all", 0),
        # Such a character further on is an error in JSON, as any other.
        (b'{"a":"\x00', 0),
    ],
)
def test_what_may_be_json_or_a_typing_error_is_text(line: bytes, mark_bytes: int) -> None:
    assert judge(line, whole=True) == Text(mark_bytes)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"{",
        b"\x16",
        b"\xef",
        b"\xef\xbb",
        MARK,
        MARK + b" {",
        b"G",
        b"POST",
        b"POST /x",
        b" GET /x",
    ],
)
def test_what_may_become_one_or_the_other_is_not_decided(line: bytes) -> None:
    assert judge(line, whole=False) == Undecided()


@pytest.mark.parametrize("line", [b" " * 5_000, b"X" * 33, b'{"a', b"he"])
def test_what_cannot_become_another_protocol_is_text(line: bytes) -> None:
    assert judge(line, whole=False) == Text()


async def ending_of(pair: Pair) -> ConnectionClosed:
    await pair.connection.drain(0)
    (event,) = [event for event in pair.events if isinstance(event, ConnectionClosed)]
    return event


async def test_a_tls_client_is_told_by_an_alert(pair: Pair) -> None:
    """The client is OpenSSL, in a thread, over the other end of the pair."""
    plain = socket.fromfd(pair.peer.socket.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
    failure: list[Exception] = []

    def connect() -> None:
        plain.setblocking(True)
        plain.settimeout(120)
        context = ssl.create_default_context()
        try:
            context.wrap_socket(plain, server_hostname="localhost")
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    await trio.to_thread.run_sync(thread.join)
    plain.close()
    (error,) = failure
    assert isinstance(error, ssl.SSLError)
    assert "ALERT_HANDSHAKE_FAILURE" in str(error).upper().replace(" ", "_")
    await pair.peer.aclose()
    event = await ending_of(pair)
    assert (event.ending, event.requests) == (Ending.TLS, 0)


@pytest.mark.parametrize("cut", [1, 2, 3, 9])
async def test_a_byte_order_mark_at_the_start_costs_nothing(pair: Pair, cut: int) -> None:
    line = b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    await pair.peer.send_all(line[:cut])
    await trio.testing.wait_all_tasks_blocked(0.01)
    await pair.peer.send_all(line[cut:])
    raw = RawClient(pair.peer)
    assert (await raw.receive())["result"] == {}
    # Once: anywhere else it is no JSON.
    await pair.peer.send_all(line)
    assert (await raw.receive())["error"]["code"] == -32700


async def test_blank_lines_ahead_of_the_first_message_decide_nothing(pair: Pair) -> None:
    await pair.peer.send_all(b"\n \r\n\t\n*1\r\n$4\r\nPING\r\n")
    answer = b""
    while chunk := await pair.peer.receive_some():
        answer += chunk
    assert answer == openings.REDIS_ERROR
    await pair.peer.aclose()
    assert (await ending_of(pair)).ending is Ending.REDIS


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize(
    ("start", "answers"), [(b"{", [-32700]), (b"", []), (b" \r", []), (b"\xef", [-32700])]
)
async def test_what_ends_before_it_is_decided_is_a_line(
    pair: Pair, start: bytes, end: bytes, answers: list[Any]
) -> None:
    await pair.peer.send_all(start + end)
    await pair.peer.send_eof()
    codes = [answer["error"]["code"] for answer in await RawClient(pair.peer).receive_rest()]
    assert codes == answers
    assert (await ending_of(pair)).ending is Ending.EOF


async def test_nothing_of_another_protocol_is_handled_though_the_connection_is_drained(pair: Pair) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.connection.drain, 5)
        await trio.testing.wait_all_tasks_blocked()
        await pair.peer.send_all(b"POST / HTTP/1.1\r\n\r\n" + body)
        await pair.peer.send_all(body * 1_000)
        (answer,) = await RawClient(pair.peer).receive_rest()
        assert "HTTP" in answer["error"]["message"]
        await pair.peer.aclose()
