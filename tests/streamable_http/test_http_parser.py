"""What is a request of HTTP: each case whole, byte by byte, and with the next request behind it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from redstreamd.errors.remedies import setting
from redstreamd.streamable_http.http_parser import HttpParser, Parsed
from redstreamd.streamable_http.request_rules import MAX_TARGET_BYTES, Fault, RequestStart

MAX_HEAD = 16 * 1024
MAX_FIELDS = 100
MAX_BODY = 64 * 1024
#: Longer data is cut into longer pieces than a byte.
MAX_CUT_BYTES = 4096

HEAD = b"POST /mcp HTTP/1.1\r\nHost: a.example\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: next.example\r\n\r\n"


def parser() -> HttpParser:
    """Return a parser with the limits of these tests."""
    return HttpParser(max_head_bytes=MAX_HEAD, max_fields=MAX_FIELDS, max_body_bytes=MAX_BODY)


def parsed(pieces: Iterable[bytes], http: HttpParser | None = None) -> list[Parsed]:
    """Return all that comes of bytes in these pieces."""
    http = http or parser()
    results: list[Parsed] = []
    for piece in pieces:
        http.feed(piece)
        while (result := http.take()) is not None:
            results.append(result)
    assert not http.has_more
    return results


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield the same bytes whole, byte by byte, in two pieces, and in several."""
    yield [data]
    size = 1 if len(data) < MAX_CUT_BYTES else 1009
    yield [data[place : place + size] for place in range(0, len(data), size)]
    middle = len(data) // 2
    yield [data[:middle], data[middle:]]
    rng = random.Random(data)
    for _ in range(3):
        places = sorted(rng.sample(range(1, len(data)), min(8, len(data) - 1)))
        yield [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]


def all_same(data: bytes) -> list[Parsed]:
    """Return what comes of bytes, which is the same however they are cut."""
    ways = [parsed(pieces) for pieces in cuts(data)]
    assert all(way == ways[0] for way in ways)
    return ways[0]


def request(data: bytes) -> tuple[RequestStart, bytes]:
    """Return the request that these bytes are; the next one behind them is understood by itself."""
    start, body = all_same(data)
    assert isinstance(start, RequestStart)
    assert isinstance(body, bytes)
    both = all_same(data + NEXT)
    assert both[:2] == [start, body]
    if start.keeps_alive:
        following, nothing = both[2:]
        assert isinstance(following, RequestStart)
        assert (following.head.path, following.head.authority, nothing) == ("/next", "next.example", b"")
        assert dict(following.head.fields) == {"host": "next.example"}
    else:
        assert both[2:] == []
    return start, body


def fault(data: bytes) -> Fault:
    """Return why these bytes are refused; of a request that follows nothing is read."""
    for way in (all_same(data), all_same(data + NEXT)):
        assert [each for each in way if isinstance(each, bytes)] == []
        assert isinstance(way[-1], Fault)
    return way[-1]


# What is a request


def test_a_request_is_its_line_its_headers_and_its_body() -> None:
    start, body = request(
        b"POST /mcp?a=b%20c HTTP/1.1\r\nHost: a.example:8080\r\nX-Odd: \t v w \t\r\nEmpty:\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )
    head = start.head
    assert (head.method, head.path, head.query, head.authority) == (
        "POST",
        "/mcp",
        "a=b%20c",
        "a.example:8080",
    )
    assert dict(head.fields) == {
        "host": "a.example:8080",
        "x-odd": "v w",
        "empty": "",
        "content-length": "5",
    }
    assert (start.content_length, start.is_1_1, start.keeps_alive, start.expects_continue) == (
        5,
        True,
        True,
        False,
    )
    assert body == b"hello"
    assert head.repeated == frozenset()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "POST"])
