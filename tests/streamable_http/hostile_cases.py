"""What is known to smuggle requests past proxies, or to confuse parsers, and what is to come of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from tests.streamable_http.raw_http import (
    DISCOVER,
    DISCOVERING,
    adding,
    discover,
    mcp_fields,
    message,
    request,
    sized,
)

#: What no request may add to.
STREAM: Final = "smuggled:orders"
SMUGGLED: Final = adding(STREAM)
CHUNKED: Final = b"Transfer-Encoding: chunked"
#: The body of a request as one chunk, without the last.
CHUNK: Final = b"%x\r\n%b\r\n" % (len(DISCOVER), DISCOVER)
LENGTH: Final = sized(DISCOVER)
KIB: Final = 1024
#: Longer ones are sent in a thousand pieces.
BYTE_BY_BYTE: Final = 4 * KIB
REFUSED: Final = (400,)


@attrs.frozen
class Case:
    """What is sent, and what is to come of it.

    Attributes:
        name: What it is.
        data: Its bytes.
        statuses: Of each response in turn, what it may be.
        closes: Whether the connection ends with it; None where both are right.
        method: Of its first request.
        is_whole: Whether a request is over at its end. Otherwise nothing follows it but the end.
        is_long: Whether it is sent in one piece only.
    """

    name: str
    data: bytes
    statuses: Sequence[Sequence[int]]
    closes: bool | None
    method: bytes = b"POST"
    is_whole: bool = True
    is_long: bool = False


def refused(name: str, data: bytes, *statuses: int, method: bytes = b"POST", is_long: bool = False) -> Case:
    """A request after which nothing is served: one response, and the end."""
    return Case(name, data, [statuses or REFUSED], closes=True, method=method, is_long=is_long)


def served(name: str, data: bytes, *statuses: int, method: bytes = b"POST", is_long: bool = False) -> Case:
    """A request that is correct HTTP: one response, and the connection goes on."""
    return Case(name, data, [statuses or (200,)], closes=False, method=method, is_long=is_long)


def either(name: str, data: bytes, *statuses: int, method: bytes = b"POST") -> Case:
    """A request that is correct HTTP and not served, which may end the connection."""
    return Case(name, data, [statuses], closes=None, method=method)


def unfinished(name: str, data: bytes, *statuses: int) -> Case:
    """What is no whole request when the client says that it sends nothing more."""
    return Case(name, data, [statuses] if statuses else [], closes=True, is_whole=False)


def posted(*fields: bytes, body: bytes = DISCOVER, **line: bytes) -> bytes:
    """Return a request that would be served, with other header lines for its length."""
    return request(fields=[*DISCOVERING, *fields], body=body, **line)


def chunked(body: bytes) -> bytes:
    """Return a request with a body in chunks, given as it is sent."""
    return posted(CHUNKED, body=body)


def named(field: bytes) -> bytes:
    """Return a request with one more header line."""
    return discover(field)


def hosted(*lines: bytes, target: bytes = b"/mcp", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a request with these lines for its host."""
    return posted(*lines, LENGTH, host=None, target=target, version=version)


def aimed(target: bytes) -> bytes:
    """Return a request for another target."""
    return posted(LENGTH, target=target)


def replaced(old: bytes, new: bytes) -> bytes:
    """Return a request that would be served, with something else in one place."""
    whole = discover()
    assert old in whole
    return whole.replace(old, new, 1)


