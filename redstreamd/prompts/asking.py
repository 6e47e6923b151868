"""How prompts get at facts: what cannot be found out is a fact, too."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from redstreamd.errors import BusError
from redstreamd.prompts.definition import Argument

STREAM = Argument("stream", "Name of the stream.")
GROUP = Argument("group", "Name of the consumer group.")


async def known(asked: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Return a fact, or why it could not be had: a diagnosis is wanted most when something fails."""
    try:
        return await asked
    except BusError as error:
        return {
            "failed": {
                "code": str(error.code),
                "message": error.message,
                "cause": error.cause,
                "next_step": error.next_step,
            }
        }
