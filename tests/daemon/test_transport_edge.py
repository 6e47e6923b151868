"""What a client may send that is no plain message: one table, over every transport and in both eras.

Whatever it is, the connection lives on, and every request is answered once, by its id where there is one.
Only what shows that its sender does not speak MCP ends the connection.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from redstreamd.mcpio.openings import BYTE_ORDER_MARK, REDIS_ERROR, TLS_ALERT
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.mcp_client import HANDSHAKE, EraName, enveloped
from tests.support.servers import Server, free_port, start_redis
from tests.support.transports import TRANSPORTS, Channel

ERAS: tuple[EraName, ...] = ("handshake", "modern")
LIMIT: Final = 65_536
#: An error repeats little of a request.
LONGEST_ERROR: Final = 4_096
#: Lines up to this length are also sent byte by byte.
SHORT: Final = 250
#: They must not be longer than half a message.
SMALL_RESULTS: Final = ("--set", "tools.max_result_bytes=32768")
PROMPT: Final = "diagnose-stream"
LONG: Final = "x" * (LIMIT - 2_000)
Answer = tuple[Any, int | str, str]
"""An id, the code of an error or of a failed call, and words of it; the code is 0 for a result."""


@attrs.frozen
class Case:
    """What is sent within a session.

    Attributes:
        note: What it is about.
        sent: One line or several, without the last newline.
        answers: What is answered.
        in_order: Whether it is answered in this order; tasks end in any.
    """

    note: str
    sent: bytes
    answers: tuple[Answer, ...]
    in_order: bool = False


class Speaker:
    """Writes messages as a client of one era does."""

    def __init__(self, era: EraName) -> None:
        self.era = era

    def request(self, request_id: Any, method: str, params: Any = None) -> bytes:
        """Return the line of a request, without its newline."""
        if self.era == "modern" and (params is None or isinstance(params, dict)):
            params = enveloped(params) if not isinstance((params or {}).get("_meta", {}), int) else params
        message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        return json.dumps(message if params is None else {**message, "params": params}).encode()

    def ping(self, request_id: str) -> bytes:
        """Return the line of a request with a short answer."""
        return self.request(request_id, "ping" if self.era == "handshake" else "server/discover")

    def opening(self) -> list[bytes]:
        """Return the lines that show the era; the first is answered."""
        if self.era == "modern":
            return [self.request("opening", "server/discover")]
        ready = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        return [self.request("opening", "initialize", HANDSHAKE), ready]

    def cases(self) -> Iterator[Case]:
        """Iterate over the table."""
        yield from self.whitespace()
        yield from self.too_long()
        yield from self.echoes()
        yield from self.malformed()
        yield from self.repeated()
        yield from self.again()

    def whitespace(self) -> Iterator[Case]:
        ping = self.ping("p")
        call = self.request("c", "tools/call", {"name": "stream_list", "arguments": {}})
        for note, blank in (("nothing", b""), ("spaces", b" \t "), ("a carriage return", b"\r")):
            yield Case(f"a blank line: {note}", blank, ())
        yield Case("blank lines around", b"\n\r\n" + ping + b"\n \n", (("p", 0, ""),))
        yield Case("CRLF", ping + b"\r", (("p", 0, ""),))
        yield Case("CRLF after a plain call", call + b"\r", (("c", 0, ""),))
        yield Case("whitespace around", b" \t" + call + b" \r", (("c", 0, ""),))

    def too_long(self) -> Iterator[Case]:
        text = "x" * (3 * LIMIT)
        padding = f'"padding":"{text}"'
        near, far = "y" * 3_900, "y" * 4_096
        for note, members, request_id in (
            ("its id first", f'"id":"i",{padding}', "i"),
            ("its id a number", f'"id":-7,{padding}', -7),
            ("its id after others", f'"a":{{"id":1}},"b":["}}",{{"id":2}}],"id":"i",{padding}', "i"),
            ("its id within 4 KiB", f'"a":"{near}","id":"i",{padding}', "i"),
            ("its id beyond 4 KiB", f'"a":"{far}","id":"i",{padding}', None),
            ("its id last", f'{padding},"id":"i"', None),
            ("two ids", f'"id":1,"id":2,{padding}', None),
            ("an id in its params", f'"params":{{"id":1,{padding}}}', None),
            ("an id in a text", f'"a":"\\",\\"id\\":1,","b":"{text}"', None),
            ("an id that is none", f'"id":[1],{padding}', None),
            ("half an id", f'"a":"{near}","id":"{text}"', None),
            ("no id", padding, None),
        ):
            line = f'{{"jsonrpc":"2.0",{members},"method":"ping"}}'.encode()
            yield Case(f"too long, {note}", line, ((request_id, -32600, "limits.max_message_bytes"),))
        long = f'{{"jsonrpc":"2.0","id":"i","method":"ping",{padding}}}'.encode()
        before, behind = self.ping("before"), self.ping("behind")
        answers = ("i", -32600, "bytes"), ("behind", 0, "")
        yield Case("too long, another behind", long + b"\n" + behind, answers)
        answers = ("before", 0, ""), ("i", -32600, "bytes")
        yield Case("too long, another before", before + b"\n" + long, answers)
        one, two = b'{"jsonrpc":"2.0","id":1}', b'{"jsonrpc":"2.0","id":2}'
        answers = (1, -32600, "method"), ("i", -32600, "bytes"), (2, -32600, "method")
        sent = b"\n".join([one, long, two])
        yield Case("too long, between two that are refused", sent, answers, in_order=True)
        other = long.replace(b'"id":"i"', b'"id":"j"')
        answers = ("i", -32600, "bytes"), ("j", -32600, "bytes")
        yield Case("two that are too long", long + b"\n" + other, answers, in_order=True)
        batch = b"[" + long + b"]"
        yield Case("a batch that is too long", batch, ((None, -32600, "bytes"),))
        answer = f'{{"jsonrpc":"2.0","id":"i","result":{{{padding}}}}}'.encode()
        yield Case("an answer that is too long", answer, ())
        yield Case("no JSON that is too long", text.encode(), ((None, -32600, "bytes"),))
        within = f'"padding":"{"x" * (LIMIT - 1_000)}"'
        line = self.ping("i")[:-1] + f",{within}}}".encode()
        yield Case("not too long", line, (("i", 0, ""),))

    def echoes(self) -> Iterator[Case]:
        tool = {"name": "stream_read", "arguments": {"stream": "s"}}
        for note, method, params, code in (
            ("method", LONG, {}, -32601),
            ("tool", "tools/call", {"name": LONG}, -32602),
            ("argument's name", "tools/call", {**tool, "arguments": {LONG: 1}}, "INVALID_ARGUMENT"),
            ("argument's value", "tools/call", {**tool, "arguments": {"stream": LONG}}, "INVALID_STREAM"),
            ("resource", "resources/read", {"uri": LONG}, None),
            ("stream of a resource", "resources/read", {"uri": f"redstream://streams/{LONG}"}, None),
            ("cursor", "tools/list", {"cursor": LONG}, -32602),
            ("cursor of resources", "resources/list", {"cursor": LONG}, -32602),
            ("prompt", "prompts/get", {"name": LONG}, -32602),
            (
                "prompt's argument",
                "prompts/get",
                {"name": PROMPT, "arguments": {LONG: ""}},
                -32602,
            ),
            (
                "completed argument",
                "completion/complete",
                {
                    "ref": {"type": "ref/prompt", "name": PROMPT},
                    "argument": {"name": LONG, "value": ""},
                },
                -32602,
            ),
            (
                "completed prompt",
                "completion/complete",
                {"ref": {"type": "ref/prompt", "name": LONG}, "argument": {"name": "a", "value": ""}},
                -32602,
            ),
        ):
            if code is None:
                code = -32002 if self.era == "handshake" else -32602
            yield Case(f"a long name: {note}", self.request("i", method, params), (("i", code, ""),))
        for name, line in (
            ("in the message", f'{{"jsonrpc":"2.0","id":"i","{LONG[:30000]}":1,"{LONG[:30000]}":2}}'),
            (
                "in params",
                f'{{"jsonrpc":"2.0","id":"i","method":"ping","params":{{"{LONG[:30000]}":1,"{LONG[:30000]}":2}}}}',
            ),
        ):
            yield Case(f"a long name twice {name}", line.encode(), (("i", -32600, "twice"),))
        if self.era == "modern":
            meta = {"io.modelcontextprotocol/protocolVersion": LONG}
            line = self.request("i", "tools/list", {"_meta": meta})
            yield Case("a long revision", line, (("i", -32022, ""),))
            line = self.request("i", "initialize", {"protocolVersion": LONG})
            yield Case("a handshake with a long revision", line, (("i", -32022, ""),))

    def malformed(self) -> Iterator[Case]:
        read = {"name": "stream_list", "arguments": {}}
        prompt = {"type": "ref/prompt", "name": PROMPT}
        for method, params, words in (
            ("tools/call", {}, "params.name is missing"),
            ("tools/call", {"name": 5}, "params.name must be a string"),
            ("tools/call", {"name": "stream_list", "arguments": []}, "params.arguments must be an object"),
            (
                "tools/call",
                {"name": "stream_list", "arguments": "SECRET"},
                "params.arguments must be an object",
            ),
            (
                "tools/call",
                {**read, "_meta": {"progressToken": []}},
                "progressToken must be a string or an integer",
            ),
            ("tools/list", {"cursor": 5}, "params.cursor must be a string"),
            ("tools/list", {"_meta": 5}, "params._meta must be an object"),
            ("resources/read", {}, "params.uri is missing"),
            ("resources/read", {"uri": ["SECRET"]}, "params.uri must be a string"),
            ("prompts/get", {}, "params.name is missing"),
            (
                "prompts/get",
                {"name": PROMPT, "arguments": {"stream": 5}},
                "params.arguments.stream must",
            ),
            ("completion/complete", {}, "params.argument is missing; params.ref is missing"),
            (
                "completion/complete",
                {"ref": prompt, "argument": {"name": "a"}},
                "params.argument.value is missing",
            ),
            (
                "completion/complete",
                {"ref": {"type": "SECRET"}, "argument": {"name": "a", "value": "b"}},
                "params.ref.type must be 'ref/prompt' or 'ref/resource'",
            ),
            ("tools/list", [1], "params must be an object, not an array"),
            ("tools/call", ["stream_list"], "params must be an object, not an array"),
        ):
            line = self.request("i", method, params)
            yield Case(f"malformed {method} {params}", line, (("i", -32602, words),))
        if self.era == "modern":
            params = {"notifications": {"resourceSubscriptions": ["a", 5]}}
            words = "params.notifications.resourceSubscriptions[1] must be a string"
            yield Case(
                "a malformed listen",
                self.request("i", "subscriptions/listen", params),
                (("i", -32602, words),),
            )
        else:
            for method in ("resources/subscribe", "resources/unsubscribe"):
                line = self.request("i", method, {"uri": 5})
                yield Case(f"malformed {method}", line, (("i", -32602, "params.uri must be a string"),))

    def repeated(self) -> Iterator[Case]:
        call = self.request("i", "tools/call", {"name": "stream_list", "arguments": {"pattern": "TWICE"}})
        read = {"name": "stream_read", "arguments": {"stream": "s", "filter": {"a": "TWICE"}}}
        wait = {"name": "stream_wait", "arguments": {"streams": ["s"], "filter": {"a": "TWICE"}}}
        add = {"name": "stream_add", "arguments": {"stream": "s", "entries": [{"a": "TWICE"}]}}
        get = self.request("i", "prompts/get", {"name": PROMPT, "arguments": {"stream": "TWICE"}})
        twice = (b'"TWICE"', b'{"a":{"b":1,"b":1}}')
        for note, line, code, words in (
            ("in the message", call.replace(b'"id"', b'"method":"ping","id"'), -32600, "'method' twice"),
            ("in params", call.replace(b'"name"', b'"name":"x","name"', 1), -32600, "'params.name' twice"),
            (
                "in _meta",
                self.request("i", "ping", {"_meta": {"a": "TWICE"}}).replace(*twice),
                -32600,
                "'params._meta.a.a.b' twice",
            ),
            ("in a prompt's arguments", get.replace(*twice), -32600, "'params.arguments.stream.a.b' twice"),
            (
                "in arguments",
                call.replace(b'"pattern"', b'"count":1,"count":1,"pattern"'),
                "INVALID_ARGUMENT",
                "count",
            ),
            (
                "deep in arguments",
                self.request("i", "tools/call", read).replace(*twice),
                "INVALID_ARGUMENT",
                "'filter.a.a.b' is named twice",
            ),
            (
                "deep in the arguments of a wait",
                self.request("i", "tools/call", wait).replace(*twice),
                "INVALID_ARGUMENT",
                "'filter.a.a.b' is named twice",
            ),
            (
                "deep in an entry",
                self.request("i", "tools/call", add).replace(*twice),
                "INVALID_ARGUMENT",
                "'b' occurs twice",
            ),
        ):
            yield Case(f"a name twice {note}", line, (("i", code, words),))
        if self.era == "modern":
            line = call.replace(b'"version"', b'"version":"1","version"')
            yield Case("a name twice in clientInfo", line, (("i", -32600, "clientInfo.version' twice"),))

    def again(self) -> Iterator[Case]:
        answer = ("i", -32600, "initialized already") if self.era == "handshake" else ("i", -32022, "")
        yield Case("another initialize", self.request("i", "initialize", HANDSHAKE), (answer,))
        line = self.request("i", "initialize", {**HANDSHAKE, "protocolVersion": "2024-11-05"})
        yield Case("another initialize with another revision", line, (answer,))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A Redis of this module's own."""
    with start_redis() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(server: Server) -> Iterator[Daemon]:
    """A daemon on a Unix socket and a TCP port, which takes short messages only."""
    port = free_port()
    with home() as place:
        listen = f"unix:{place}/redstreamd/mcp.sock", f"tcp:127.0.0.1:{port}"
        options = [word for each in listen for word in ("--listen", each)]
        options += ["--set", f"limits.max_message_bytes={LIMIT}", *SMALL_RESULTS]
        with running_daemon(server, *options, directory=place) as running:
            yield running


