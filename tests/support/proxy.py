"""A proxy that knows bytes, for tests of what networks do: latency, odd slices, cuts, corruption, silence.

It runs in the test's own event loop between a client and a real server. Each direction is a `Flow`
whose behaviour can be changed while bytes pass; it applies to every link through the proxy.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs
import trio

# A chunk that waits for its time holds a place; the reader stops when all are taken, as a network
# with a full buffer would.
_CHUNKS_UNDER_WAY = 128


@attrs.define
class Flow:
    """One direction through the proxy.

    Attributes:
        delay: Gives the latency of the next chunk in seconds. Order is kept.
        slice_bytes: Gives the size of the next piece that is sent on, None to leave chunks as they come.
        swallow: Read and discard everything, as a host would that vanished after acknowledging.
        tap: Told of each piece that is sent on.
        forwarded: Bytes sent on so far.
    """

    delay: Callable[[], float] = lambda: 0.0
    slice_bytes: Callable[[], int] | None = None
    swallow: bool = False
    tap: Callable[[bytes], object] = lambda _piece: None
    forwarded: int = 0
    _cut_at: float = math.inf
    _cut_with_reset: bool = True
    _flip_at: float = math.inf
    _flip_mask: int = 0
    _released: trio.Event | None = None

    def hold(self) -> None:
        """Let nothing more pass, and keep the links open."""
        if self._released is None:
            self._released = trio.Event()

    def release(self) -> None:
        """Let everything pass again, what was held first."""
        if self._released is not None:
            self._released.set()
            self._released = None

    def cut_after(self, count: int, *, reset: bool = True) -> None:
        """Once `count` more bytes have passed and another comes, cut its link instead of sending it on."""
        self._cut_at = self.forwarded + count
        self._cut_with_reset = reset

    @property
    def cut_pending(self) -> bool:
        """Whether a cut that was asked for has not happened yet."""
        return self._cut_at < math.inf

    def flip_after(self, count: int, *, mask: int = 0xFF) -> None:
        """Once `count` more bytes have passed, flip the bits `mask` of the next."""
        self._flip_at = self.forwarded + count
        self._flip_mask = mask

    async def _send(self, data: bytes, sink: trio.abc.SendStream) -> bool:
        """Send on what may pass; False if the link is to be cut."""
        while data:
            if self._released is not None:
                await self._released.wait()
            if self.swallow:
                return True
            size = len(data) if self.slice_bytes is None else self.slice_bytes()
            piece, data = data[:size], data[size:]
            if self._flip_at < self.forwarded + len(piece):
                at = int(self._flip_at) - self.forwarded
                piece = piece[:at] + bytes([piece[at] ^ self._flip_mask]) + piece[at + 1 :]
                self._flip_at = math.inf
            cut = self._cut_at < self.forwarded + len(piece)
            if cut:
                piece = piece[: int(self._cut_at) - self.forwarded]
                self._cut_at = math.inf
            if piece:
                await sink.send_all(piece)
                self.tap(piece)
                self.forwarded += len(piece)
            if cut:
                return False
        return True


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self._client = client
        self._server = server
        self._scope = trio.CancelScope()

    async def run(self, to_server: Flow, to_client: Flow) -> None:
        with self._scope:
            async with self._client, self._server, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, self._client, self._server, to_server)
                nursery.start_soon(self._pump, self._server, self._client, to_client)

    def cut(self, *, reset: bool) -> None:
        if reset:
            for stream in (self._client, self._server):
                # Closing with a linger time of zero sends RST (socket(7)); a Unix socket has no such thing.
                with contextlib.suppress(OSError):
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._scope.cancel()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, flow: Flow) -> None:
        put, take = trio.open_memory_channel[tuple[float, bytes]](_CHUNKS_UNDER_WAY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, source, put, flow)
            async with take:
                async for due, data in take:
                    await trio.sleep_until(due)
                    try:
                        passed = await flow._send(data, sink)
                    except trio.BrokenResourceError:
                        break
                    if not passed:
                        self.cut(reset=flow._cut_with_reset)
            self._scope.cancel()

    async def _receive(
        self, source: trio.SocketStream, put: trio.MemorySendChannel[tuple[float, bytes]], flow: Flow
    ) -> None:
        due = -math.inf
        async with put:
            while True:
                try:
                    data = await source.receive_some()
                except trio.BrokenResourceError:
                    return
                if not data:
                    return
                due = max(due, trio.current_time() + flow.delay())
                await put.send((due, bytes(data)))


class Proxy:
    """A listening socket in front of a server.

    Attributes:
        to_server: What clients send.
        to_client: What the server answers.
        accepted: Connections accepted so far.
        port: TCP port on 127.0.0.1, or 0.
        path: Unix socket, or None.
        upstream: Where new links lead: a Unix socket or a TCP port on 127.0.0.1.
    """

    def __init__(self, upstream: str | int, listener: trio.SocketListener, path: str | None) -> None:
        self.to_server = Flow()
        self.to_client = Flow()
        self.accepted = 0
        self.path = path
        self.port = 0 if path is not None else listener.socket.getsockname()[1]
        self.upstream = upstream
        self._listener = listener
        self._links: set[_Link] = set()

    def cut(self, *, reset: bool = True) -> None:
        """Cut every link there is now."""
        for link in self._links:
            link.cut(reset=reset)

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                client = await self._listener.accept()
                self.accepted += 1
                nursery.start_soon(self._serve, client)

    async def _serve(self, client: trio.SocketStream) -> None:
        # Closed here as well, for clients that are accepted when the proxy is about to end.
        async with client:
            try:
                if isinstance(self.upstream, int):
                    server = await trio.open_tcp_stream("127.0.0.1", self.upstream)
                else:
                    server = await trio.open_unix_socket(self.upstream)
            except OSError:
                return
            link = _Link(client, server)
            self._links.add(link)
            try:
                await link.run(self.to_server, self.to_client)
            finally:
                self._links.discard(link)


@contextlib.asynccontextmanager
async def proxy_to(upstream: str | int, *, unix: bool = False) -> AsyncIterator[Proxy]:
    """Run a proxy for the block.

    Args:
        upstream: The server's Unix socket, or its TCP port on 127.0.0.1.
        unix: Listen on a Unix socket instead of TCP.
    """
    with contextlib.ExitStack() as stack:
        path = None
        if unix:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rp-"))
            path = str(Path(directory) / "proxy.sock")
            raw = trio.socket.socket(socket.AF_UNIX)
            await raw.bind(path)
        else:
            raw = trio.socket.socket()
            await raw.bind(("127.0.0.1", 0))
        raw.listen(1024)
        async with trio.SocketListener(raw) as listener, trio.open_nursery() as nursery:
            proxy = Proxy(upstream, listener, path)
            nursery.start_soon(proxy.run)
            yield proxy
            nursery.cancel_scope.cancel()
