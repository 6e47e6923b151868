"""Asks a server, on a connection of its own, how much of its data it has loaded.

Owns the commands and the reading of their replies. Not a `Connection`, whose login
ends while the server loads.
Source: INFO's section "persistence" (https://redis.io/commands/info), served while the server loads.
"""

from __future__ import annotations

from typing import Final

import hiredis
import msgspec
import trio

from redstreamd.redisio.error_replies import reply_code, reply_error

_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


class Loading(msgspec.Struct, frozen=True):
    """A server that loads its data.

    Attributes:
        loaded_bytes: How much of its file it has read; None if it did not say.
        total_bytes: The size of that file; None if it did not say.
        seconds_left: Its own estimate; None if it did not say, or cannot tell yet.
    """

    loaded_bytes: int | None = None
    total_bytes: int | None = None
    seconds_left: int | None = None

    def __str__(self) -> str:
        """Return how far it is, such as "43 % of 1.2 GB, about 20 s left"; empty if that is not known."""
        if self.loaded_bytes is None or not self.total_bytes:
            return ""
        # The server reads on while it counts.
        percent = min(100 * self.loaded_bytes // self.total_bytes, 100)
        left = "" if self.seconds_left is None else f", about {self.seconds_left} s left"
        return f"{percent} % of {_size(self.total_bytes)}{left}"


async def ask_loading(path: str) -> Loading | None:
    """Ask the server at the socket `path` whether it loads; None if it serves.

    Any error but LOADING (a full disk's MISCONF) is the answer of a server that has loaded.

    Raises:
        OSError: There is no listener, or the connection ended.

    Has no deadline: a server answers only between two steps of its loading.
    """
    async with await trio.open_unix_socket(path) as connection:
        reply = await _ask(connection, "PING")
        if not (isinstance(reply, hiredis.ReplyError) and reply_code(reply_error(str(reply))) == "LOADING"):
            return None
        try:
            told = await _ask(connection, "INFO", "persistence")
        except OSError:
            return Loading()
        return _read(told)


async def _ask(connection: trio.SocketStream, *command: str) -> object:
    """Return the reply to one command, an error reply as a value.

    Raises:
        OSError: The connection ended.
    """
    reader = hiredis.Reader()
    try:
        # hiredis's annotation means a tuple of one element; it takes any number.
        await connection.send_all(hiredis.pack_command(command))  # type: ignore[arg-type]
        while (reply := reader.gets()) is False:
            received = await connection.receive_some()
            if not received:
                raise ConnectionError("closed without a reply")
            reader.feed(received)
    except trio.BrokenResourceError as broken:
        raise ConnectionError("broken off") from broken
    return reply


def _read(reply: object) -> Loading:
    if not isinstance(reply, bytes):
        return Loading()
    said = dict(line.partition(":")[::2] for line in reply.decode(errors="replace").splitlines())

    def number(name: str) -> int | None:
        value = said.get(name, "")
        return int(value) if value.isdecimal() else None

    loaded, total = number("loading_loaded_bytes"), number("loading_total_bytes")
    # Before the first byte its estimate is a placeholder.
    return Loading(loaded, total, number("loading_eta_seconds") if loaded else None)


def _size(count: int) -> str:
    """Return a number of bytes in the largest unit of which there is one."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"
