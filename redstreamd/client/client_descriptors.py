"""The descriptors that a client gave the process, read and written without blocking.

O_NONBLOCK belongs to the open file, which the client and others may share, so it is not set. A socket is
told with each call not to block. A pipe or terminal is opened anew where /proc allows that: a new open file
of the same pipe. Where it does not, a read follows on a poll, and a write is as short as one that a pipe with
room always takes.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
from typing import Self

_READ_BYTES = 65536


class ClientDescriptor:
    """One direction.

    Attributes:
        number: To poll.
        may_block: Whether it is to be written only after a poll.
    """

    def __init__(self, number: int, *, is_sink: bool) -> None:
        """Use `number`, which stays open.

        Raises:
            OSError: It is not open.
        """
        self.number = number
        self.may_block = self._is_anew = False
        self._socket: socket.socket | None = None
        mode = os.fstat(number).st_mode
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(number))
            # Python's own waiting is not wanted, and the flag of the file is left alone.
            self.number = self._socket.fileno()
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            self.may_block = True
            access = os.O_WRONLY if is_sink else os.O_RDONLY
            with contextlib.suppress(OSError):
                self.number = os.open(
                    f"/proc/self/fd/{number}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                )
                self.may_block, self._is_anew = False, True

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what was opened beside the client's descriptor."""
        if self._socket is not None:
            self._socket.close()
        elif self._is_anew:
            os.close(self.number)

    def read(self) -> bytes | None:
        """Read what is there: None if nothing; empty at the end and after an error (EIO of a terminal)."""
        try:
            if self._socket is not None:
                return self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            return os.read(self.number, _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: bytes | memoryview) -> int:
        """Write some of `data` and return how much.

        Raises:
            OSError: Nobody reads.
        """
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return os.write(self.number, data[: select.PIPE_BUF] if self.may_block else data)
        except BlockingIOError:
            return 0
