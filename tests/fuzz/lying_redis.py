"""A server in front of Redis that lies: replies of wrong types, damaged, cut, large, or not asked for."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Final

import attrs
import hiredis
import trio

from tests.fuzz.mutations import TEXTS, damaged

_ERRORS: Final = (
    "ERR a\u202eb\x1b[2J",
    "LOADING",
    "MOVED 1 \u2066:1",
    "NOPERM this user has no permissions",
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed",
    "NOGROUP No such key",
    "BUSY",
    "NOSCRIPT No matching script.",
    "WRONGTYPE",
    "UNBLOCKED",
    "",
)
#: What announces more than there is, or what no server sends.
_HEADS: Final = (
    b"$536870913\r\n",
    b"$99999999999999999999\r\n",
    b"$-2\r\n",
    b"*2147483647\r\n",
    b"%1000000\r\n",
    b"*1\r\n" * 12,
    b">2\r\n$10\r\ninvalidate\r\n_\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n:5\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n\xff\r\n",
    b">1\r\n+other\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
)


def reply(rng: random.Random, depth: int = 0) -> bytes:
    """Return a reply of any type of RESP3."""
    text = rng.choice((*TEXTS, "OK", "1-1", "stream")).encode("utf-8", "surrogatepass")
    match rng.randrange(13 if depth < 3 else 8):
        case 0:
            return b"+%b\r\n" % text.replace(b"\n", b"").replace(b"\r", b"")
        case 1:
            return b"-%b\r\n" % rng.choice(_ERRORS).encode()
        case 2:
            return b":%d\r\n" % rng.choice((0, 1, -1, 2**63 - 1))
        case 3:
            return b"$%d\r\n%b\r\n" % (len(text), text)
        case 4:
            return b"_\r\n"
        case 5:
            return rng.choice((b"#t\r\n", b"#f\r\n"))
        case 6:
            return b",%b\r\n" % rng.choice((b"inf", b"nan", b"1.5", b"-0"))
        case 7:
            return b"(%d\r\n" % 10**30
        case 8 | 9 | 10:
            return _collection(rng, b"*", 1, depth)
        case 11:
            return _collection(rng, b"%", 2, depth)
    return _collection(rng, b"~", 1, depth)


def _collection(rng: random.Random, kind: bytes, each: int, depth: int) -> bytes:
    count = rng.randrange(4)
    return kind + b"%d\r\n" % count + b"".join(reply(rng, depth + 1) for _ in range(count * each))


@attrs.define
class LyingRedis:
    """The server.

    Attributes:
        rng: The source of lies.
        port: Where it listens on 127.0.0.1.
        upstream: The socket of the real server.
        lies: How many it has told.
        at_login: Whether it lies at logins, too. Refused ones are tried again only after half a minute.
        honest: Whether it passes on what the real server says.
    """

    rng: random.Random
    port: int
    upstream: str
    at_login: bool
    lies: int = 0
    honest: bool = True

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        truths = self.rng.choice((0, 4, 8, 20) if self.at_login else (4, 6))
        try:
            async with (
                client,
                await trio.open_unix_socket(self.upstream) as server,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._ask, client, server, nursery.cancel_scope)
                async for data in server:
                    truths -= 1
                    if self.honest or truths > 0 or self.rng.random() < 0.2:
                        await client.send_all(data)
                    elif not await self._lie(client, bytes(data)):
                        break
                nursery.cancel_scope.cancel()
        # The daemon closes connections at any time; the nursery makes a group of what comes of that.
        except* (trio.BrokenResourceError, OSError):
            pass

    async def _ask(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in client:
                await server.send_all(data)
        scope.cancel()

    async def _lie(self, client: trio.SocketStream, data: bytes) -> bool:
        """Send something in the place of a reply; False to end the connection."""
        rng = self.rng
        self.lies += 1
        match rng.randrange(30):
            case 0:
                await client.send_all(data[: rng.randrange(len(data))])
                return False
            case 1:
                await client.send_all(damaged(rng, data))
            case 2:
                await client.send_all(rng.choice(_HEADS))
            case 3:
                # Never asked for.
                await client.send_all(data + reply(rng))
            case 4:
                size = rng.choice((1_000, 4_000_000))
                await client.send_all(b"$%d\r\n%b\r\n" % (size, b"x" * size))
            case 5:
                return False
            case _:
                # As many as were sent, so that the next ones are those that are waited for.
                await client.send_all(b"".join(reply(rng) for _ in range(_replies_in(data))))
        return True


def _replies_in(data: bytes) -> int:
    """Return how many replies are complete in these bytes."""
    reader = hiredis.Reader(notEnoughData=StopIteration)
    reader.feed(data)
    count = 0
    with contextlib.suppress(hiredis.HiredisError):
        while reader.gets() is not StopIteration:
            count += 1
    return count


@contextlib.asynccontextmanager
async def lying_redis(upstream: str, rng: random.Random, *, at_login: bool) -> AsyncIterator[LyingRedis]:
    """Run one for the block."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    liar = LyingRedis(rng, listener.socket.getsockname()[1], upstream, at_login)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, liar.serve, [listener])
        yield liar
        nursery.cancel_scope.cancel()