def outcome(message: dict[str, Any]) -> tuple[Any, int | str, str]:
    """Return the id of an answer, its code, and all that it says."""
    said = json.dumps(message, ensure_ascii=False)
    if "error" in message:
        return message["id"], message["error"]["code"], message["error"]["message"] + said
    result = message["result"]
    if result.get("isError"):
        return message["id"], result["structuredContent"]["code"], said
    return message["id"], 0, said


def check(case: Case, answers: list[dict[str, Any]]) -> None:
    """Compare the answers with the case's."""
    got, expected = list(map(outcome, answers)), list(case.answers)
    if not case.in_order:
        got.sort(key=repr)
        expected.sort(key=repr)
    assert [each[:2] for each in got] == [each[:2] for each in expected], (case.note, got)
    for (_, code, said), (_, _, words) in zip(got, expected, strict=True):
        assert words in said, (case.note, said)
        assert "SECRET" not in said
        assert code == 0 or len(said) < 2 * LONGEST_ERROR, (case.note, len(said))


def converse(channel: Channel, speaker: Speaker, case: Case, delivery: str) -> None:
    """Send a case in one of the ways in which a network delivers it, and check what comes."""
    end = speaker.ping("the end")
    head, tail = case.sent + b"\n", end + b"\n"
    if delivery == "with trailing data":
        # The next message has begun when this one is read.
        channel.send(head + tail[:20])
        channel.send(tail[20:])
    else:
        channel.send(head, byte_by_byte=delivery == "byte by byte")
        channel.send(tail)
    answers: list[dict[str, Any]] = []
    while len(answers) < len(case.answers) + 1:
        answers.append(channel.message())
    # The ping may be answered before a call of a tool.
    check(case, [answer for answer in answers if answer.get("id") != "the end"])
    assert any(answer.get("id") == "the end" and "result" in answer for answer in answers)