def test_methods_that_a_handler_decides_about_are_passed_on(method: str) -> None:
    start, body = request(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    assert (start.head.method, start.content_length, body) == (method, 0, b"")


@pytest.mark.parametrize("length", [b"2", b"2 ", b"2\t", b"002", b"  2"])
def test_a_length_may_have_whitespace_around_it_and_leading_zeros(length: bytes) -> None:
    assert request(HEAD + b"Content-Length:" + length + b"\r\n\r\nab")[1] == b"ab"


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"2\r\nab\r\n0\r\n\r\n", b"ab"),
        (b"1\r\na\r\nA\r\n0123456789\r\n000\r\n\r\n", b"a0123456789"),
        (b'2;a=b;c="d e"\r\nab\r\n0;x\r\n\r\n', b"ab"),
        (b"0000000000000002\r\nab\r\n0\r\n\r\n", b"ab"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"2\r\nab\r\n0\r\nTrailer: dropped\r\nHost: evil\r\nMcp-Session-Id: evil\r\n\r\n", b"ab"),
    ],
)
def test_a_body_may_come_in_chunks_whose_extensions_and_trailers_are_dropped(
    chunks: bytes, body: bytes
) -> None:
    start, whole = request(CHUNKED + chunks)
    assert (start.content_length, whole) == (None, body)
    assert dict(start.head.fields) == {"host": "a.example", "transfer-encoding": "chunked"}


def test_the_name_of_the_coding_is_written_in_any_case() -> None:
    assert request(HEAD + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n")[0].content_length is None


def test_names_of_other_protocols_may_stand_anywhere_but_in_the_request_line() -> None:
    start, body = request(HEAD + b"X: POST /mcp RTSP/1.0\r\nContent-Length: 22\r\n\r\nGET /a RTSP/1.0 ICE/1.")
    assert (start.head.fields["x"], len(body)) == ("POST /mcp RTSP/1.0", 22)


def test_headers_that_make_lists_may_come_several_times() -> None:
    start, _ = request(HEAD + b"Accept: a/b\r\nX: 1\r\nACCEPT: c/d\r\n\r\n")
    assert start.head.fields["accept"] == "a/b, c/d"
    assert start.head.repeated == {"accept"}


def test_of_headers_of_mcp_the_handler_is_told_that_they_came_several_times() -> None:
    start, _ = request(HEAD + b"Mcp-Session-Id: a\r\nMCP-SESSION-ID: b\r\n\r\n")
    assert start.head.repeated == {"mcp-session-id"}


def test_values_are_read_as_iso_8859_1() -> None:
    assert request(HEAD + b"X: a\xff\x80b\r\n\r\n")[0].head.fields["x"] == "a\xff\x80b"


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"\n"])
def test_empty_lines_before_a_request_are_passed_over(before: bytes) -> None:
    assert request(before + NEXT)[0].head.path == "/next"


@pytest.mark.parametrize(
    ("target", "path", "query", "authority"),
    [
        ("http://b.example/mcp?x=y", "/mcp", "x=y", "b.example"),
        ("https://b.example:8443/mcp", "/mcp", "", "b.example:8443"),
        ("HTTP://b.example", "/", "", "b.example"),
        ("http://b.example?x", "/", "x", "b.example"),
        ("http://[::1]:80/", "/", "", "[::1]:80"),
    ],
)
def test_of_a_url_as_target_the_authority_counts_and_not_the_header(
    target: str, path: str, query: str, authority: str
) -> None:
    head = request(f"GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n".encode())[0].head
    assert (head.path, head.query, head.authority) == (path, query, authority)


@pytest.mark.parametrize(
    "host",
    [
        "a",
        "a.example",
        "a.example:",
        "a:80",
        "127.0.0.1",
        "[::1]",
        "[::1]:8080",
        "xn--bcher-kva.example",
        "a_b",
    ],
)
def test_a_host_is_a_name_or_an_address_with_an_optional_port(host: str) -> None:
    assert request(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())[0].head.authority == host


# Whether the connection goes on


