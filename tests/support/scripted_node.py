"""A server that answers some commands as a script says, and passes all others on to a real one."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import attrs
import hiredis
import trio

Reply = Callable[[list[bytes]], bytes]
"""Returns the raw reply to a command."""


@attrs.define
class ScriptedNode:
    """The server.

    Attributes:
        upstream: The socket of the real one.
        port: Where it listens on 127.0.0.1.
        script: The name of a command, with its subcommand where that is looked for, and what it is answered.
        commands: How often each was sent.
    """

    upstream: str
    port: int
    script: Mapping[str, Reply]
    commands: Counter[str] = attrs.field(factory=Counter)

    async def serve(self, client: trio.SocketStream) -> None:
        """Serve one connection, a command at a time."""
        with contextlib.suppress(trio.BrokenResourceError):
            async with client, await trio.open_unix_socket(self.upstream) as server:
                reader = hiredis.Reader()
                async for data in client:
                    reader.feed(data)
                    while (command := reader.gets()) is not False:
                        await client.send_all(await self._reply(server, command))

    async def _reply(self, server: trio.SocketStream, command: list[Any]) -> bytes:
        name = command[0].decode()
        self.commands[name] += 1
        for known in (name, b" ".join(command[:2]).decode()):
            if known in self.script:
                return self.script[known](command)
        await server.send_all(hiredis.pack_command(tuple(command)))
        reader, received = hiredis.Reader(notEnoughData=StopIteration), b""
        while True:
            data = await server.receive_some(65536)
            received += data
            reader.feed(bytes(data))
            if reader.gets() is not StopIteration:
                return received


@contextlib.asynccontextmanager
async def scripted_node(
    upstream: str, script: Callable[[int], Mapping[str, Reply]]
) -> AsyncIterator[ScriptedNode]:
    """Run one for the block; its script is made with its port."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    node = ScriptedNode(upstream, port, script(port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        yield node
        nursery.cancel_scope.cancel()