@pytest.mark.limit(180)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_lives_on_whatever_is_sent(
    daemon: Daemon, server: Server, transport: str, era: EraName
) -> None:
    speaker = Speaker(era)
    with TRANSPORTS[transport](daemon, server) as channel:
        for line in speaker.opening():
            channel.send(line + b"\n")
        assert "result" in channel.message()
        for case in speaker.cases():
            deliveries = ["whole", "with trailing data"]
            if len(case.sent) <= SHORT:
                deliveries.append("byte by byte")
            for delivery in deliveries:
                converse(channel, speaker, case, delivery)


@attrs.frozen
class Opening:
    """What a connection begins with.

    Attributes:
        sent: The bytes.
        answer: What is answered: bytes as they are, or as in `Case`.
        ends: Whether that ends the connection.
    """

    sent: bytes
    answer: bytes | tuple[Answer, ...]
    ends: bool


HELLO: Final = Speaker("handshake").request("hello", "initialize", HANDSHAKE)
BODY: Final = Speaker("modern").request("i", "tools/call", {"name": "stream_add", "arguments": {}})
POST: Final = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n" + BODY + b"\n"
NO_HTTP: Final = ((None, -32700, "this is not an HTTP server"),)
NO_TEXT: Final = ((None, -32700, "this is not text"),)
OPENINGS: Final = {
    "TLS": Opening(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), TLS_ALERT, True),
    "the protocol of Redis": Opening(b"*1\r\n$4\r\nPING\r\n", REDIS_ERROR, True),
    "bytes that are no text": Opening(bytes(8), NO_TEXT, True),
    "a byte order mark": Opening(BYTE_ORDER_MARK + HELLO + b"\r\n", (("hello", 0, ""),), False),
    "HTTP": Opening(POST, NO_HTTP, True),
    "HTTP/2": Opening(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), NO_HTTP, True),
    "HTTP with a long URL": Opening(POST.replace(b"/mcp", b"/" + b"x" * 2 * LIMIT), NO_HTTP, True),
    "UTF-16": Opening((HELLO + b"\n").decode().encode("utf-16"), NO_TEXT, True),
    "blank lines": Opening(b"\n\r\n \n" + HELLO + b"\n", (("hello", 0, ""),), False),
    "text that is no JSON": Opening(
        b"hello\n" + HELLO + b"\n", ((None, -32700, ""), ("hello", 0, "")), False
    ),
    "a message that is too long": Opening(
        HELLO.replace(b'"hello"', b'"long"')[:-1] + b" " * LIMIT + b"}\n" + HELLO + b"\n",
        (("long", -32600, ""), ("hello", 0, "")),
        False,
    ),
    "handshakes": Opening(
        # One that fails may be repeated, one that succeeded may not, nor while the first is in flight.
        b"".join(
            line + b"\n"
            for line in (
                HELLO.replace(b'"2025-11-25"', b"5").replace(b'"hello"', b'"first"'),
                HELLO,
                HELLO.replace(b'"hello"', b'"third"'),
            )
        ),
        (("first", -32602, "protocolVersion"), ("hello", 0, ""), ("third", -32600, "initialized already")),
        False,
    ),
}
#: Each of these starts a daemon for itself, so they see what has to do with bytes, in one delivery.
STARTING: Final = ("stdio", "inetd")
FEW: Final = ("TLS", "the protocol of Redis", "bytes that are no text", "a byte order mark", "handshakes")


