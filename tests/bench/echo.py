"""A server that sends back what it gets: the ceiling of what the load generator can show."""

from __future__ import annotations

import select
import socket
import sys


def serve(path: str) -> None:
    """Listen on a Unix socket and echo, until the process is ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    waiting = select.epoll()
    waiting.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for number, _ in waiting.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connections[connection.fileno()] = connection
                waiting.register(connection, select.EPOLLIN)
            elif data := connections[number].recv(1 << 16):
                connections[number].sendall(data)
            else:
                connections.pop(number).close()


if __name__ == "__main__":
    serve(sys.argv[1])
