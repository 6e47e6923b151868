"""A process that takes a client over and gives it away: `python -m tests.mcpio.handover_child FD`.

FD is a socket to whoever passes the client on. Each message there is a record, or nothing for a new client,
with the client's socket; a message without a socket asks for both back.
"""

from __future__ import annotations

import socket
import sys

import trio

from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.policy import Principal
from tests.mcpio.serving import make_server

MAX_RECORD = 1 << 20


async def serve(control: socket.socket, client: socket.socket, record: bytes) -> None:
    """Serve `client` until asked to give it away."""
    connection = ClientConnection(
        trio.SocketStream(trio.socket.from_stdlib_socket(client)),
        Kernels(make_server()),
        principal=Principal("first", "unix") if record == b"new" else Principal("second", "unix"),
        socket="unix:/first" if record == b"new" else "unix:/second",
        state=None if record == b"new" else ConnectionState.from_json(record),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        await trio.lowlevel.wait_readable(control)
        state = await connection.hand_over(0.1)
        assert state is not None
        socket.send_fds(control, [state.to_json()], [client.fileno()])
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as control:
        record, (descriptor,), _, _ = socket.recv_fds(control, MAX_RECORD, 1)
        trio.run(serve, control, socket.socket(fileno=descriptor), record)
        # Until killed: nothing of the session may depend on how this process ends.
        control.send(b"given")
        while True:
            control.recv(1)