def opening_deliveries() -> Iterator[tuple[str, str, str]]:
    """Iterate over transport, case and delivery."""
    for transport in TRANSPORTS:
        for name, opening in OPENINGS.items():
            if transport not in STARTING:
                yield transport, name, "whole"
                yield transport, name, "with trailing data"
            if (name in FEW or transport not in STARTING) and len(opening.sent) < 2_000:
                yield transport, name, "byte by byte"


@pytest.mark.parametrize(("transport", "name", "delivery"), list(opening_deliveries()))
def test_what_a_connection_begins_with_ends_it_only_if_it_is_not_mcp(
    daemon: Daemon, server: Server, transport: str, name: str, delivery: str
) -> None:
    opening = OPENINGS[name]
    with TRANSPORTS[transport](daemon, server) as channel:
        # It may be answered and closed before all of it is sent.
        with contextlib.suppress(ConnectionError):
            channel.send(opening.sent, byte_by_byte=delivery == "byte by byte")
            if delivery == "with trailing data" and opening.ends:
                channel.send(b"\x00more" * 1_000 + b"\n" + BODY + b"\n")
        if isinstance(opening.answer, bytes):
            assert channel.rest() == opening.answer
            return
        answers = [channel.message() for _ in opening.answer]
        check(Case(name, opening.sent, opening.answer, in_order=True), answers)
        if opening.ends:
            assert channel.rest() == b""
        else:
            channel.send(b'{"jsonrpc":"2.0","id":"end","method":"ping"}\n')
            assert channel.message() == {"jsonrpc": "2.0", "id": "end", "result": {}}


