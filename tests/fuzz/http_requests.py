"""Makes requests of Streamable HTTP: as clients send them, and what becomes of them by mutation."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final

import attrs

from tests.fuzz.mutations import TEXTS, damaged
from tests.fuzz.requests import Lines
from tests.support.mcp_client import HANDSHAKE, EraName, enveloped

_VERSIONS: Final = {"modern": "2026-07-28", "handshake": "2025-11-25"}
#: Headers that decide something, with values that are nearly right.
_FIELDS: Final[Sequence[tuple[str, Sequence[str]]]] = (
    ("Host", ("localhost", "127.0.0.1:1", "evil.example", "", "localhost, localhost", "[::1]")),
    ("Content-Length", ("0", "1", "-1", "99999999", "4194304", "+5", "5, 5")),
    ("Transfer-Encoding", ("chunked", "identity", "chunked, chunked", "gzip", "")),
    ("Content-Type", ("application/json", "text/plain", "application/json; charset=latin-1", "", "a/b;c")),
    ("Accept", ("*/*", "text/event-stream", "application/json;q=0", "application/json", ";;", "")),
    ("Connection", ("close", "keep-alive", "upgrade", "x, close", "host")),
    ("Expect", ("100-continue", "1", "")),
    ("Upgrade", ("h2c", "websocket", "")),
    ("Origin", ("null", "http://localhost", "http://evil.example", "http://[")),
    ("Authorization", ("Bearer x", "Bearer", "Basic eDp5", "Bearer " + "x" * 5_000)),
    ("MCP-Protocol-Version", ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "1", "")),
    ("Mcp-Session-Id", ("x", "", "\x7f", "x" * 300)),
    ("Last-Event-ID", ("0", "x", "-1", "1-1", "9" * 40)),
    ("Mcp-Method", ("tools/call", "tools/list", "", "=?base64?eA==?=", "=?base64?*?=")),
    ("Mcp-Name", ("stream_add", "", "=?base64?c3RyZWFtX2FkZA==?=", "=?base64?/w==?=", "=?base64?")),
    ("Mcp-Param-Stream", ("fuzz:a:one", "", "=?base64?/w==?=", "x\ty")),
    ("X-Other", ("", "\t", "é", "x" * 4_000)),
)


@attrs.define
class Requests:
    """Makes the requests of one connection.

    Attributes:
        lines: Makes their bodies.
        session: The session that the server opened, if it has.
    """

    lines: Lines
    session: str = ""

    @property
    def rng(self) -> random.Random:
        """The source of all of them."""
        return self.lines.rng

    def opening(self) -> bytes:
        """Return a request that is in order: what a client begins with."""
        modern = self.lines.era == "modern"
        method, params = ("server/discover", enveloped({})) if modern else ("initialize", HANDSHAKE)
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": method, "params": params}).encode()
        fields = [*self._fields(body), ("Content-Length", str(len(body)))]
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields if name != "Mcp-Session-Id")
        return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body

    def request(self) -> bytes:
        """Return one request, or what is meant to be one."""
        rng = self.rng
        body = self.lines.line().rstrip(b"\r\n")
        fields = self._fields(body)
        method = rng.choice(("POST",) * 40 + ("GET", "DELETE", "HEAD", "OPTIONS", "PUT", "TRACE", "post"))
        target = rng.choice(
            ("/mcp",) * 40 + ("/mcp?a=%00", "/", "/healthz", "/metrics", "http://localhost/mcp", "*")
        )
        length = [("Content-Length", str(len(body)))]
        if rng.random() < 0.2:
            length, body = [("Transfer-Encoding", "chunked")], self._chunks(body)
        fields += length
        for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 5))):
            self._mutate(fields)
        version = rng.choice(("HTTP/1.1",) * 60 + ("HTTP/1.0", "HTTP/2.0", ""))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        data = f"{method} {target} {version}\r\n{head}\r\n".encode("latin-1", "replace") + body
        return damaged(rng, data) if rng.random() < 0.1 else data

    def _fields(self, body: bytes) -> list[tuple[str, str]]:
        """Return headers that fit to the body, as far as it is a message."""
        fields = [
            ("Host", "localhost"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
            ("MCP-Protocol-Version", _VERSIONS[self.lines.era]),
        ]
        if self.session and self.lines.era == "handshake":
            fields.append(("Mcp-Session-Id", self.session))
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return fields
        if not isinstance(message, dict):
            return fields
        params = message.get("params") if isinstance(message.get("params"), dict) else {}
        arguments = params.get("arguments") if isinstance(params.get("arguments"), dict) else {}
        for name, value in (
            ("Mcp-Method", message.get("method")),
            ("Mcp-Name", params.get("name", params.get("uri"))),
            ("Mcp-Param-Stream", arguments.get("stream")),
        ):
            if isinstance(value, str):
                fields.append((name, value))
        return fields

    def _mutate(self, fields: list[tuple[str, Any]]) -> None:
        rng = self.rng
        place = rng.randrange(len(fields))
        match rng.randrange(6):
            case 0 if len(fields) > 1:
                del fields[place]
            case 1:
                fields.append(rng.choice(fields))
            case 2:
                fields[place] = (fields[place][0], rng.choice(TEXTS))
            case 3:
                fields[place] = (fields[place][0] + rng.choice((" ", "\t", "\x00", "-")), fields[place][1])
            case _:
                name, values = rng.choice(_FIELDS)
                fields.insert(place, (name, rng.choice(values)))

    def _chunks(self, body: bytes) -> bytes:
        rng, chunks, place = self.rng, b"", 0
        while place < len(body):
            size = rng.choice((1, 7, 100, 5_000))
            part = body[place : place + size]
            chunks += b"%x%b\r\n%b\r\n" % (len(part), rng.choice((b"", b"", b";x=y", b';"')), part)
            place += size
        return chunks + b"0\r\n" + rng.choice((b"", b"", b"X: y\r\n", b"Content-Length: 1\r\n")) + b"\r\n"


def requests(rng: random.Random, era: EraName, tools: Any) -> Requests:
    """Return what makes the requests of a connection in an era."""
    return Requests(Lines(rng, era, tools))
