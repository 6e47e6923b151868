"""Concurrent requests to Redis, which share round trips."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError

T = TypeVar("T")
NameT = TypeVar("NameT", str, bytes)

#: Requests in flight of all calls of `gather` together. One client may have 256 calls in flight with 100
#: streams each: unbounded, they delayed everybody for seconds, and the daemon took its connections for dead.
MAX_IN_FLIGHT: Final = 16

#: Requests that are begun in one turn: each takes some 0.1 ms until it is sent.
_BEGUN_AT_ONCE: Final = 8

_slots: trio.lowlevel.RunVar[trio.Semaphore] = trio.lowlevel.RunVar("requests of gather in flight")


async def gather(ask: Callable[[NameT], Awaitable[T]], names: Sequence[NameT]) -> dict[NameT, T]:
    """Return the answer for each name, with at most `MAX_IN_FLIGHT` requests of all callers at once.

    Args:
        ask: Asks for one name; must not call `gather`.
        names: The names.

    Raises:
        BusError: The first error; the answers for other names are dropped.
    """
    if len(names) == 1:
        return {names[0]: await ask(names[0])}
    answers: dict[NameT, T] = {}
    errors: list[BusError] = []
    slots = _slots_of_run()

    async def one(name: NameT) -> None:
        try:
            answers[name] = await ask(name)
        except BusError as error:
            errors.append(error)
        finally:
            slots.release()

    async with trio.open_nursery() as nursery:
        for number, name in enumerate(names):
            if number and number % _BEGUN_AT_ONCE == 0:
                await next_turn()
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                await slots.acquire()
            # The slot is released even if the nursery is cancelled: a task always starts.
            nursery.start_soon(one, name)
    if errors:
        raise errors[0]
    return answers


def _slots_of_run() -> trio.Semaphore:
    try:
        return _slots.get()
    except LookupError:
        slots = trio.Semaphore(MAX_IN_FLIGHT, max_value=MAX_IN_FLIGHT)
        _slots.set(slots)
        return slots