@pytest.mark.parametrize(
    ("version", "fields", "keeps_alive"),
    [
        ("1.1", "", True),
        ("1.1", "Connection: keep-alive\r\n", True),
        ("1.1", "Connection: close\r\n", False),
        ("1.1", "Connection: Close\r\n", False),
        ("1.1", "Connection: keep-alive, close\r\n", False),
        ("1.1", "Connection: x\r\nConnection: close\r\n", False),
        ("1.1", "Connection: x-close\r\n", True),
        ("1.1", "Proxy-Connection: close\r\n", False),
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.0", "Connection: close, keep-alive\r\n", False),
    ],
)
def test_another_request_may_follow_as_the_version_and_the_header_say(
    version: str, fields: str, keeps_alive: bool
) -> None:
    start, _ = request(f"GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n".encode())
    assert (start.keeps_alive, start.is_1_1) == (keeps_alive, version == "1.1")


def test_http_1_0_needs_no_host() -> None:
    assert request(b"GET / HTTP/1.0\r\n\r\n")[0].head.authority == ""


@pytest.mark.parametrize(
    "fields",
    [
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ],
)
def test_an_upgrade_is_ignored_and_the_body_and_the_next_request_are_read_as_always(fields: str) -> None:
    head = f"POST / HTTP/1.1\r\nHost: a\r\n{fields}"
    assert request(f"{head}\r\n".encode())[1] == b""
    assert request(f"{head}Content-Length: 3\r\n\r\nabc".encode())[1] == b"abc"
    assert request(f"{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode())[1] == b"abc"
    assert fault(f"{head}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n".encode()).status == 400


@pytest.mark.parametrize(("version", "expects"), [("1.1", True), ("1.0", False)])
def test_a_client_of_http_1_1_may_wait_before_it_sends_the_body(version: str, expects: bool) -> None:
    data = f"POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx"
    assert request(data.encode())[0].expects_continue is expects


# What is refused


def head_with(*lines: bytes) -> bytes:
    """Return a head with more lines."""
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


REFUSED = {
    # Where a body ends.
    "two lengths": head_with(b"Content-Length: 2", b"Content-Length: 2"),
    "differing lengths": head_with(b"Content-Length: 2", b"Content-Length: 3"),
    "list of lengths": head_with(b"Content-Length: 2, 2"),
    "length with plus": head_with(b"Content-Length: +8"),
    "length with minus": head_with(b"Content-Length: -8"),
    "length in hex": head_with(b"Content-Length: 0x8"),
    "length with point": head_with(b"Content-Length: 8.0"),
    "length with underscore": head_with(b"Content-Length: 1_0"),
    "length in other digits": head_with("Content-Length: \u0662".encode()),
    "empty length": head_with(b"Content-Length:"),
    "length beyond 64 bits": head_with(b"Content-Length: 18446744073709551618"),
    "length with whitespace": head_with(b"Content-Length: 1 0"),
    "coding and length": head_with(b"Transfer-Encoding: chunked", b"Content-Length: 2"),
    "length and coding": head_with(b"Content-Length: 2", b"Transfer-Encoding: chunked"),
    "coding not last": head_with(b"Transfer-Encoding: chunked, gzip"),
    "two codings": head_with(b"Transfer-Encoding: gzip, chunked"),
    "coding twice": head_with(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "codings in two headers": head_with(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
    "another coding": head_with(b"Transfer-Encoding: identity"),
    "nearly the coding": head_with(b"Transfer-Encoding: xchunked"),
    "nearly the coding behind": head_with(b"Transfer-Encoding: chunkedx"),
    "coding in quotes": head_with(b'Transfer-Encoding: "chunked"'),
    "coding with parameter": head_with(b"Transfer-Encoding: chunked;q=1"),
    "coding with vertical tab": head_with(b"Transfer-Encoding: \x0bchunked"),
    "coding with comma": head_with(b"Transfer-Encoding: ,chunked"),
    "empty coding": head_with(b"Transfer-Encoding:"),
    "coding with space in its name": head_with(b"Transfer-Encoding : chunked"),
    "coding folded": head_with(b"Transfer-Encoding:", b" chunked"),
    "coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Lines.
    "bare LF": b"POST / HTTP/1.1\nHost: a\n\n",
    "bare LF after a header": HEAD + b"X: y\nZ: w\r\n\r\n",
    "bare LF at the end": HEAD + b"X: y\r\n\n",
    "bare CR": HEAD + b"X: y\rZ: w\r\n\r\n",
    "CR CR LF": HEAD + b"X: y\r\r\n\r\n",
    "folded header": head_with(b"X: y", b" z"),
    "header folded with a tab": head_with(b"X: y", b"\tz"),
    "whitespace before the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "whitespace before the colon": head_with(b"X : y"),
    "no name": head_with(b": y"),
    "no colon": head_with(b"X"),
    "name with parentheses": head_with(b"X(y): z"),
    "name with a byte beyond ASCII": head_with(b"X\xe9: z"),
    "NUL in a value": head_with(b"X: a\0b"),
    "NUL in a name": head_with(b"X\0: a"),
    "control character in a value": head_with(b"X: a\x01b"),
    "DEL in a value": head_with(b"X: a\x7fb"),
    "whitespace behind the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "whitespace in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in the target": b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    "control character in the target": b"GET /a\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /a\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "byte beyond ASCII in the target": b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "version with two digits": b"GET / HTTP/1.10\r\nHost: a\r\n\r\n",
    "another protocol": b"GET / HTTQ/1.1\r\nHost: a\r\n\r\n",
    "RTSP": b"GET / RTSP/1.0\r\nHost: a\r\n\r\n",
    "RTSP with whitespace": b"POST  /mcp?a=(b)  RTSP/1.1\r\nHost: a\r\n\r\n",
    "RTSP behind empty lines": b"\r\n\r\nPOST /mcp RTSP/1.1\r\nHost: a\r\n\r\n",
    "protocol in lower case": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    # Whom it is for.
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": head_with(b"Host: b"),
    "the same host twice": head_with(b"Host: a.example"),
    "list of hosts": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host with user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host with scheme": b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
    "host with a long port": b"GET / HTTP/1.1\r\nHost: a:123456\r\n\r\n",
    "host with a name as port": b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
    "host with half brackets": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "host beyond ASCII": b"GET / HTTP/1.1\r\nHost: b\xfccher.example\r\n\r\n",
    "host is a URL's, and no header": b"GET http://a/ HTTP/1.1\r\n\r\n",
    "URL with user": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "URL without host": b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "URL of another scheme": b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "URL with fragment": b"GET http://a/#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with fragment": b"GET /#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority as target": b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "path without slash": b"GET mcp HTTP/1.1\r\nHost: a\r\n\r\n",
    # Which value counts.
    "two types": head_with(b"Content-Type: a/b", b"Content-Type: c/d"),
    "two tokens": head_with(b"Authorization: Bearer a", b"Authorization: Bearer b"),
    "two origins": head_with(b"Origin: http://a", b"Origin: http://b"),
    "two expectations": head_with(b"Expect: 100-continue", b"Expect: 100-continue"),
    # Other protocols.
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "line of JSON": b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n',
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_understood_differently_is_refused(case: str) -> None:
    refused = fault(REFUSED[case])
    assert refused.status == 400
    assert refused.why


@pytest.mark.parametrize(
    "chunks",
    [
        b"x\r\n",
        b"+2\r\nab\r\n",
        b"-2\r\nab\r\n",
        b"0x2\r\nab\r\n",
        b"2 \r\nab\r\n",
        b" 2\r\nab\r\n",
        b"\r\n2\r\nab\r\n",
        b"2\nab\r\n",
        b"2\rab\r\n",
        b"2\r\nab\n0\r\n\r\n",
        b"2\r\nabc\r\n0\r\n\r\n",
        b"2\r\nab0\r\n\r\n",
        b"2;a\nb\r\nab\r\n",
        b'2;a="b\r\n"\r\nab\r\n',
        b"fffffffffffffffff\r\n",
        b"2\r\nab\r\n0\n\n",
        b"2\r\nab\r\n0\r\nX : y\r\n\r\n",
        b"2\r\nab\r\n0\r\nContent-Length: 5\r\n\r\n",
        b"2\r\nab\r\n0\r\nConnection: close\r\n\r\n",
        b"2\r\nab\r\n0\r\nX: a\0\r\n\r\n",
    ],
)
def test_chunks_that_could_be_understood_differently_are_refused(chunks: bytes) -> None:
    assert fault(CHUNKED + chunks).status == 400


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("CONNECT a:80 HTTP/1.1", 405),
        ("TRACE / HTTP/1.1", 405),
        ("FOO / HTTP/1.1", 501),
        ("get / HTTP/1.1", 501),
        ("PROPFIND / HTTP/1.1", 501),
        ("QUERY / HTTP/1.1", 501),
        ("GET/ HTTP/1.1", 501),
        (" GET / HTTP/1.1", 501),
        ("GET / HTTP/0.9", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/3.0", 505),
        ("PRI * HTTP/2.0", 505),
    ],
)
def test_other_methods_and_versions_have_statuses_of_their_own(line: str, status: int) -> None:
    refused = fault(f"{line}\r\nHost: a\r\n\r\n".encode())
    assert refused.status == status
    assert dict(refused.fields).keys() == ({"Allow"} if status == 405 else set())


def test_http_0_9_is_refused_once_its_line_is_seen_to_be_all() -> None:
    assert fault(b"GET /\r\n\r\n").status == 505


def test_another_expectation_than_100_continue_fails() -> None:
    assert fault(head_with(b"Expect: the unexpected")).status == 417


def test_what_follows_the_last_request_of_a_connection_is_not_read() -> None:
    start, body = request(HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
    assert (start.keeps_alive, body) == (False, b"x")
    assert len(all_same(HEAD + b"Connection: close\r\n\r\n" + b"\0garbage")) == 2


def test_garbage_behind_a_request_is_refused_after_it() -> None:
    start, body, refused = all_same(HEAD + b"Content-Length: 1\r\n\r\nxgarbage here\r\n\r\n")
    assert isinstance(start, RequestStart)
    assert body == b"x"
    assert isinstance(refused, Fault)


# Limits


def test_a_target_a_head_and_a_number_of_headers_may_be_as_long_as_the_limits_and_no_longer() -> None:
    target = b"/" + b"a" * (MAX_TARGET_BYTES - 1)
    assert request(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")[0].head.path == target.decode()
    assert fault(b"GET " + target + b"a HTTP/1.1\r\nHost: a\r\n\r\n").status == 414
    fields = b"".join(b"X-%d: y\r\n" % number for number in range(MAX_FIELDS - 1))
    assert len(request(HEAD + fields + b"\r\n")[0].head.fields) == MAX_FIELDS
    assert fault(HEAD + fields + b"One-More: y\r\n\r\n").status == 431
    long = MAX_HEAD - len(HEAD) - 2048
    assert request(HEAD + b"X: " + b"a" * long + b"\r\n\r\n")[0].head.fields["x"] == "a" * long
    assert fault(HEAD + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n").status == 431


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"GET /", b"a" * 100, 414),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 10, 431),
        (b"GET / HTTP/1.1\r\nX: ", b"a" * 100, 431),
        (b"GET / HTTP/1.1\r\nX:", b" " * 100, 431),
        (b"GET / HTTP/1.1\r\n", b"X" * 100, 431),
        (b"GET ", b" " * 100, 431),
        (b"", b"\r\n" * 50, None),
        (CHUNKED, b"1;" + b"a" * 98 + b"\r\nb\r\n", 400),
        (CHUNKED + b"1;", b"a" * 100, 400),
        (CHUNKED + b"0\r\n", b"X: y\r\n" * 10, 431),
        (CHUNKED + b"0\r\nX: ", b"a" * 100, 400),
        (CHUNKED, b"40\r\n" + b"a" * 64 + b"\r\n", 413),
    ],
)
def test_what_does_not_end_is_refused_when_a_limit_is_reached(
    begin: bytes, more: bytes, status: int | None
) -> None:
    http = parser()
    results = parsed([begin], http)
    most = 0
    for _ in range(4 * MAX_BODY // len(more)):
        results += parsed([more], http)
        most = max(most, http.held)
        if results and isinstance(results[-1], Fault):
            break
    refused = results[-1] if results else None
    assert (refused.status if isinstance(refused, Fault) else None) == status
    assert most <= MAX_BODY + len(more)
    assert http.held == 0


def test_a_body_is_refused_at_its_head_if_that_says_that_it_is_too_long() -> None:
    assert len(request(HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY + b"a" * MAX_BODY)[1]) == MAX_BODY
    told = f"the body of the request has more than {MAX_BODY} bytes ({setting('limits.max_message_bytes')}); "
    assert all_same(HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1)) == [
        Fault(413, told + "send less at a time")
    ]
    chunk = b"%x\r\n%b\r\n" % (MAX_BODY, b"a" * MAX_BODY)
    assert len(request(CHUNKED + chunk + b"0\r\n\r\n")[1]) == MAX_BODY
    assert fault(CHUNKED + chunk + b"1\r\na\r\n0\r\n\r\n").status == 413


def test_a_body_in_the_smallest_chunks_is_accepted() -> None:
    assert request(CHUNKED + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")[1] == b"a" * 10_000


def test_a_dropped_body_is_not_kept_and_the_next_request_is_read() -> None:
    for body in (
        b"Content-Length: 50000\r\n\r\n" + b"a" * 50_000,
        CHUNKED[len(HEAD) :] + b"1\r\na\r\n0\r\n\r\n",
    ):
        http = parser()
        head_bytes = (HEAD + body).index(b"\r\n\r\n") + 4
        http.feed((HEAD + body)[:head_bytes])
        assert isinstance(http.take(), RequestStart)
        http.skip_body()
        results = parsed([(HEAD + body)[head_bytes:] + NEXT], http)
        assert results[0] == b""
        assert http.held == 0
        assert [each.head.path for each in results if isinstance(each, RequestStart)] == ["/next"]


def test_to_drop_a_body_that_was_parsed_already_does_not_touch_the_next_one() -> None:
    http = parser()
    second = HEAD + b"Content-Length: 6\r\n\r\nsecond"
    http.feed(HEAD + b"Content-Length: 5\r\n\r\nfirst" + second[:-3])
    assert isinstance(http.take(), RequestStart)
    http.skip_body()
    http.take()
    assert isinstance(http.take(), RequestStart)
    assert parsed([second[-3:]], http) == [b"second"]


def test_of_many_requests_at_once_few_are_parsed_ahead() -> None:
    http = parser()
    http.feed(NEXT * 1000)
    assert isinstance(http.take(), RequestStart)
    assert http.unparsed > len(NEXT) * 950
    assert http.take() == b""
    results = []
    while (result := http.take()) is not None:
        results.append(result)
    assert len(results) == 2 * 999


def test_other_limits_are_applied_from_then_on() -> None:
    http = parser()
    http.reconfigure(max_head_bytes=MAX_HEAD, max_fields=1, max_body_bytes=1)
    assert parsed([HEAD + b"Content-Length: 1\r\n\r\n"], http) == [
        Fault(431, f"the request has more than 1 headers ({setting('http.max_fields')})")
    ]


@pytest.mark.parametrize("seed", range(20))
def test_how_bytes_are_cut_changes_nothing_whatever_they_are(seed: int) -> None:
    rng = random.Random(seed)
    samples = [*REFUSED.values(), NEXT, CHUNKED + b"2;x=y\r\nab\r\n0\r\nA: b\r\n\r\n"]
    samples.append(HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc")
    for _ in range(40):
        data = bytearray(b"".join(rng.choices(samples, k=rng.randrange(1, 4))))
        for _ in range(rng.randrange(4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randrange(3)] = rng.choice(
                [b"", b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"0", b"\xff", NEXT]
            )
        if data:
            all_same(bytes(data))
