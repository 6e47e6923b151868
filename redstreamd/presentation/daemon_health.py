"""The report on the daemon and its connections to Redis: the resource redstream://health.

Owns its shape. Each part reports on itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ROLE_NAMES
from redstreamd.redisio.server_health import RoleStatus
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.streams.tail_hub import TailHub

#: Seconds a PING may take before that is the answer; a command's own deadline is longer.
_PING_SECONDS = 1.0
#: Seconds in which a part that asks Redis must have its figures; shorter, so that the PING is the last.
_ASKED_SECONDS = 0.8


class DaemonHealth:
    """Makes the report."""

    def __init__(self, redis: Redis, hub: TailHub, updates: Updates, *, version: str) -> None:
        """Report on `redis`, `hub` and `updates`, in the words of the daemon's `version`."""
        self._redis = redis
        self._hub = hub
        self._updates = updates
        self._version = version
        self._sections: dict[str, Callable[[], attrs.AttrsInstance]] = {}
        self._asked: dict[str, Callable[[], Awaitable[attrs.AttrsInstance | None]]] = {}

    def include(self, section: str, figures: Callable[[], attrs.AttrsInstance]) -> None:
        """Report what `figures` returns under the name `section`, too; for parts that are not known here."""
        self._sections[section] = figures

    def include_asked(
        self, section: str, figures: Callable[[], Awaitable[attrs.AttrsInstance | None]]
    ) -> None:
        """As `include`, for figures that Redis is asked for.

        They are left out if `figures` returns None or takes too long. It must not raise, and may be
        cancelled.
        """
        self._asked[section] = figures

    async def report(self) -> dict[str, Any]:
        """Return one JSON object; never fails, and takes a second at most."""
        asked: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            for section, figures in self._asked.items():
                nursery.start_soon(self._ask, section, figures, asked)
            ping = await self._ping()
        # After the PING, whose reply may have changed the status.
        status = self._redis.status()
        return {
            "redstreamd": self._version,
            **{section: attrs.asdict(figures()) for section, figures in self._sections.items()},
            "redis": {
                "address": status.label,
                "ping": ping,
                "troubles": [
                    {"cause": problem.effect, "next_step": problem.next_step} for problem in status.problems
                ],
                "connections": {
                    role.value: {"for": ROLE_NAMES[role], **_connection(state)}
                    for role, state in status.roles.items()
                    if state.wanted
                },
            },
            "waiting": attrs.asdict(self._hub.statistics()),
            "subscriptions": attrs.asdict(self._updates.statistics()),
            **asked,
        }

    @staticmethod
    async def _ask(
        section: str,
        figures: Callable[[], Awaitable[attrs.AttrsInstance | None]],
        asked: dict[str, Any],
    ) -> None:
        with trio.move_on_after(_ASKED_SECONDS):
            if (found := await figures()) is not None:
                asked[section] = attrs.asdict(found)

    async def _ping(self) -> dict[str, Any]:
        began = trio.current_time()
        with trio.move_on_after(_PING_SECONDS):
            try:
                await self._redis.ping()
            except BusError as error:
                # A server that cannot save refuses PING as it refuses writes, and is there all the same.
                if error.code is not Code.BACKEND_READ_ONLY:
                    return {"answered": False, "cause": error.cause, "next_step": error.next_step}
            return {"answered": True, "seconds": round(trio.current_time() - began, 6)}
        return {"answered": False, "cause": f"There was no answer within {_PING_SECONDS} s."}


def _connection(state: RoleStatus) -> dict[str, Any]:
    said: dict[str, Any] = {"connected": state.connected, "for_seconds": round(state.seconds, 3)}
    if state.connected:
        said["server"] = state.server
    elif state.problem is not None:
        said["cause"] = state.problem.cause
        said["next_step"] = state.problem.next_step
        said["failed_attempts"] = state.failed_attempts
    return said
