"""The least that a server of pure Python does for those who wait: `stream_wait` and subscriptions.

As `floor`: a task for each connection, which reads, decodes, and notes who waits from which cursor. One
connection to Redis, with tracking, is told of a change, and then reads once for all who wait at a place. What
they are told is encoded once, and written to each at once. There are no deadlines, no limits, no
cancellation, no accounts and no turns: what it takes is the floor beneath the daemon's figures of waiting.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis
import msgspec
import trio

_OPENING: Final = b'{"jsonrpc":"2.0","id":'
#: A server's answer to `initialize`.
_GREETING: Final = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}, "resources": {"subscribe": True}},
    "serverInfo": {"name": "floor", "version": "0"},
}
_URI: Final = "redstream://streams/"


class _Wait(msgspec.Struct):
    streams: list[str]
    cursor: str
    timeout_seconds: float = 20.0


class _Request(msgspec.Struct):
    method: str
    params: msgspec.Raw = msgspec.Raw()
    id: int | str | None = None


class _Params(msgspec.Struct):
    arguments: msgspec.Raw = msgspec.Raw()
    uri: str = ""


_decode = msgspec.json.Decoder(_Request).decode
_decode_params = msgspec.json.Decoder(_Params).decode
_decode_wait = msgspec.json.Decoder(_Wait).decode
_encode = msgspec.json.Encoder().encode


class _Client(msgspec.Struct, eq=False):
    descriptor: int

    def send(self, line: bytes) -> None:
        # What it is sent is less than its socket takes. It may have gone.
        with contextlib.suppress(OSError):
            os.write(self.descriptor, line)


_Place = list[tuple[_Client, int | str]]


class Floor:
    """The server."""

    def __init__(self, redis: trio.SocketStream) -> None:
        """Serve from a connection to Redis."""
        # Kept, because it closes its descriptor with itself.
        self._stream = redis
        self._redis = redis.socket.fileno()
        # Who waits: by stream and cursor. A stream that is here is tracked.
        self._places: dict[str, dict[str, _Place]] = {}
        self._subscribers: dict[str, list[_Client]] = {}
        # What takes each reply to come.
        self._awaited: deque[Callable[[Any], None]] = deque()
        self._command("HELLO", "3", then=_ignored)
        self._command("CLIENT", "TRACKING", "ON", then=_ignored)

    def _command(self, *words: str, then: Callable[[Any], None]) -> None:
        self._awaited.append(then)
        os.write(self._redis, hiredis.pack_command(words))  # type: ignore[arg-type]

    async def read_replies(self) -> None:
        """Take what Redis replies and tells."""
        reader = hiredis.Reader(notEnoughData=None)
        while True:
            await trio.lowlevel.wait_readable(self._redis)
            reader.feed(os.read(self._redis, 65536))
            while (reply := reader.gets()) is not None:
                if isinstance(reply, hiredis.PushNotification):
                    if reply[1] is None:
                        # The server was flushed, and others come.
                        self._places.clear()
                        self._subscribers.clear()
                    for name in reply[1] or ():
                        self._changed(name.decode())
                else:
                    self._awaited.popleft()(reply)

    def _changed(self, stream: str) -> None:
        for cursor in self._places.get(stream, ()):
            self._look(stream, cursor)
        if subscribers := self._subscribers.get(stream):
            self._command("EXISTS", stream, then=_ignored)
            params = {"uri": _URI + stream}
            told = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params}
            line = _encode(told) + b"\n"
            for client in subscribers:
                client.send(line)

    def _look(self, stream: str, cursor: str) -> None:
        """Read what a place waits for; to read it tracks the stream, too."""

        def found(entries: list[Any]) -> None:
            places = self._places.get(stream, {})
            if entries and (place := places.pop(cursor, None)):
                self._tell(place, entries)

        self._command("XRANGE", stream, f"({cursor}", "+", "COUNT", "10", then=found)

    def _tell(self, place: _Place, entries: list[Any]) -> None:
        shown = []
        for entry_id, flat in entries:
            words = [word.decode() for word in flat]
            fields = dict(zip(words[::2], words[1::2], strict=True))
            shown.append({"id": entry_id.decode(), "fields": fields})
        body = _encode({"entries": shown, "next_cursor": shown[-1]["id"], "timed_out": False})
        text = _encode(body.decode())
        content = b'{"content":[{"type":"text","text":%b}],"structuredContent":%b,' % (text, body)
        for client, request_id in place:
            parts = (_OPENING, _encode(request_id), b',"result":', content, b'"isError":false}}\n')
            client.send(b"".join(parts))

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one client."""
        client = _Client(stream.socket.fileno())
        rest = b""
        while True:
            await trio.lowlevel.wait_readable(client.descriptor)
            data = os.read(client.descriptor, 65536)
            if not data:
                client.descriptor = -1
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(client, line)

    def _take(self, client: _Client, line: bytes) -> None:
        request = _decode(line)
        if request.id is None:
            return
        if request.method == "tools/call":
            wait = _decode_wait(_decode_params(request.params).arguments)
            places = self._places.setdefault(wait.streams[0], {})
            place = places.get(wait.cursor)
            if place is None:
                place = places[wait.cursor] = []
                self._look(wait.streams[0], wait.cursor)
            place.append((client, request.id))
            return
        result: object = _GREETING
        if request.method == "resources/subscribe":
            name = _decode_params(request.params).uri.removeprefix(_URI)
            subscribers = self._subscribers.setdefault(name, [])
            subscribers.append(client)
            self._command("EXISTS", name, then=_ignored)
            result = {}
        client.send(_encode({"jsonrpc": "2.0", "id": request.id, "result": result}) + b"\n")


def _ignored(_reply: Any) -> None: ...


async def main(path: str, redis_path: str) -> None:
    """Listen on a Unix socket, until the process is ended."""
    floor = Floor(await trio.open_unix_socket(redis_path))
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(path)
    listener.listen(4096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(floor.read_replies)
        await trio.serve_listeners(floor.serve, [trio.SocketListener(listener)], handler_nursery=nursery)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
