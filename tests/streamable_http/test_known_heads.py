"""A head that equals the one before it means what that meant; everything else is parsed as ever.

Byte by byte no head is recognised, so what comes of bytes in one piece has to be the same.
"""

from __future__ import annotations

import random

import pytest

from redstreamd.streamable_http.http_parser import HttpParser
from redstreamd.streamable_http.known_heads import KnownHead
from redstreamd.streamable_http.request_rules import Fault, RequestStart
from tests.streamable_http.test_http_parser import MAX_BODY, all_same, parsed, parser

FIELDS = b"Host: a.example\r\nContent-Type: application/json\r\nMcp-Name: stream_add\r\n"
NO_PLAIN_LENGTHS = [
    *(
        b"+3",
        b"-3",
        b" 3",
        b"3 ",
        b"\t3",
        b"3_0",
        b"3,3",
        b"0x3",
        b"3.0",
        b"",
        b"three",
        b"\xb2",
        b"03",
        b"3\n",
    ),
    *(b"9" * 9, b"9" * 10, b"9" * 30, str(MAX_BODY + 1).encode()),
    *(b"3\r\nContent-Length: 4", b"3\r", b"3\x00"),
]
LINE = b"POST /mcp HTTP/1.1\r\n"


def post(body: bytes, *, fields: bytes = FIELDS, length: bytes | None = None, line: bytes = LINE) -> bytes:
    digits = str(len(body)).encode() if length is None else length
    return line + fields + b"Content-Length: " + digits + b"\r\n\r\n" + body


@pytest.fixture
def recognised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how many heads are recognised."""
    count = [0]
    take_known = HttpParser._take_known

    def counted(http: HttpParser, head: KnownHead) -> bool:
        taken = take_known(http, head)
        count[0] += taken
        return taken

    monkeypatch.setattr(HttpParser, "_take_known", counted)
    return count


def test_equal_heads_with_bodies_of_other_lengths_are_recognised(recognised: list[int]) -> None:
    bodies = [b"a" * size for size in (3, 3, 1, 120, 0, 4, MAX_BODY)]
    results = parsed([post(body) for body in bodies])
    assert results[1::2] == bodies
    starts = results[::2]
    assert all(isinstance(start, RequestStart) for start in starts)
    for body, start in zip(bodies, starts, strict=True):
        assert start == parsed([post(body)])[0], body[:10]
    assert recognised == [len(bodies) - 1]


def test_many_requests_in_one_piece_are_all_there() -> None:
    bodies = [b"a" * size for size in range(60)]
    assert parsed([post(b"abc"), b"".join(map(post, bodies))])[3::2] == bodies


def test_a_request_that_is_not_whole_is_left_to_llhttp(recognised: list[int]) -> None:
    data = post(b"abc" * 100)
    for cut in range(1, len(data)):
        assert parsed([data, data[:cut], data[cut:]])[3] == b"abc" * 100
    assert recognised == [0]


@pytest.mark.parametrize("length", NO_PLAIN_LENGTHS)
def test_what_is_no_plain_length_is_as_it_is_in_a_first_request(length: bytes) -> None:
    second = post(b"abc", length=length)
    first, again = all_same(second), all_same(post(b"abc") + second)
    assert again[2:] == first


@pytest.mark.parametrize(
    "second",
    [
        post(b"abc", fields=FIELDS.replace(b"a.example", b"b.example")),
        post(b"abc", fields=FIELDS + b"Transfer-Encoding: chunked\r\n"),
        post(b"abc", fields=FIELDS + b"Host: b.example\r\n"),
        post(b"abc", line=b"POST /mcp HTTP/1.0\r\n"),
        post(b"abc", line=b"POST /other HTTP/1.1\r\n"),
        post(b"abc").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1),
        post(b"abc").replace(b"\r\n\r\n", b"\n\n", 1),
        b"\r\n" + post(b"abc"),
        b"\r\n\r\n" + post(b"abc"),
        b" " + post(b"abc"),
        post(b"abc")[1:],
    ],
)
def test_another_head_is_parsed(second: bytes, recognised: list[int]) -> None:
    for _ in range(2):
        assert all_same(post(b"abc") + second + post(b"abc"))[2:4] == all_same(second + post(b"abc"))[:2]
    assert all_same(b"\r\n\r\n" + post(b"abc") + post(b"abc")) == all_same(post(b"abc")) * 2


@pytest.mark.parametrize(
    "fields",
    [
        FIELDS + b"Connection: close\r\n",
        FIELDS + b"Expect: 100-continue\r\n",
        FIELDS + b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    ],
)
def test_what_says_more_than_how_long_the_body_is_is_never_recognised(
    fields: bytes, recognised: list[int]
) -> None:
    parsed([post(b"abc", fields=fields)] * 3)
    assert recognised == [0]


def test_a_body_in_chunks_and_a_request_without_one_are_parsed(recognised: list[int]) -> None:
    chunked = LINE + FIELDS + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert parsed([chunked] * 3)[1::2] == [b"abc"] * 3
    assert parsed([b"GET /healthz HTTP/1.1\r\n" + FIELDS + b"\r\n"] * 3)[1::2] == [b""] * 3
    assert recognised == [0]


def test_other_limits_are_applied_to_heads_that_were_known() -> None:
    http = parser()
    data = post(b"abc" * 10)
    assert len(parsed([data, data], http)) == 4
    http.reconfigure(max_head_bytes=64, max_fields=100, max_body_bytes=MAX_BODY)
    (refused,) = parsed([data], http)
    assert isinstance(refused, Fault)
    assert refused.status == 431


def test_a_body_beyond_the_limit_is_refused_behind_a_known_head() -> None:
    *_, refused = parsed([post(b"abc"), post(b"a" * (MAX_BODY + 1))])
    assert isinstance(refused, Fault)
    assert refused.status == 413


def test_a_head_is_kept_for_as_long_as_nothing_forgets_it() -> None:
    http = parser()
    parsed([post(b"abc")], http)
    assert http._known is not None
    http.forget_head()
    assert http._known is None
    parsed([post(b"abc")], http)
    http.drop()
    assert http._known is None


def test_random_requests_are_the_same_however_they_are_cut(recognised: list[int]) -> None:
    rng = random.Random(7)
    heads = [FIELDS, FIELDS + b"Accept: */*\r\n", FIELDS + b"X: 1\r\nX: 2\r\n"]
    for _ in range(60):
        requests = [
            post(bytes(rng.choices(b"ab \r\n:0", k=rng.randrange(40))), fields=rng.choice(heads))
            for _ in range(8)
        ]
        if rng.random() < 0.5:
            place = rng.randrange(1, len(requests))
            broken = bytearray(requests[place])
            broken[rng.randrange(len(broken))] = rng.choice(b"\x00 \r\n:x9")
            requests[place] = bytes(broken)
        assert parsed(requests) == all_same(b"".join(requests))
    assert recognised[0] > 0


def test_what_is_recognised_is_what_was_understood() -> None:
    first, _, second, body = parsed([post(b"abc"), post(b"abcd")])
    assert isinstance(first, RequestStart)
    assert isinstance(second, RequestStart)
    assert body == b"abcd"
    assert (first.head.fields["content-length"], second.head.fields["content-length"]) == ("3", "4")
    assert {**second.head.fields, "content-length": "3"} == dict(first.head.fields)
    one, _, other, _ = parsed([post(b"abc"), post(b"abc")])
    assert one is other
