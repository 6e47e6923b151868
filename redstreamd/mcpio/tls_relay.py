"""Carries the bytes of a TLS connection to and from a socket pair, whose other end is served as any client.

All that serves clients works on descriptors: it waits for what is readable, reads and writes without
blocking, and shuts down one side. Over the pair it works for TLS as it is, and a client over a Unix socket
pays nothing. What is not read at one end is not read at the other, so a slow client pushes back as over any
socket.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import trio

#: Read at once; the longest record of TLS (RFC 8446, section 5.1).
_READ_BYTES: Final = 16 * 1024
#: How long a client may take to close its side after we have ended ours.
LINGER_SECONDS: Final = 0.5


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the end that is served, and the end for `relay`.

    Raises:
        OSError: There are no descriptors left.
    """
    served, relayed = map(trio.socket.from_stdlib_socket, socket.socketpair())
    return trio.SocketStream(served), trio.SocketStream(relayed)


async def relay(tls: trio.SSLStream[trio.SocketStream], inner: trio.SocketStream, received: bytes) -> None:
    """Carry bytes until the served end is closed, then end TLS and close both.

    Args:
        tls: The connection, after its handshake.
        inner: The relay's end of the pair.
        received: What the client has sent already, to be carried first.

    A client that ends its side without TLS's own end (close_notify) is taken to have ended it: a message that
    was cut off is no JSON, and so does nothing.
    """
    transport = tls.transport_stream
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_to_inner, tls, inner, received)
            await _to_client(tls, inner)
            nursery.cancel_scope.cancel()
        await end(tls)
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(inner)
            # `tls` has let go of it once both sides have ended TLS.
            await trio.aclose_forcefully(transport)


async def end(tls: trio.SSLStream[trio.SocketStream]) -> None:
    """End our side so that the client gets all that was sent, and wait a moment until it has ended its own.

    Closing with unread input resets a connection (see ``closing``). Nothing else may use the stream.
    """
    transport = tls.transport_stream
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        with trio.move_on_after(LINGER_SECONDS):
            # Sends our close_notify at once, and then waits for the client's.
            with contextlib.suppress(trio.BrokenResourceError):
                await tls.unwrap()
            await transport.send_eof()
            while await transport.receive_some(_READ_BYTES):
                pass
    await trio.aclose_forcefully(transport)


async def _to_inner(
    tls: trio.SSLStream[trio.SocketStream], inner: trio.SocketStream, received: bytes
) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        if received:
            await inner.send_all(received)
        while True:
            try:
                data = await tls.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                break
            if not data:
                break
            await inner.send_all(data)
        await inner.send_eof()


async def _to_client(tls: trio.SSLStream[trio.SocketStream], inner: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await inner.receive_some(_READ_BYTES):
            await tls.send_all(data)
