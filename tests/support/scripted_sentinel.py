"""A sentinel that says what a test wants it to say: a liar, one that was cut off, one that says nothing.

It speaks as much of the protocol as clients of sentinels need. What real sentinels come to by themselves is
tested with ``sentinels``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import hiredis
import trio

from redstreamd.redisio.target import Deployment, Target, TopologyKind
from tests.support.sentinels import NAME
from tests.support.servers import Server


@attrs.define
class ScriptedSentinel:
    """The sentinel.

    Attributes:
        port: Where it listens on 127.0.0.1.
        primary: Host and port that it names; None while it knows of no primary of that name.
        epoch: The configuration epoch that it tells.
        run_id: Which one it says it is.
        known: The other ones that it tells: host, port and run ID.
        password: What it demands at logins.
        may_subscribe: Whether it lets clients subscribe.
        answers: Whether it answers questions about the primary.
        asked: How often it was asked for the primary.
    """

    port: int
    primary: tuple[str, int] | None = None
    epoch: int = 0
    run_id: str = ""
    known: list[tuple[str, int, str]] = attrs.field(factory=list)
    password: str | None = None
    may_subscribe: bool = True
    answers: bool = True
    asked: int = 0
    _listeners: list[trio.SocketStream] = attrs.field(factory=list)
    _clients: list[trio.SocketStream] = attrs.field(factory=list)
    # Replies and messages come from several tasks.
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def is_heard(self) -> bool:
        """Whether a client has subscribed."""
        return bool(self._listeners)

    def names(self, server: Server, *, epoch: int | None = None) -> None:
        """Name a server from now on, without telling anybody by itself."""
        self.primary = ("127.0.0.1", server.port)
        self.epoch = self.epoch if epoch is None else epoch

    async def switch(self, server: Server, *, epoch: int) -> None:
        """Name a server after a failover, and tell all subscribers."""
        former = self.primary or ("127.0.0.1", 1)
        self.names(server, epoch=epoch)
        told = f"{NAME} {former[0]} {former[1]} 127.0.0.1 {server.port}"
        for each in list(self._listeners):
            await self._send(each, b">3\r\n" + _bulk("message") + _bulk("+switch-master") + _bulk(told))

    async def _send(self, client: trio.SocketStream, data: bytes) -> None:
        async with self._sending:
            await client.send_all(data)

    def hang_up(self) -> None:
        """End all connections."""
        for each in self._clients:
            each.socket.close()

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection."""
        reader = hiredis.Reader()
        self._clients.append(client)
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            async with client:
                async for data in client:
                    reader.feed(bytes(data))
                    while (command := reader.gets()) is not False:
                        words = [word.decode() for word in command]
                        reply = self._reply(words)
                        if words[0] == "SUBSCRIBE" and self.may_subscribe:
                            self._listeners.append(client)
                        if reply is not None:
                            await self._send(client, reply)
        self._clients.remove(client)
        if client in self._listeners:
            self._listeners.remove(client)

    def _reply(self, words: list[str]) -> bytes | None:
        match words:
            case ["HELLO", *_]:
                pairs = {"server": "redis", "version": "7.0.15", "proto": "3", "mode": "sentinel"}
                return _map(pairs)
            case ["AUTH", *_, password]:
                if self.password is None:
                    return b"-ERR AUTH <password> called without any password configured\r\n"
                right = password == self.password
                return b"+OK\r\n" if right else b"-WRONGPASS invalid username-password pair\r\n"
            case ["PING"]:
                return b"+PONG\r\n"
            case ["SUBSCRIBE", channel]:
                if not self.may_subscribe:
                    return b"-NOPERM this user has no permissions to access the channel\r\n"
                return b">3\r\n" + _bulk("subscribe") + _bulk(channel) + b":1\r\n"
            case ["SENTINEL", *question]:
                return self._answer(question) if self.answers else None
        return b"-ERR unknown command\r\n"

    def _answer(self, question: list[str]) -> bytes:
        match question:
            case ["MYID"]:
                return _bulk(self.run_id)
            case ["SENTINELS", name] if name == NAME:
                lines = [{"ip": host, "port": str(port), "runid": who} for host, port, who in self.known]
                return b"*%d\r\n" % len(lines) + b"".join(map(_map, lines))
            case ["MASTER", name] if name == NAME and self.primary is not None:
                self.asked += 1
                host, port = self.primary
                fields = {"ip": host, "port": str(port), "flags": "master", "config-epoch": str(self.epoch)}
                return _map(fields)
            case ["GET-MASTER-ADDR-BY-NAME", name] if name == NAME and self.primary is not None:
                host, port = self.primary
                return b"*2\r\n" + _bulk(host) + _bulk(str(port))
            case ["GET-MASTER-ADDR-BY-NAME", _]:
                return b"_\r\n"
        return b"-ERR No such master with that name\r\n"


def _bulk(text: str) -> bytes:
    data = text.encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _map(pairs: dict[str, str]) -> bytes:
    return b"%%%d\r\n" % len(pairs) + b"".join(_bulk(key) + _bulk(value) for key, value in pairs.items())


@contextlib.asynccontextmanager
async def scripted_sentinels(count: int, **attributes: Any) -> AsyncIterator[list[ScriptedSentinel]]:
    """Run some for the block, with the same attributes."""
    running: list[ScriptedSentinel] = []
    async with trio.open_nursery() as nursery:
        for number in range(count):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listener.socket.getsockname()[1]
            running.append(ScriptedSentinel(port, **{"run_id": f"id{number}"} | attributes))
            nursery.start_soon(trio.serve_listeners, running[-1].serve, [listener])
        yield running
        nursery.cancel_scope.cancel()


def deployment_of(sentinels: list[ScriptedSentinel], **parts: Any) -> Deployment:
    """Return where they are; `parts` are further ones of the deployment."""
    nodes = tuple(("127.0.0.1", one.port) for one in sentinels)
    return Deployment(Target(), TopologyKind.SENTINEL, nodes, **{"primary_name": NAME} | parts)
