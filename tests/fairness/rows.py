"""The attackers: what each does, and what Redis holds for it.

A row is a kind of load that one process puts on a daemon which others use, too. docs/reliability.md has the
table of what was measured beside each.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from tests.bench.load import template
from tests.bench.peers import ENTRY, MODERN, line
from tests.support.servers import Server

MIB = 1 << 20
#: Where the polite client adds and reads.
POLITE_STREAM = "polite:orders"
#: The most that the daemon took at first: bytes, values and depth of a message, and requests in flight.
MESSAGE_BYTES, VALUES, DEPTH, IN_FLIGHT = 8 * MIB, 100_000, 100, 256

HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "attacker", "version": "1"},
}
_HUNDRED = [ENTRY] * 100
_AT_ONCE = 10_000


@attrs.frozen
class Crowd:
    """Connections that do the same.

    Attributes:
        lines: What is sent, in turn: requests with @ID@ for their ids, or any bytes.
        connections: How many.
        depth: Lines that each sends at once; with `repeats` it keeps so many in flight.
        reads: Whether it takes the answers.
        repeats: Whether each answer is followed by another line.
        gap: Seconds from an answer to the line that follows it.
        settles: Whether the attack begins only when all that they sent is answered.
        leaves: Whether it closes the connection once everything is sent, and comes again.
        own_processes: Whether each connection is made by a process of its own, over the Unix socket.
    """

    lines: Sequence[bytes]
    connections: int = 1
    depth: int = 1
    reads: bool = True
    repeats: bool = True
    gap: float = 0.0
    settles: bool = False
    leaves: bool = False
    own_processes: bool = False


@attrs.frozen
class Flood:
    """Entries that are added in Redis itself, not by the daemon.

    Attributes:
        stream: Where.
        at_once: How many in a batch.
        every: Seconds from one batch to the next, or longer if Redis has not answered.
    """

    stream: str
    at_once: int
    every: float


class Promise(enum.Enum):
    """What a row promises besides the times and the memory."""

    STATUS = "`redstreamd status` answers meanwhile"
    WAIT = "another process can wait meanwhile"
    FREED = "its waits are gone a second after it vanished"
    CONNECT = "another process that connects is served at once"


@attrs.frozen
class Row:
    """One attacker.

    Attributes:
        name: Number of the row, and a letter where it has several kinds.
        does: What the attacker does.
        crowds: Its connections; made anew for each run, because some lines are long.
        prepare: Puts into Redis what it needs; told whether it is to be of full size.
        flood: What is added in Redis itself meanwhile.
        also: Further promises of the row.
        is_light: Whether it asks for so little that others may hardly feel it.
        round_ms: What a round of all takes, a turn each, where the polite client is one of so many that it
            asks for more than its share.
    """

    name: str
    does: str
    crowds: Callable[[], Sequence[Crowd]]
    prepare: Callable[[Server, bool], None] = lambda server, full: None
    flood: Flood | None = None
    also: Sequence[Promise] = ()
    is_light: bool = False
    round_ms: float = 0.0


def call(tool: str, **arguments: Any) -> bytes:
    """Return the line of a call, with @ID@ for its id."""
    return template(tool, arguments, meta=MODERN)


def _script(server: Server, script: str, *arguments: object) -> None:
    reply = server.command("EVAL", script, 0, *map(str, arguments))
    assert not isinstance(reply, Exception), reply


def _in_parts(server: Server, script: str, count: int, *arguments: object) -> None:
    """Run a script for each ten thousand; it is told the first and the last number of them.

    A script that runs for five seconds makes Redis refuse commands, those of the polite client among them.
    """
    for first in range(1, count + 1, _AT_ONCE):
        _script(server, script, first, min(first + _AT_ONCE - 1, count), *arguments)


def long_stream(name: str, entries: int, field: str = "x" * 40) -> Callable[[Server, bool], None]:
    """Make a stream of so many entries."""
    script = (
        "for i = ARGV[1], ARGV[2] do"
        " redis.call('XADD', ARGV[3], '*', 'n', i, 'type', 'order', 'text', ARGV[4]) end"
    )
    return lambda server, full: _in_parts(server, script, entries, name, field)


def many_streams(server: Server, full: bool) -> None:
    """Make 100,000 streams, unless they are there."""
    script = (
        "for i = ARGV[1], redis.call('EXISTS', 'crowd:' .. ARGV[1] .. ':orders') == 0 and ARGV[2] or 0 do"
        " redis.call('XADD', 'crowd:' .. i .. ':orders', '*', 'n', i) end"
    )
    _in_parts(server, script, 100_000)


def many_groups(server: Server, full: bool) -> None:
    """Make a stream with 10,000 groups, unless it is there."""
    _script(
        server,
        "if redis.call('EXISTS', 'grouped:orders') == 0 then"
        " for i = 1, 2000 do redis.call('XADD', 'grouped:orders', '*', 'n', i) end"
        " for i = 1, 10000 do redis.call('XGROUP', 'CREATE', 'grouped:orders', 'group:' .. i, 0) end end",
    )


def many_consumers(server: Server, full: bool) -> None:
    """Make a stream with a group of 10,000 consumers, unless it is there."""
    _script(
        server,
        "if redis.call('EXISTS', 'crew:orders') == 0 then"
        " redis.call('XGROUP', 'CREATE', 'crew:orders', 'g', 0, 'MKSTREAM')"
        " for i = 1, 10000 do redis.call('XGROUP', 'CREATECONSUMER', 'crew:orders', 'g', 'w-' .. i) end end",
    )


def many_holders(server: Server, full: bool) -> None:
    """Make a stream with a group whose 10,000 consumers hold an entry each, unless it is there."""
    _script(
        server,
        "if redis.call('EXISTS', 'shared:orders') == 0 then"
        " redis.call('XGROUP', 'CREATE', 'shared:orders', 'g', 0, 'MKSTREAM')"
        " for i = 1, 10000 do redis.call('XADD', 'shared:orders', '*', 'n', i)"
        " redis.call('XREADGROUP', 'GROUP', 'g', 'w-' .. i, 'COUNT', 1, 'STREAMS', 'shared:orders', '>')"
        " end end",
    )


def many_pending(server: Server, full: bool) -> None:
    """Make a stream with a group that has 100,000 pending entries, unless it is there."""
    script = (
        "if ARGV[1] == '1' then redis.call('DEL', 'held:orders')"
        " redis.call('XGROUP', 'CREATE', 'held:orders', 'g', 0, 'MKSTREAM') end"
        " for i = ARGV[1], ARGV[2] do redis.call('XADD', 'held:orders', '*', 'n', i) end"
        " redis.call('XREADGROUP', 'GROUP', 'g', 'worker', 'COUNT', 10000, 'STREAMS', 'held:orders', '>')"
    )
    _in_parts(server, script, 100_000)


def much_taken(server: Server, full: bool) -> None:
    """Make a stream with a group of which another program holds 300,000 entries, unless it is there."""
    script = (
        "if ARGV[1] == '1' then redis.call('DEL', 'taken:orders')"
        " redis.call('XGROUP', 'CREATE', 'taken:orders', 'g', 0, 'MKSTREAM') end"
        " for i = ARGV[1], ARGV[2] do redis.call('XADD', 'taken:orders', '*', 'n', i) end"
        " redis.call('XREADGROUP', 'GROUP', 'g', 'worker', 'COUNT', 10000, 'STREAMS', 'taken:orders', '>')"
    )
    _in_parts(server, script, 300_000)


def wide_entries(server: Server, full: bool) -> None:
    """Make a stream of 100 entries that fill an answer, and the entry 1-1 of 1 MiB at another."""
    long_stream("wide:orders", 100, "x" * 300)(server, full)
    _script(server, "redis.call('XADD', 'megabyte:orders', '1-1', 'text', string.rep('x', ARGV[1]))", MIB)


def large_entry(server: Server, full: bool) -> None:
    """Make a stream whose only entry is of 100 MiB, or of 16 MiB."""
    script = "redis.call('XADD', 'large:orders', '*', 'text', string.rep('x', ARGV[1]))"
    _script(server, script, (100 if full else 16) * MIB)


def _resource(uri: str) -> bytes:
    return line("resources/read", {"uri": uri, "_meta": MODERN}, "@ID@").replace(b'"@ID@"', b"@ID@")


def _completion() -> bytes:
    params = {
        "ref": {"type": "ref/prompt", "name": "drain-a-queue"},
        "argument": {"name": "consumer", "value": "w"},
        "context": {"arguments": {"stream": "crew:orders", "group": "g"}},
        "_meta": MODERN,
    }
    return line("completion/complete", params, "@ID@").replace(b'"@ID@"', b"@ID@")


def _long_wait(**further: Any) -> bytes:
    return call("stream_wait", streams=["quiet:orders"], timeout_seconds=300, **further)


def _filtered() -> bytes:
    return call("stream_read", stream="long:orders", count=100, filter={"type": "invoice"})


def _filtered_waits() -> Iterator[bytes]:
    for number in range(128):
        wanted = {"type": f"invoice {number}"}
        yield call("stream_wait", streams=["busy:orders"], timeout_seconds=60, filter=wanted)


def _take(stream: str) -> bytes:
    return call("work_take", stream=stream, group="g", consumer="me")


def _padded(head: Mapping[str, Any], size: int) -> bytes:
    """Return a call of `stream_add` whose entry is padded to so many bytes of a line."""
    empty = call("stream_add", **head, entries=[{"text": ""}])
    # The id takes ten digits, not four.
    return empty.replace(b'"text":""', b'"text":"' + b"x" * (size - len(empty) - 16) + b'"')


def _many_values() -> bytes:
    entry = {"values": list(range(VALUES - 100))}
    return call("stream_add", stream="values:orders", max_length=4, entries=[entry])


def _long_numbers() -> bytes:
    numbers = {"n": ["@NUMBER@"] * 900}
    return call("stream_add", stream="values:orders", max_length=4, entries=[numbers]).replace(
        b'"@NUMBER@"', b"9" * 4_000
    )


def _deep() -> bytes:
    depth = DEPTH - 20
    deep = json.loads("[" * depth + "]" * depth)
    return call(
        "stream_add", stream="deep:orders", max_length=4, entries=[{"deep": [deep] * (VALUES // depth // 2)}]
    )


def _large_filters() -> Sequence[bytes]:
    one = _long_wait(filter={"type": "@TEXT@"})
    many = {f"field {number}": f"some value {number}" for number in range(20_000)}
    return [
        one.replace(b"@TEXT@", b"x" * (4 * MIB)),
        _long_wait(filter=many),
    ]


def _hostile() -> Sequence[Crowd]:
    ping = line("ping", {}, 7)
    nested = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + b"[" * 100_000 + b"\n"
    huge = [
        call("stream_read", stream=POLITE_STREAM, count=10**30),
        call("stream_wait", streams=["quiet:orders"], timeout_seconds=10**300),
        call("stream_read", stream=POLITE_STREAM, count=1).replace(b'"count":1', b'"count":' + b"9" * 4_000),
        call("stream_read", stream=POLITE_STREAM, start="9" * 100_000),
    ]
    return [
        Crowd([b"x" * (MESSAGE_BYTES + 1000) + b"\n"], gap=0.5),
        Crowd(
            [b'{"jsonrpc":"2.0","id":1,"method":"\xff\xfe\xc0"}\n', b"\x00\x80\n", b"nonsense\n"],
            depth=4,
            gap=0.02,
        ),
        Crowd([nested], gap=0.5),
        Crowd([ping], depth=8, gap=0.1),
        Crowd(huge, depth=4, gap=0.1),
        # 50 connections a second, with half a message each.
        Crowd([call("stream_list")[:50]], connections=5, leaves=True),
    ]


def _adds(
    connections: int, depth: int, *, entries: Sequence[object] = _HUNDRED, own_processes: bool = False
) -> Callable[[], Sequence[Crowd]]:
    return lambda: [
        Crowd(
            [call("stream_add", stream="greedy:orders", entries=entries, max_length=10_000)],
            connections,
            depth,
            own_processes=own_processes,
        )
    ]


ROWS: Sequence[Row] = (
    Row(
        "38",
        "takes no answers of 256 reads on each of 10 connections, and has 1,000 waits when it vanishes",
        lambda: [
            Crowd([call("stream_read", stream="wide:orders", count=100)], 10, IN_FLIGHT, reads=False),
            Crowd([_long_wait()], 10, 100, gap=1.0),
        ],
        long_stream("wide:orders", 100, "x" * 300),
        also=[Promise.FREED],
    ),
    Row("39", "sends what is not allowed", _hostile, is_light=True),
    Row("43a", "adds 100 entries, 256 calls in flight on 1 connection", _adds(1, 256)),
    Row("43b", "adds 100 entries, 256 calls in flight on each of 10 connections", _adds(10, 256)),
    Row("43c", "adds 100 entries, 256 calls in flight on each of 100 connections", _adds(100, 256)),
    Row("44", "adds 100 entries, 64 calls in flight on each of 50 connections", _adds(50, 64)),
    Row(
        "58",
        "50 processes that add an entry, 64 calls in flight each",
        _adds(50, 64, entries=[ENTRY], own_processes=True),
        round_ms=100.0,
    ),
    Row(
        "45a",
        "reads with a filter that nothing matches in 100,000 entries, 64 calls in flight",
        lambda: [Crowd([_filtered()], 1, 64)],
        long_stream("long:orders", 100_000),
    ),
    Row(
        "45b",
        "the same, 256 calls in flight on each of 10 connections",
        lambda: [Crowd([_filtered()], 10, 256)],
        long_stream("long:orders", 100_000),
    ),
    Row(
        "46",
        "128 waits with different filters on a stream with 1,000 new entries a second",
        lambda: [Crowd(list(_filtered_waits()), 1, 128)],
        long_stream("busy:orders", 10),
        Flood("busy:orders", 5, 0.005),
    ),
    Row(
        "47",
        "2,560 waits, repeated, on a stream with 20,000 new entries a second",
        lambda: [Crowd([call("stream_wait", streams=["flooded:orders"], timeout_seconds=60)], 10, 256)],
        long_stream("flooded:orders", 10),
        Flood("flooded:orders", 40, 0.002),
    ),
    Row(
        "48",
        "reads a stream that does not exist, among 100,000 streams, 64 calls in flight",
        lambda: [Crowd([call("stream_read", stream="crowd:0:orders")], 1, 64)],
        many_streams,
    ),
    Row(
        "49",
        "adds to a stream with 10,000 groups and trims it, 256 calls in flight",
        lambda: [
            Crowd([call("stream_add", stream="grouped:orders", entries=[ENTRY], max_length=1000)], 1, 256)
        ],
        many_groups,
    ),
    Row(
        "50",
        "asks for the health of a stream with 10,000 groups, 16 calls in flight",
        lambda: [Crowd([call("stream_health", stream="grouped:orders")], 1, 16)],
        many_groups,
    ),
    Row(
        "51",
        "16 connections read an entry of 100 MiB (`make test`: 16 MiB)",
        lambda: [Crowd([call("stream_read", stream="large:orders")], 16, 1)],
        large_entry,
    ),
    Row("52a", "messages of 100,000 values, 16 in flight", lambda: [Crowd([_many_values()], 4, 4)]),
    Row(
        "52b",
        "messages of 8 MiB, 16 in flight",
        lambda: [Crowd([_padded({"stream": "heavy:orders", "max_length": 4}, MESSAGE_BYTES)], 4, 4)],
    ),
    Row(
        "52c",
        "messages with 100,000 values in arrays of 80 levels, 16 in flight",
        lambda: [Crowd([_deep()], 4, 4)],
    ),
    Row(
        "52d",
        "messages with 900 numbers of 4,000 digits, 16 in flight",
        lambda: [Crowd([_long_numbers()], 4, 4)],
    ),
    Row(
        "53",
        "lists 100,000 streams, 256 calls in flight",
        lambda: [Crowd([call("stream_list")], 1, 256)],
        many_streams,
    ),
    Row(
        "54",
        "4,096 connections of one process, idle after a ping",
        lambda: [Crowd([line("ping", {}, 1)], 4096, repeats=False, settles=True)],
        also=[Promise.STATUS],
    ),
    Row(
        "55",
        "takes no answers: 30 connections with 28 MB of them each",
        lambda: [
            Crowd([call("stream_read", stream="wide:orders", count=100)], 15, IN_FLIGHT, reads=False),
            Crowd([_resource("redstream://streams/megabyte:orders/entries/1-1")], 15, 28, reads=False),
        ],
        wide_entries,
    ),
    Row(
        "56a",
        "40 messages of 8 MiB that do not end",
        lambda: [Crowd([_padded({"stream": "heavy:orders"}, MESSAGE_BYTES - 100)[:-10]], 40, repeats=False)],
    ),
    Row("56b", "400 waits with filters of 4 MiB or 20,000 fields", lambda: [Crowd(_large_filters(), 40, 10)]),
    Row(
        "57",
        "10,240 waits of one process",
        lambda: [
            Crowd(
                [call("stream_wait", streams=["quiet:orders"], timeout_seconds=300)], 40, IN_FLIGHT, gap=0.1
            )
        ],
        also=[Promise.WAIT],
    ),
    Row(
        "64",
        "blank lines: 200,000 on each connection, 100 connections a second",
        lambda: [Crowd([b"\n" * 200_000], 10, leaves=True)],
    ),
    Row(
        "65",
        "1,000 connections a second that are closed once their handshake is sent",
        lambda: [Crowd([line("initialize", HANDSHAKE, 1) + call("stream_list")], 100, leaves=True)],
        also=[Promise.CONNECT],
    ),
    Row(
        "66",
        "completes the name of a consumer of a group that has 10,000, 64 requests in flight",
        lambda: [Crowd([_completion()], 1, 64)],
        many_consumers,
    ),
    Row(
        "67",
        "filters 100,000 pending entries, nothing matches, 64 calls in flight on each of 10 connections",
        lambda: [
            Crowd([call("pending_list", stream="held:orders", group="g", min_idle_seconds=10**6)], 10, 64)
        ],
        many_pending,
    ),
    Row(
        "68",
        "reads what has a URI of 200,000 escaped bytes, 16 requests in flight on each of 4 connections",
        lambda: [Crowd([_resource("redstream://streams/" + "%C3%A9" * 100_000)], 4, 16)],
    ),
    Row(
        "69",
        "reads the daemon's health, 64 requests in flight on each of 10 connections",
        lambda: [Crowd([_resource("redstream://health")], 10, 64)],
    ),
    Row(
        "71",
        "takes work of a group whose 10,000 consumers hold an entry each, 64 calls on each of 10 connections",
        lambda: [Crowd([_take("shared:orders")], 10, 64)],
        many_holders,
    ),
    Row(
        "72",
        "takes work of a group of which others hold 300,000 entries, 64 calls on each of 10 connections",
        lambda: [Crowd([_take("taken:orders")], 10, 64)],
        much_taken,
    ),
)
