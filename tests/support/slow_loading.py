"""A daemon whose embedded server loads its data slowly, and data that take it a while.

`SCRIPT` runs in the place of `redstreamd`.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import hiredis

#: The server pauses for a millisecond before each of the commands, and answers after 1,024 of them
#: (aof.c, `loadSingleAppendOnlyFile`). So it loads for two minutes, unless it is told to hurry.
COMMANDS = 100_000

#: For how long more time to start is asked for, in the place of 30 s. It is asked for every second or two,
#: and on a busy machine later than that.
EXTENSION_SECONDS = 8

SCRIPT = f"""
import sys
from redstreamd.daemon import readiness
from redstreamd.cli import main
from redstreamd.service.embedded import embedded_server
assert "key-load-delay" not in embedded_server._OPTIONS
embedded_server._OPTIONS["key-load-delay"] = "1000"
assert readiness._EXTENSION_SECONDS == 30
readiness._EXTENSION_SECONDS = {EXTENSION_SECONDS}
sys.exit(main())
"""


def ask(path: Path | str, *command: str | int) -> Any:
    """Send one command to the server at a socket and return its reply; waits as long as that takes."""
    return _send(path, [command])[0]


def fill(path: Path | str, stream: str) -> None:
    """Give the server at a socket data that it loads slowly."""
    _send(path, [("XADD", stream, "*", "n", number) for number in range(COMMANDS)])


def hurry(path: Path | str) -> None:
    """Have a server that loads slowly load what is left at full speed."""
    assert ask(path, "CONFIG", "SET", "key-load-delay", 0) == b"OK"


def _send(path: Path | str, commands: list[tuple[str | int, ...]]) -> list[Any]:
    replies: list[Any] = []
    reader = hiredis.Reader()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(b"".join(hiredis.pack_command(command) for command in commands))
        while len(replies) < len(commands):
            data = connection.recv(1 << 16)
            assert data, "the server closed the connection"
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                replies.append(reply)
    return replies
