"""Reads of pages that are asked for in the same pass of the scheduler: equal ones are one command.

Those who wait for different things at the same position of a stream are woken together and read the same. A
read that was sent is not shared with those who ask later.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_request import Request
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.plans import Plan, complete_plan, run_plan

_Key = tuple[str, str, str, int, int, bool]


class _Shared:
    """One read.

    Attributes:
        plan: What was sent.
        request: The command.
        answered: Set once there is an outcome.
        outcome: The page, or what came in the place of a reply.
    """

    __slots__ = ("answered", "outcome", "plan", "request")

    def __init__(self, plan: Plan[Batch]) -> None:
        self.plan: Final = plan
        self.request: Request
        self.answered: Final = trio.Event()
        self.outcome: Batch | Exception


class SharedPages:
    """Reads ranges of streams as `Pages` does; who gets a page must not change it."""

    def __init__(self, redis: Redis, pages: Pages) -> None:
        """Read what `pages` plans through `redis`."""
        self._redis = redis
        self._pages = pages
        self._reads: dict[_Key, _Shared] = {}
        #: As `Pages.plan`; the caller's own read.
        self.plan: Final = pages.plan

    async def read(
        self, stream: str, first: str, last: str, *, max_entries: int, max_bytes: int, forward: bool = True
    ) -> Batch:
        """Read entries; see `Pages.read`.

        Cancellation: the others who share the read do not notice.
        """
        key = (stream, first, last, max_entries, max_bytes, forward)
        deadline = trio.current_time() + self._redis.command_timeout
        shared = self._reads.get(key)
        if shared is None or shared.request.sent:
            plan = self._pages.plan(
                stream, first, last, max_entries=max_entries, max_bytes=max_bytes, forward=forward
            )
            shared = _Shared(plan)
            answer = partial(self._on_reply, key, shared)
            try:
                shared.request = self._redis.queues[plan.role].submit(plan.write, answer, stream)
            except Exception:  # noqa: BLE001 - it raises the same, or knows what to do about it
                return await run_plan(self._redis, plan)
            self._reads[key] = shared
        await shared.answered.wait()
        if isinstance(shared.outcome, Exception):
            return await complete_plan(self._redis, shared.plan, shared.outcome, deadline)
        return shared.outcome

    def _on_reply(self, key: _Key, shared: _Shared, reply: Any) -> None:
        if self._reads.get(key) is shared:
            del self._reads[key]
        try:
            shared.outcome = reply if isinstance(reply, Exception) else shared.plan.read(reply)
        except Exception as error:  # noqa: BLE001 - raised again by `complete_plan`
            shared.outcome = error
        shared.answered.set()
