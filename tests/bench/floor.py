"""The least that a server of pure Python does for a call: what is left of redstreamd without redstreamd.

Plain trio, hiredis and msgspec. A task for each connection, all lines of a wake-up handled before one send to
Redis, answers written from the reader of Redis's replies, one send to each client. It decodes the call, names
of members checked for repetition by a count of colons, and stores and shows the same entries as redstreamd.
There are no limits, no cancellation, no deadlines, no accounts, no errors: what it does is the floor beneath
the daemon's figures, on the same machine and in the same run. It serves `stream_add` and `stream_read`, as
far as the load of this bench asks for them.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Any

import hiredis
import msgspec
import trio


class _Params(msgspec.Struct):
    name: str
    arguments: msgspec.Raw
    meta: msgspec.Raw = msgspec.field(default=msgspec.Raw(), name="_meta")


class _Request(msgspec.Struct):
    method: str
    params: Any = None
    id: int | str | None = None


class _Call(msgspec.Struct, forbid_unknown_fields=True):
    jsonrpc: str
    id: int | str
    method: str
    params: _Params


class _Add(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    entries: list[dict[str, str]]


class _Read(msgspec.Struct, forbid_unknown_fields=True):
    stream: str
    count: int


_decode_call = msgspec.json.Decoder(_Call).decode
_decode_add = msgspec.json.Decoder(_Add).decode
_decode_read = msgspec.json.Decoder(_Read).decode
_decode_request = msgspec.json.Decoder(_Request).decode
_encode = msgspec.json.Encoder().encode

_OWN = ("_rs.v", "1", "_rs.sender", "unix")
_PARTS = (
    b'{"jsonrpc":"2.0","id":',
    b',"result":{"content":[{"type":"text","text":',
    b'}],"structuredContent":',
    b',"isError":false}}\n',
)
#: A server's answer to `initialize`.
_GREETING = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "floor", "version": "0"},
}


def _answer(request_id: int | str, value: object) -> bytes:
    body = _encode(value)
    opened, result, structured, end = _PARTS
    return b"".join((opened, _encode(request_id), result, _encode(body.decode()), structured, body, end))


class _Client:
    """A connection, and what is to be sent to it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.descriptor = stream.socket.fileno()
        self.answers: list[bytes] = []


class Floor(trio.abc.Instrument):
    """The server."""

    def __init__(self, redis: trio.SocketStream) -> None:
        """Serve from a connection to Redis."""
        # Kept, because it closes its descriptor with itself.
        self._stream = redis
        self._redis = redis.socket.fileno()
        self._commands: list[bytes] = []
        # For each reply to come: whose, the id, how many replies there are for the call, and what makes the
        # answer of the last of them.
        self._awaited: deque[tuple[_Client, int | str, Callable[[list[Any]], object], int]] = deque()
        self._replies: list[Any] = []
        self._to_write: list[_Client] = []

    def before_io_wait(self, timeout: float) -> None:
        """Send what a pass has queued."""
        if self._commands:
            data = b"".join(self._commands)
            self._commands.clear()
            _write(self._redis, data)
        for client in self._to_write:
            data = b"".join(client.answers)
            client.answers.clear()
            _write(client.descriptor, data)
        self._to_write.clear()

    async def read_replies(self) -> None:
        """Answer calls as Redis replies."""
        reader = hiredis.Reader(notEnoughData=None)
        awaited, replies = self._awaited, self._replies
        while True:
            await trio.lowlevel.wait_readable(self._redis)
            reader.feed(os.read(self._redis, 65536))
            while (reply := reader.gets()) is not None:
                replies.append(reply)
                client, request_id, make, count = awaited[0]
                if len(replies) == count:
                    awaited.popleft()
                    self._send(client, _answer(request_id, make(replies)))
                    replies.clear()

    def _send(self, client: _Client, line: bytes) -> None:
        if not client.answers:
            self._to_write.append(client)
        client.answers.append(line)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one client."""
        client = _Client(stream)
        rest = b""
        while True:
            await trio.lowlevel.wait_readable(client.descriptor)
            data = os.read(client.descriptor, 65536)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(client, line)

    def _take(self, client: _Client, line: bytes) -> None:
        try:
            call = _decode_call(line)
        except msgspec.MsgspecError:
            request = _decode_request(line)
            if request.id is not None:
                answer = {"jsonrpc": "2.0", "id": request.id, "result": _GREETING}
                self._send(client, _encode(answer) + b"\n")
            return
        params = call.params
        colons = line.count(b":") - bytes(params.meta).count(b":")
        if params.name == "stream_add":
            add = _decode_add(params.arguments)
            # jsonrpc, id, method, params, name, arguments, perhaps _meta; stream, entries.
            own = 8 + bool(params.meta)
            for entry in add.entries:
                words = tuple(chain.from_iterable(entry.items()))
                own += len(entry) + "".join(words).count(":")
                self._commands.append(hiredis.pack_command(("XADD", add.stream, "*", *words, *_OWN)))
            if own + add.stream.count(":") != colons:
                raise ValueError("a member is named twice")
            self._awaited.append((client, call.id, _added, len(add.entries)))
        else:
            read = _decode_read(params.arguments)
            self._commands.append(
                hiredis.pack_command(("XRANGE", read.stream, "-", "+", "COUNT", str(read.count)))
            )
            self._awaited.append((client, call.id, _read, 1))


def _added(replies: list[Any]) -> object:
    return {"ids": [reply.decode() for reply in replies], "duplicate": False}


def _read(replies: list[Any]) -> object:
    entries = []
    for entry_id, flat in replies[0]:
        words = [word.decode() for word in flat[:-4]]
        entries.append({"id": entry_id.decode(), "fields": dict(zip(words[::2], words[1::2], strict=True))})
    return {"entries": entries}


def _write(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Only where an answer is larger than the socket's buffer; the reader of it is another process.
            os.sched_yield()


async def main(path: str, redis_path: str) -> None:
    """Listen on a Unix socket, until the process is ended."""
    floor = Floor(await trio.open_unix_socket(redis_path))
    trio.lowlevel.add_instrument(floor)
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(64)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(floor.read_replies)
        await trio.serve_listeners(floor.serve, [trio.SocketListener(listener)], handler_nursery=nursery)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
