"""Asking Redis several things at once, so that the requests share round trips."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from redstreamd.errors import BusError

T = TypeVar("T")
NameT = TypeVar("NameT", str, bytes)

#: What all calls together ask at once for several names; the rest waits in line. One client may have 256
#: calls in flight with 100 streams each: all at once they held everybody up for seconds, and the daemon took
#: its own connections for dead. It is enough for a call of 100 names to share two round trips.
AT_ONCE: Final = 64

_room: trio.lowlevel.RunVar[trio.Semaphore] = trio.lowlevel.RunVar("room for what is asked at once")


async def gather(ask: Callable[[NameT], Awaitable[T]], names: Sequence[NameT]) -> dict[NameT, T]:
    """Return the answer for each name, asked for at the same time as far as others leave room.

    Args:
        ask: Asks for one name; must not gather itself.
        names: What for.

    Raises:
        BusError: The first one raised; the answers of the others are dropped.
    """
    if len(names) == 1:
        return {names[0]: await ask(names[0])}
    answers: dict[NameT, T] = {}
    errors: list[BusError] = []
    room = _room_of_this_run()

    async def one(name: NameT) -> None:
        try:
            answers[name] = await ask(name)
        except BusError as error:
            errors.append(error)
        finally:
            room.release()

    async with trio.open_nursery() as nursery:
        for name in names:
            try:
                room.acquire_nowait()
            except trio.WouldBlock:
                await room.acquire()
            # It gives the room back even if the nursery is cancelled: a task always begins.
            nursery.start_soon(one, name)
    if errors:
        raise errors[0]
    return answers


def _room_of_this_run() -> trio.Semaphore:
    try:
        return _room.get()
    except LookupError:
        room = trio.Semaphore(AT_ONCE, max_value=AT_ONCE)
        _room.set(room)
        return room