def two_lengths() -> Iterator[Case]:
    """Content-Length beside Transfer-Encoding, or several, or what is no number."""
    for order, fields in (("CL.TE", (LENGTH, CHUNKED)), ("TE.CL", (CHUNKED, LENGTH))):
        yield refused(order, posted(*fields, body=CHUNK + b"0\r\n\r\n" + SMUGGLED))
    yield refused(
        "CL.TE, empty chunked body", posted(b"Content-Length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED)
    )
    yield refused("CL.TE, zero length", posted(b"Content-Length: 0", CHUNKED, body=CHUNK + b"0\r\n\r\n"))
    for name, value in (
        ("a list of the same", b"%d, %d" % (len(DISCOVER), len(DISCOVER))),
        ("a list of others", b"%d, 0" % len(DISCOVER)),
        ("plus", b"+%d" % len(DISCOVER)),
        ("hexadecimal", b"0x%x" % len(DISCOVER)),
        ("negative", b"-1"),
        ("two numbers", b"1 1"),
        ("a tab within", b"1\t0"),
        ("nothing", b""),
        ("exponent", b"1e2"),
        ("fraction", b"1.0"),
        ("parameter", b"%d;x" % len(DISCOVER)),
        ("underscore", b"1_0"),
        ("quoted", b'"%d"' % len(DISCOVER)),
        ("other digits", "٣".encode()),
        ("vertical tab", b"\x0b%d" % len(DISCOVER)),
        ("beyond 64 bits", b"18446744073709551617"),
        ("a thousand digits", b"9" * 1000),
    ):
        yield refused(f"CL: {name}", posted(b"Content-Length: " + value, body=DISCOVER + SMUGGLED), 400, 413)
    yield refused("CL twice, the same", posted(LENGTH, LENGTH))
    yield refused("CL twice, others", posted(LENGTH, b"Content-Length: 0", body=DISCOVER + SMUGGLED))
    yield refused("CL of 64 bits", posted(b"Content-Length: 18446744073709551615"), 400, 413)
    yield refused("CL beyond the limit", posted(b"Content-Length: 9999999"), 413)
    yield served("CL between spaces and tabs", posted(b"Content-Length: \t %d \t " % len(DISCOVER)))
    yield served("CL with leading zeros", posted(b"Content-Length: 000%d" % len(DISCOVER)))
    yield served("CL in other case", posted(b"cOnTeNt-LeNgTh: %d" % len(DISCOVER)))
    yield served("no length, so no body", posted(body=b""), 400)


def transfer_encodings() -> Iterator[Case]:
    """Transfer-Encoding that is not just chunked, or is hidden from one of two readers."""
    body = CHUNK + b"0\r\n\r\n"
    for name, fields in (
        ("TE.TE, identity second", (CHUNKED, b"Transfer-Encoding: identity")),
        ("TE.TE, identity first", (b"Transfer-Encoding: identity", CHUNKED)),
        ("TE.TE, twice the same", (CHUNKED, CHUNKED)),
        ("TE.TE, other case and unknown", (CHUNKED, b"Transfer-encoding: x")),
        ("xchunked", (b"Transfer-Encoding: xchunked",)),
        ("chunkedx", (b"Transfer-Encoding: chunkedx",)),
        ("identity", (b"Transfer-Encoding: identity",)),
        ("list, chunked last", (b"Transfer-Encoding: gzip, chunked",)),
        ("list, chunked first", (b"Transfer-Encoding: chunked, identity",)),
        ("list, chunked twice", (b"Transfer-Encoding: chunked, chunked",)),
        ("list with an empty element", (b"Transfer-Encoding: ,chunked",)),
        ("list with an empty end", (b"Transfer-Encoding: chunked,",)),
        ("parameter", (b"Transfer-Encoding: chunked;q=1",)),
        ("quoted", (b'Transfer-Encoding: "chunked"',)),
        ("a tab within", (b"Transfer-Encoding: chun\tked",)),
        ("a vertical tab", (b"Transfer-Encoding: \x0bchunked",)),
        ("a form feed behind", (b"Transfer-Encoding: chunked\x0c",)),
        ("a no-break space", (b"Transfer-Encoding: \xa0chunked",)),
        ("nothing", (b"Transfer-Encoding:",)),
        ("a space before the colon", (b"Transfer-Encoding : chunked",)),
        ("a tab before the colon", (b"Transfer-Encoding\t: chunked",)),
        ("folded", (b"Transfer-Encoding:\r\n chunked",)),
        ("behind a bare LF", (b"X: y\nTransfer-Encoding: chunked",)),
        ("behind a bare CR", (b"X: y\rTransfer-Encoding: chunked",)),
        ("a space before the name", (b" Transfer-Encoding: chunked",)),
    ):
        yield refused(f"TE: {name}", posted(*fields, body=body + SMUGGLED), 400, 501)
        if "colon" in name or "bare" in name or "folded" in name:
            yield refused(f"TE: {name}, with CL", posted(LENGTH, *fields, body=DISCOVER + SMUGGLED))
    yield served("TE: other case", posted(b"tRANSFER-eNCODING: cHUNKED", body=body))
    yield served("TE: behind tabs", posted(b"Transfer-Encoding:\t\t chunked", body=body))
    # Correct, but a reader that does not cut it off sees another value.
    yield refused("TE: before a tab", posted(b"Transfer-Encoding: chunked\t", body=body))
    yield refused("TE in HTTP/1.0", posted(CHUNKED, body=body + SMUGGLED, version=b"HTTP/1.0"))
    yield refused(
        "TE in HTTP/1.0 to keep", posted(CHUNKED, b"Connection: keep-alive", body=body, version=b"HTTP/1.0")
    )
    yield served("TE with underscores is another header", posted(LENGTH, b"Transfer_Encoding: chunked"))


def chunks() -> Iterator[Case]:
    """The syntax of chunks."""
    end = b"0\r\n\r\n"
    size, rest = b"%x" % len(DISCOVER), b"\r\n" + DISCOVER + b"\r\n"
    for name, body in (
        ("size beyond 64 bits", b"f" * 16 + b"1\r\n"),
        ("negative size", b"-1" + rest + end),
        ("size with plus", b"+" + size + rest + end),
        ("size with 0x", b"0x" + size + rest + end),
        ("a space before the size", b" " + size + rest + end),
        ("a tab behind the size", size + b"\t" + rest + end),
        ("no size", rest + end),
        ("a bare LF behind the size", size + b"\n" + DISCOVER + b"\r\n" + end),
        ("a bare CR behind the size", size + b"\r" + DISCOVER + b"\r\n" + end),
        ("a bare LF in an extension", size + b";x=a\nb" + rest + end),
        ("a quoted LF in an extension", size + b';x="a\nb"' + rest + end),
        ("a quoted CR LF in an extension", size + b';x="a\r\nb"' + rest + end),
        ("NUL in an extension", size + b";x=\0" + rest + end),
        ("no CR LF behind the data", size + b"\r\n" + DISCOVER + end + end),
        ("a bare LF behind the data", size + b"\r\n" + DISCOVER + b"\n" + end),
        ("more data than its size", b"1\r\n" + DISCOVER + b"\r\n" + end),
        ("a bare LF at the end", CHUNK + b"0\n\n"),
        ("a trailer that is no header", CHUNK + b"0\r\nx y\r\n\r\n"),
        ("a folded trailer", CHUNK + b"0\r\nX: y\r\n z\r\n\r\n"),
    ):
        yield refused(f"chunk: {name}", chunked(body + SMUGGLED), 400, 413)
    yield served("chunk: small ones", chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in DISCOVER) + end))
    yield served("chunk: upper case and zeros", chunked(b"0000" + size.upper() + rest + end))
    yield served("chunk: an extension", chunked(size + b";name=value" + rest + b"0;x\r\n\r\n"))
    yield served("chunk: a quoted extension", chunked(size + b';name="a;b"' + rest + end))
    yield served("chunk: several zeros at the end", chunked(CHUNK + b"000\r\n\r\n"))
    for name, trailer in (
        ("that means nothing", b"X-Checksum: 1"),
        ("Content-Length", b"Content-Length: 5"),
        ("Transfer-Encoding", b"Transfer-Encoding: chunked"),
        ("Host", b"Host: evil.example"),
        ("Authorization", b"Authorization: Bearer x"),
        ("Connection", b"Connection: close"),
        ("Mcp-Method", b"Mcp-Method: tools/call"),
        ("Expect", b"Expect: 100-continue"),
    ):
        # They are not merged into the head, so that nothing is decided by them.
        yield either(f"trailer: {name}", chunked(CHUNK + b"0\r\n" + trailer + b"\r\n\r\n"), 200, 400)
    yield refused(
        "chunk: a long extension", chunked(size + b";x=" + b"y" * 64 * KIB + rest + end), 400, 413, 431
    )
    yield refused(
        "trailers: too many", chunked(CHUNK + b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"), 400, 413, 431
    )
    yield refused("chunk: ten thousand zeros", chunked(b"0" * 100_000 + size + rest + end), 400, 413, 431)
    yield unfinished("chunk: size of 64 bits", chunked(b"f" * 16 + rest + end))
    yield unfinished("chunk: no last one", chunked(CHUNK))
    yield unfinished("chunk: no end of the last one", chunked(CHUNK + b"0\r\n"))
    yield unfinished("chunk: half of one", chunked(CHUNK[:-20]))


def lines() -> Iterator[Case]:
    """Ends of lines, whitespace, and bytes that no line has."""
    whole = discover()
    yield refused("bare LF everywhere", whole.replace(b"\r\n", b"\n"))
    yield refused("bare LF behind the request line", replaced(b"HTTP/1.1\r\n", b"HTTP/1.1\n"))
    yield refused("bare LF at the end of the head", replaced(b"\r\n\r\n", b"\r\n\n"))
    yield refused("bare LF before the end of the head", replaced(b"\r\n\r\n", b"\n\r\n"))
    yield refused("bare CR behind the request line", replaced(b"HTTP/1.1\r\n", b"HTTP/1.1\r"))
    yield refused("bare CR at the end of the head", replaced(b"\r\n\r\n", b"\r\n\r"))
    yield refused("two CR", replaced(b"HTTP/1.1\r\n", b"HTTP/1.1\r\r\n"))
    yield refused("bare CR in a value", named(b"X: a\rb"))
    yield refused("bare LF in a value", named(b"X: a\nb"))
    yield refused("NUL in a value", named(b"X: a\0b"))
    yield refused("DEL in a value", named(b"X: a\x7fb"))
    yield refused("control in a value", named(b"X: a\x01b"))
    yield refused("escape in a value", named(b"X: a\x1b[2Jb"))
    yield refused("NUL in a name", named(b"X\0Y: b"))
    yield refused("folded value", named(b"X: a\r\n b"))
    yield refused("folded by a tab", named(b"X: a\r\n\tb"))
    yield refused("folded empty line", named(b"X: a\r\n \r\nY: b"))
    yield refused(
        "folded first line", request(host=b" Host: localhost", fields=[*DISCOVERING, LENGTH], body=DISCOVER)
    )
    yield refused("space before the colon", named(b"X : a"))
    yield refused("tab before the colon", named(b"X\t: a"))
    yield refused("space in a name", named(b"X Y: a"))
    yield refused("no name", named(b": a"))
    yield refused("no colon", named(b"X"))
    for odd in (b"(", b")", b"@", b"[", b'"', b"/", b"\x80", b"\xff", "é".encode(), b",", b"{"):
        yield refused(f"name with {odd!r}", named(b"X%bY: a" % odd))
    for fine in (b"!", b"#", b"$", b"'", b"*", b"^", b"`", b"|", b"~", b"_"):
        yield served(f"name with {fine!r}", named(b"X%bY: a" % fine))
    yield served("empty value", named(b"X:"))
    yield served("tab in a value", named(b"X: a\tb"))
    yield served("one empty line before", b"\r\n" + whole)
    yield refused("spaces before the method", b"  " + whole, 400, 501)
    yield refused("NUL before the method", b"\0" + whole, 400, 501)
    yield served("UTF-8 value", named("X: é\u202e".encode()))
    yield served("latin-1 value", named(b"X: \xe9\xff"))


def targets() -> Iterator[Case]:
    """Targets, and methods and versions beside them."""
    yield served("absolute form", aimed(b"http://localhost/mcp"))
    yield either("absolute form in other case", aimed(b"HTTP://LOCALHOST/mcp"), 200, 400)
    yield either(
        "absolute form with another Host",
        hosted(b"Host: evil.example", target=b"http://localhost/mcp"),
        200,
        400,
        421,
    )
    yield either("absolute form of another host", aimed(b"http://evil.example/mcp"), 421)
    yield either("absolute form with userinfo", aimed(b"http://localhost@evil.example/mcp"), 400, 421)
    yield either(
        "absolute form with userinfo of another", aimed(b"http://evil.example@localhost/mcp"), 400, 421
    )
    yield either("absolute form without a host", aimed(b"http:///mcp"), 400, 421)
    yield either("absolute form of another scheme", aimed(b"ftp://localhost/mcp"), 400, 421)
    yield refused("authority form", aimed(b"localhost:80"))
    yield either("asterisk", aimed(b"*"), 400, 404)
    yield refused("no target", aimed(b""))
    yield refused("space in the target", aimed(b"/mcp /x"))
    yield refused("tab in the target", aimed(b"/mcp\t/x"))
    yield refused("NUL in the target", aimed(b"/mcp\0"))
    yield refused("bare LF in the target", aimed(b"/mcp\n"))
    yield either("bytes above ASCII in the target", aimed(b"/mcp\xff"), 400, 404)
    yield either("UTF-8 in the target", aimed("/mcp\u202e".encode()), 400, 404)
    yield either("fragment", aimed(b"/mcp#x"), 400, 404)
    yield refused("tab before the version", replaced(b" HTTP/1.1", b"\tHTTP/1.1"))
    for target in (
        b"//mcp",
        b"/mcp/",
        b"/%6dcp",
        b"/mcp%00",
        b"/x/../mcp",
        b"/mcp;x",
        b"/mcp%0d%0aX:%20y",
        b"/MCP",
    ):
        yield either(f"target {target!r}", aimed(target), 404)
    yield served("query", aimed(b"/mcp?a=b&c"))
    yield refused("target of 64 KiB", aimed(b"/" + b"x" * 64 * KIB), 414, 431)
    for version in (b"HTTP/1.2", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.10", b"HTTP/1,1"):
        yield refused(f"version {version!r}", posted(LENGTH, version=version), 400, 505)
    for version in (
        b"http/1.1",
        b"HTTP /1.1",
        b"HTTP/1.1 ",
        b"HTTP/ 1.1",
        b"ICE/1.0",
        b"XTTP/1.1",
    ):
        yield refused(f"version {version!r}", posted(LENGTH, version=version), 400, 505)
    # llhttp takes it for HTTP/1.0.
    yield Case("version of RTSP", posted(LENGTH, version=b"RTSP/1.0"), [(200, 400, 505)], closes=True)
    yield refused("HTTP/0.9", b"GET /mcp\r\n\r\n", 400, 505, method=b"GET")
    yield refused("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400, 505)
    yield refused("a greeting of TLS", bytes.fromhex("16030100c8010000c40303") + bytes(190), 400, 501)
    yield refused("a line of JSON", DISCOVER + b"\n", 400, 501)
    yield refused("SOCKS", b"\x05\x01\x00", 400, 501)


def methods() -> Iterator[Case]:
    """Methods that nobody needs, and those that make something else of a connection."""
    host = b"Host: localhost"
    yield refused("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\n%b\r\n\r\n" % host, 400, 405, 501)
    yield refused(
        "CONNECT with a body",
        b"CONNECT evil.example:80 HTTP/1.1\r\n%b\r\n\r\n" % host + SMUGGLED,
        400,
        405,
        421,
        501,
    )
    for method in (b"TRACE", b"PUT", b"PATCH", b"OPTIONS", b"DELETE", b"GET", b"HEAD", b"PROPFIND"):
        empty = request(method, fields=DISCOVERING)
        yield either(f"{method.decode()}", empty, 204, 405, 501, method=method)
    for method in (b"post", b"FOO", b"POST\0", b"PO ST", b"P\xffST", b"", b"X" * 5000):
        yield refused(f"method {method[:9]!r}", method + posted(LENGTH)[4:], 400, 405, 431, 501)
    yield either(
        "OPTIONS *", b"OPTIONS * HTTP/1.1\r\n%b\r\n\r\n" % host, 204, 400, 404, 405, method=b"OPTIONS"
    )
    upgrade = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    yield served("upgrade to h2c", discover(*upgrade), 200)
    socket_fields = (
        *(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"),
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    yield either(
        "upgrade to websocket", request(b"GET", fields=[*DISCOVERING, *socket_fields]), 405, method=b"GET"
    )


def hosts() -> Iterator[Case]:
    """Host: one, and a name that is ours."""
    ours = b"Host: localhost"
    yield refused("no Host", hosted())
    yield refused("Host twice", hosted(ours, ours))
    yield refused("Host twice, others", hosted(ours, b"Host: evil.example"))
    yield refused("Host twice, ours last", hosted(b"Host: evil.example", ours))
    for value in (
        *(b"", b"a b", b"local/host", b"localhost:80:80", b"user@localhost", b"[::1"),
        *(
            b"localhost, evil.example",
            b"localhost:x",
            b"localhost?x",
            b"localhost#x",
            b"\xff",
            "ⓛocalhost".encode(),
        ),
        *(b"http://localhost", b"localhost\\evil.example", b"localhost%00.evil.example", b"localhost:"),
    ):
        yield either(f"Host: {value!r}", hosted(b"Host: " + value), 400, 421)
    for value in (
        b"evil.example",
        b"localhost.evil.example",
        b"127.0.0.1.evil.example",
        b"0.0.0.0",
        b"2130706433",
    ):
        yield either(f"Host: {value!r}", hosted(b"Host: " + value), 421)
    for value in (b"LOCALHOST", b"127.0.0.1", b"[::1]", b"localhost:80", b"localhost:99999"):
        yield served(f"Host: {value!r}", hosted(b"Host: " + value))


def connections() -> Iterator[Case]:
    """What a request says about its connection."""
    for value in (b"close", b"CLOSE", b"close, keep-alive", b"keep-alive, close", b"x,close", b"\tclose"):
        yield Case(f"Connection: {value!r}", discover(b"Connection: " + value), [(200,)], closes=True)
    yield Case(
        "Connection twice", discover(b"Connection: keep-alive", b"Connection: close"), [(200,)], closes=True
    )
    for value in (b"keep-alive", b"x", b"Host, Content-Length", b"closed", b""):
        yield served(f"Connection: {value!r}", discover(b"Connection: " + value))
    yield either("Proxy-Connection", discover(b"Proxy-Connection: close"), 200)
    yield Case("HTTP/1.0", posted(LENGTH, version=b"HTTP/1.0"), [(200,)], closes=True)
    yield served("HTTP/1.0 to keep", posted(LENGTH, b"Connection: keep-alive", version=b"HTTP/1.0"))
    yield refused("Expect something else", discover(b"Expect: 200-ok"), 417)
    yield Case(
        "Expect in HTTP/1.0",
        posted(LENGTH, b"Expect: 100-continue", version=b"HTTP/1.0"),
        [(200,)],
        closes=True,
    )
    yield refused("Expect of what is refused", hosted(b"Host: evil.example", b"Expect: 100-continue"), 421)
    yield refused(
        "Expect of what is too long",
        posted(b"Content-Length: 99999999", b"Expect: 100-continue", body=b""),
        413,
    )


def bodies() -> Iterator[Case]:
    """Requests within bodies, which are no requests."""
    yield served("a request in a body", posted(sized(SMUGGLED), body=SMUGGLED), 400)
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT"):
        data = request(method, fields=[*DISCOVERING, sized(SMUGGLED)], body=SMUGGLED)
        yield either(f"a request in the body of {method.decode()}", data, 204, 405, method=method)
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
        data = request(method, fields=[*DISCOVERING, CHUNKED], body=body)
        yield either(f"a request in chunks of {method.decode()}", data, 204, 405, method=method)
    yield served("no JSON", posted(b"Content-Length: 1", body=b"{"), 400)
    yield served("no UTF-8", posted(b"Content-Length: 4", body=b'"\xff\xfe"'), 400)
    yield unfinished("half a head", discover()[:60])
    yield unfinished("a head alone", posted(LENGTH, body=b""))
    yield unfinished("half a body", discover()[:-20])
    yield unfinished("nothing", b"")
    yield unfinished("empty lines", b"\r\n")


def sizes() -> Iterator[Case]:
    """What is beyond a limit."""
    yield refused("a header of 64 KiB", named(b"X: " + b"y" * 64 * KIB), 431)
    yield refused("a name of 64 KiB", named(b"X" * 64 * KIB + b": y"), 400, 431)
    yield refused("a hundred headers", discover(*[b"X-%d: y" % number for number in range(100)]), 431)
    yield refused("ten thousand headers", discover(*[b"X: y"] * 10_000), 431)
    endless = request(fields=[*DISCOVERING, b"X: " + b"y" * 200 * KIB]).removesuffix(b"\r\n\r\n")
    yield refused("a header that does not end", endless, 431)
    yield refused(
        "a body of 9 MiB", posted(sized(b"x" * 9_437_184), body=b"x" * 9_437_184), 413, is_long=True
    )
    parts = b"10000\r\n%b\r\n" % (b"x" * 65536) * 144
    yield refused("chunks of 9 MiB", chunked(parts + b"0\r\n\r\n"), 413, is_long=True)
    yield served("many empty lines before", b"\r\n" * 50_000 + discover())


def echoes() -> Iterator[Case]:
    """What could come back in the head of a response."""
    crlf = "\r\nX-Injected: 1\r\n\r\n"
    for method in (f"x{crlf}", "x\ud800", "x\u2028", "é"):
        body = message(method, "é\r\nX-Injected: 1")
        yield served(
            f"method {method[:6]!r} in the body",
            request(fields=[*mcp_fields("x"), sized(body)], body=body),
            400,
            404,
        )
    for origin in (
        b"http://evil.example",
        b"null",
        b"http://localhost.evil.example",
        b"\xff",
        b"http://evil.example%0d%0aX: y",
    ):
        yield either(f"Origin: {origin!r}", named(b"Origin: " + origin), 403)
    for value in (b"x%0d%0aX-Injected: 1", b"\xff" * 64, b"x" * 8000, b"<script>alert(1)</script>"):
        yield served(f"Mcp-Session-Id: {value[:9]!r}", named(b"Mcp-Session-Id: " + value), 200, 404)


CASES: Final = [
    case
    for part in (
        *(two_lengths, transfer_encodings, chunks, lines, targets, methods),
        *(hosts, connections, bodies, sizes, echoes),
    )
    for case in part()
]
