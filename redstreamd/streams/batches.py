"""Many requests to Redis without a task for each, for what the daemon asks on its own behalf.

A task for each takes five times as long, see `concurrency`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import trio

from redstreamd.errors import BusError
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import NotSent, ServerReplied
from redstreamd.redisio.script import Write

#: Requests sent at a time: half a millisecond of the loop, and as much of the server's time.
AT_ONCE: Final = 16


async def ask_in_batches(redis: Redis, requests: Sequence[tuple[str, Write]]) -> list[Any]:
    """Return the reply to each request, in their order; a `ServerReplied` for one that the server refused.

    Args:
        redis: Asked.
        requests: The key and the command or script of each; all may be sent again if a reply is lost.

    Raises:
        BusError: CONNECTION_ERROR and the like.
        NotSent: There is no connection.

    If cancelled, what was sent is executed.
    """
    replies: list[Any] = []
    for at in range(0, len(requests), AT_ONCE):
        replies += await _ask(redis, requests[at : at + AT_ONCE])
    return replies


async def _ask(redis: Redis, requests: Sequence[tuple[str, Write]]) -> list[Any]:
    deadline = trio.current_time() + redis.command_timeout
    replies: list[Any] = [None] * len(requests)
    missing = len(requests)
    complete = trio.Event()

    def take(number: int, reply: Any) -> None:
        nonlocal missing
        replies[number] = reply
        missing -= 1
        if not missing:
            complete.set()

    queue = redis.queues[Role.COMMAND]
    for number, (key, write) in enumerate(requests):
        queue.submit(write, partial(take, number), key)
    await complete.wait()
    for number, reply in enumerate(replies):
        if isinstance(reply, Exception):
            key, write = requests[number]
            try:
                replies[number] = await redis.complete(
                    write, reply, key=key, retry_safe=True, deadline=deadline
                )
            except ServerReplied as refusal:
                replies[number] = refusal
    return replies


UNAVAILABLE: Final = (BusError, NotSent)
"""What `ask_in_batches` raises."""