def test_the_administrator_is_told_who_does_not_speak_mcp_and_who_sends_too_much(server: Server) -> None:
    with running_daemon(server, "--set", f"limits.max_message_bytes={LIMIT}", *SMALL_RESULTS) as daemon:
        for name in ("TLS", "the protocol of Redis", "bytes that are no text", "a message that is too long"):
            for _ in range(3):
                with TRANSPORTS["Unix socket"](daemon, server) as channel:
                    channel.send(OPENINGS[name].sent)
                    channel.receive()
        daemon.stop()
        for words in ("spoke TLS", "spoke the protocol of Redis", "is not text", "skipped a message of"):
            first, more = [line for line in daemon.log.splitlines() if words in line]
            assert "WARNING" in first
            assert "2 more" in more


def test_a_line_without_end_takes_no_memory_and_is_told_before_its_end(
    daemon: Daemon, server: Server
) -> None:
    status = Path(f"/proc/{daemon.process.pid}/status")

    def kib() -> int:
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status.read_text())[0])

    with TRANSPORTS["Unix socket"](daemon, server) as channel:
        channel.send(HELLO + b"\n")
        channel.message()
        before = kib()
        channel.send(b'{"jsonrpc":"2.0","id":"endless","method":"ping","params":{"a":"' + b"x" * LIMIT)
        assert outcome(channel.message())[:2] == ("endless", -32600)
        for _ in range(100):
            channel.send(b"x" * (1 << 20))
        # It has read all but what a socket holds.
        assert kib() - before < 8 * 1024
        channel.send(b'"}}\n{"jsonrpc":"2.0","id":"end","method":"ping"}\n')
        assert channel.message() == {"jsonrpc": "2.0", "id": "end", "result": {}}
