"""Asking Redis several things at once, so that the requests share round trips."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from redstreamd.errors import BusError

T = TypeVar("T")


async def gather(ask: Callable[[str], Awaitable[T]], names: Sequence[str]) -> dict[str, T]:
    """Return the answer for each name, asked for at the same time.

    Raises:
        BusError: The first one raised; the answers of the others are dropped.
    """
    if len(names) == 1:
        return {names[0]: await ask(names[0])}
    answers: dict[str, T] = {}
    errors: list[BusError] = []

    async def one(name: str) -> None:
        try:
            answers[name] = await ask(name)
        except BusError as error:
            errors.append(error)

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(one, name)
    if errors:
        raise errors[0]
    return answers
