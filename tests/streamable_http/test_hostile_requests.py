"""What is known to smuggle requests past proxies, or to confuse parsers: what becomes of it, from outside.

Each case is sent to a real daemon in one piece, byte by byte, and with another request right behind it. h11
reads what comes back. What follows a request that is refused is not served, and nothing that is smuggled is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.fuzz.test_fuzzed_requests import DEFECTS
from tests.streamable_http.hostile_cases import BYTE_BY_BYTE, CASES, STREAM, Case
from tests.streamable_http.raw_http import (
    DISCOVERING,
    HEADERS,
    Response,
    adding,
    connected,
    discover,
    message,
    request,
    responses,
    sized,
)
from tests.support.http_daemon import running_http_daemon
from tests.support.servers import Server

_NEXT_BODY: Final = message("server/discover", "next")
NEXT: Final = request(fields=[*DISCOVERING, sized(_NEXT_BODY)], body=_NEXT_BODY)


@pytest.fixture(scope="module")
def port(redis_server: Server) -> Iterator[int]:
    """A daemon's port for HTTP."""
    redis_server.flush()
    with running_http_daemon(redis_server) as running:
        # What is smuggled would be served, if it were taken for a request.
        with connected(running.port) as connection:
            connection.send(adding("served:orders"))
            assert connection.read_response().status == 200
        assert redis_server.command("EXISTS", "served:orders") == 1
        yield running.port
        assert redis_server.command("EXISTS", STREAM) == 0
        assert not [each for each in DEFECTS if each in running.daemon.log], running.daemon.log


def came(port: int, case: Case, *, piece: int, follows: bool) -> list[Response]:
    """Send a case, and check how many responses come and whether the connection ends with them.

    Args:
        port: Where to.
        case: What.
        piece: Bytes that are sent at a time; 0 for all.
        follows: Whether another request is sent right behind it, or only after its responses.
    """
    with connected(port) as connection:
        connection.send(case.data + (NEXT if follows else b""), piece=piece)
        if not case.is_whole:
            connection.finish()
        if case.closes:
            found = responses(connection.read_to_end(), [case.method])
            assert not connection.was_reset
            assert len(found) == len(case.statuses), found
            return found
        found = [connection.read_response(case.method) for _ in case.statuses]
        if not follows:
            connection.send(NEXT)
        try:
            after = connection.read_response()
        except EOFError:
            assert case.closes is None, found
        else:
            assert (after.status, after.message["id"]) == (200, "next"), found
        connection.finish()
        assert connection.read_to_end() == b""
        return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_request_is_refused_or_served_and_what_follows_it_is_not_mistaken(case: Case, port: int) -> None:
    seen = set()
    ways = [(0, False), (0, True), (1 if len(case.data) <= BYTE_BY_BYTE else len(case.data) // 1000, False)]
    for piece, follows in ways[: 1 if case.is_long else 3]:
        if follows and not case.is_whole:
            continue
        found = came(port, case, piece=piece, follows=follows)
        for response, statuses in zip(found, case.statuses, strict=True):
            assert response.status in statuses, (piece, follows, response)
            assert response.is_whole
            assert set(response.headers) <= HEADERS
            assert b"text/html" not in response.headers.get(b"content-type", b"")
            assert b"\r" not in response.body
        seen.add(tuple(response.status for response in found))
    # However it is cut, it means the same.
    assert len(seen) == 1, seen


def test_a_client_that_waits_for_100_gets_it_and_another_does_not(port: int) -> None:
    head, _, body = discover(b"Expect: 100-continue").partition(b"\r\n\r\n")
    with connected(port) as connection:
        for _ in range(2):
            connection.send(head + b"\r\n\r\n")
            assert connection.read_response().status == 100
            connection.send(body)
            assert connection.read_response().message["id"] == "discover"
        # It has sent the body, so that it waits for nothing.
        connection.send(discover(b"Expect: 100-continue") + NEXT)
        assert [connection.read_response().status for _ in range(2)] == [200, 200]


def test_many_requests_at_once_are_answered_in_their_order(port: int) -> None:
    count = 300
    bodies = [message("server/discover", number) for number in range(count)]
    data = b"".join(request(fields=[*DISCOVERING, sized(body)], body=body) for body in bodies)
    with connected(port) as connection:
        connection.send(data + b"GARBAGE\r\n\r\n" + adding(STREAM))
        found = responses(connection.read_to_end())
    assert [each.message["id"] for each in found[:-1]] == list(range(count))
    assert found[-1].status in (400, 501)


def test_no_two_cases_are_the_same() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == len({case.data for case in CASES})
    assert len(CASES) >= 60
