"""From an address to a connected stream: TCP or Unix socket, and TLS.

Owns socket options and the TLS handshake.
"""

from __future__ import annotations

from typing import Final

import trio

from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls

#: Milliseconds that sent bytes may stay unacknowledged before the kernel gives the connection up. A
#: host that vanished is noticed within 2 s; a host that is merely busy acknowledges all the same. (With
#: its receive window closed for as long, it counts as vanished: tcp(7), TCP_USER_TIMEOUT.)
UNACKNOWLEDGED_MS: Final = 1_500

# For connections on which nothing is sent: the PING of `connection` finds most dead peers sooner,
# this finds those where even that is not running. Seconds; tcp(7).
_KEEPALIVE_IDLE: Final = 10
_KEEPALIVE_INTERVAL: Final = 1
_KEEPALIVE_PROBES: Final = 3


#: A Unix socket buffers twice as much on the way to the server (socket(7)): what is sent at once
#: (`pipeline.MAX_SEND_BYTES`), which takes half as much again there. It is the most that Linux allows unless
#: net.core.wmem_max says otherwise; without it a socket has half of that. TCP's buffers grow by themselves.
_SEND_BUFFER_BYTES: Final = 212_992


async def open_stream(target: Target) -> trio.SocketStream:
    """Connect; names with several addresses are tried as RFC 8305 (happy eyeballs) says.

    Raises:
        OSError: No address could be connected to; several errors are its cause as a group.
    """
    if target.path is not None:
        stream = await trio.open_unix_socket(target.path)
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        return stream
    # trio sets TCP_NODELAY on every SocketStream.
    stream = await trio.open_tcp_stream(target.host, target.port)
    options = trio.socket
    for level, option, value in (
        (options.SOL_SOCKET, options.SO_KEEPALIVE, 1),
        (options.IPPROTO_TCP, options.TCP_KEEPIDLE, _KEEPALIVE_IDLE),
        (options.IPPROTO_TCP, options.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL),
        (options.IPPROTO_TCP, options.TCP_KEEPCNT, _KEEPALIVE_PROBES),
        (options.IPPROTO_TCP, options.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS),
    ):
        stream.setsockopt(level, option, value)
    return stream


async def secure(stream: trio.SocketStream, tls: Tls, host: str) -> trio.SSLStream[trio.SocketStream]:
    """Return `stream` with TLS on it, after the handshake.

    Args:
        stream: Connected; belongs to the result, and is closed if there is none.
        tls: What to trust and to show.
        host: The name that the server's certificate must bear, unless `tls` names another.

    Raises:
        TlsFileError: A certificate or key cannot be used.
        trio.BrokenResourceError: The handshake failed; its cause says why.

    If cancelled, the stream is closed.
    """
    try:
        # In a thread, because it reads files.
        context = await trio.to_thread.run_sync(tls.context, abandon_on_cancel=True)
        encrypted = trio.SSLStream(
            stream,
            context,
            server_hostname=tls.server_name or host,
            # Redis closes without TLS's own farewell. Replies carry their length, so a truncated one
            # cannot pass for whole.
            https_compatible=True,
        )
        await encrypted.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return encrypted
