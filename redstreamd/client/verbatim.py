"""Carries bytes as they are, for a client that speaks another protocol, and leaves it to the daemon.

Such a client has no session that could outlive the daemon, so all ends with the first connection.
"""

from __future__ import annotations

import select
import socket
from typing import Final

from redstreamd.client.client_descriptors import ClientDescriptor

_READ_BYTES: Final = 65536
#: For a daemon that reads nothing.
_SEND_SECONDS: Final = 5.0


def carry_verbatim(
    connection: socket.socket, beginning: bytes, source: ClientDescriptor, sink: ClientDescriptor
) -> bool:
    """Copy both ways until the daemon closes its side, or the client does not read.

    Args:
        connection: To the daemon; nothing was sent over it.
        beginning: What was read of the client.
        source: Where the client writes.
        sink: Where the client reads.

    Returns:
        Whether the daemon ended it, and not the client.
    """
    connection.settimeout(_SEND_SECONDS)
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    is_sending = _send(connection, beginning)
    if is_sending:
        poll.register(source.number, select.POLLIN)
    has_client_ended = False
    while True:
        for number, _ in poll.poll():
            if number == source.number:
                data = source.read()
                if data is None:
                    continue
                has_client_ended = not data
                if has_client_ended or not _send(connection, data):
                    poll.unregister(source.number)
                    if has_client_ended:
                        _shut_down(connection)
                continue
            try:
                data = connection.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                return not has_client_ended
            try:
                _write(sink, data)
            except OSError:
                return False


def _send(connection: socket.socket, data: bytes) -> bool:
    """Send to the daemon; False if it takes no more, while it may still have something to say."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def _shut_down(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # it has closed the connection, which is read next


def _write(sink: ClientDescriptor, data: bytes) -> None:
    ready = select.poll()
    ready.register(sink.number, select.POLLOUT)
    rest = memoryview(data)
    while rest:
        ready.poll()
        rest = rest[sink.write(rest) :]
