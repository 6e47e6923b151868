"""The lines of the polite client and of attackers as requests of Streamable HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from tests.bench.load import template
from tests.bench.peers import ENTRY, MODERN, line
from tests.bench.streamable_http import head
from tests.fairness.rows import HANDSHAKE, Crowd, Row

#: A peer may have 1,024 connections.
MOST_CONNECTIONS: Final = 1_000
#: What an id takes in the attacker's requests, and its mark.
_ID, _MARK = 10, b"@ID@"


def http_head(line: bytes) -> str:
    """Return the head of the request that a line becomes: with its method and name, as far as it has them."""
    body = line.removesuffix(b"\n")
    try:
        message = json.loads(body.replace(_MARK, b"1"))
        method, params = message["method"], message["params"]
    except ValueError:
        # What is sent of it names the stream it is for.
        stream = body.partition(b'"stream": "')[2] or body.partition(b'"stream":"')[2]
        arguments = {"stream": stream.partition(b'"')[0].decode()}
        method, params = "tools/call", {"name": "stream_add", "arguments": arguments}
    name = params.get("name", params.get("uri"))
    stream = params.get("arguments", {}).get("stream")
    length = len(body) + body.count(_MARK) * (_ID - len(_MARK))
    if not line.endswith(b"\n"):
        # A message that does not end.
        length += 100
    return f"{head(method, name, stream).decode()}Content-Length: {length}\r\n\r\n"


def over_http(crowd: Crowd) -> Crowd:
    """Return the same over HTTP: a connection for each of several in flight, as far as a peer may have them.

    Who does not read keeps them on one: there the answers are to pile up. Unless they wait, all connections
    are answered before the attack counts: a thousand that come at once stand before others in the backlog.
    """
    if crowd.lines[0].startswith((b"GET ", b"POST ")):
        return crowd
    lines = [http_head(line).encode() + line.removesuffix(b"\n") for line in crowd.lines]
    if not crowd.reads:
        return attrs.evolve(crowd, lines=lines)
    connections = min(crowd.connections * crowd.depth, max(MOST_CONNECTIONS, crowd.connections))
    settles = crowd.settles or not any(b'"stream_wait"' in line for line in lines)
    return attrs.evolve(crowd, lines=lines, connections=connections, depth=1, settles=settles)


def _long_ids() -> Sequence[Crowd]:
    call = template("stream_list", {}, meta=MODERN)
    return [Crowd([call.replace(b"@ID@", b'"' + b"x" * (1 << 20) + b'"')], 4)]


def _sessions() -> Sequence[Crowd]:
    body = line("initialize", HANDSHAKE, 1).removesuffix(b"\n")
    fields = (
        "Host: localhost:8000",
        "Content-Type: application/json",
        "Accept: application/json, text/event-stream",
        f"Content-Length: {len(body)}",
    )
    return [Crowd(["\r\n".join(("POST /mcp HTTP/1.1", *fields, "", "")).encode() + body], 50)]


def _one_after_the_other(entries: int) -> Callable[[], Sequence[Crowd]]:
    call = template("stream_add", _added(entries), meta=MODERN)
    return lambda: [Crowd([call], 50)]


def _added(entries: int) -> dict[str, object]:
    return {"stream": "greedy:orders", "entries": [ENTRY] * entries, "max_length": 10_000}


#: Attackers that there are over HTTP only.
HTTP_ROWS: Sequence[Row] = (
    Row(
        "60",
        "4 connections with 2,000 requests each on the way that are refused at their heads",
        lambda: [Crowd([b"GET /no HTTP/1.1\r\nHost: localhost\r\n\r\n"], 4, 2_000)],
    ),
    Row("61", "calls whose ids are texts of 1 MiB, on 4 connections", _long_ids),
    Row("62", "50 connections that add an entry, one call after the other", _one_after_the_other(1)),
    Row("63", "50 connections that add 100 entries, one call after the other", _one_after_the_other(100)),
    Row("70", "50 connections that begin a session with each request, which is never used", _sessions),
)
