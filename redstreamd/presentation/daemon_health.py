"""The report on the daemon and its connections to Redis: the resource redstream://health.

Owns its shape. Each part reports on itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import trio

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError, Code
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.node import Node
from redstreamd.redisio.redis_errors import ROLE_NAMES, Problem
from redstreamd.redisio.server_health import RoleStatus
from redstreamd.redisio.target import TopologyKind
from redstreamd.redisio.topology import TopologyStatus
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.streams.tail_hub import TailHub

_Ping = dict[str, Any]

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
        self._sections: dict[str, Callable[[], msgspec.Struct]] = {}
        self._asked: dict[str, Callable[[], Awaitable[msgspec.Struct | None]]] = {}

    def include(self, section: str, figures: Callable[[], msgspec.Struct]) -> None:
        """Report what `figures` returns under the name `section`, too; for parts that are not known here."""
        self._sections[section] = figures

    def include_asked(self, section: str, figures: Callable[[], Awaitable[msgspec.Struct | None]]) -> None:
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
            pings = await self._pings()
        # Replies come together, and what follows takes a millisecond.
        await next_turn()
        # After the PING, whose reply may have changed the status.
        status = self._redis.status()
        return {
            "redstreamd": self._version,
            **{section: msgspec.to_builtins(figures()) for section, figures in self._sections.items()},
            "redis": _redis(status, pings),
            "waiting": msgspec.to_builtins(self._hub.statistics()),
            "subscriptions": msgspec.to_builtins(self._updates.statistics()),
            **asked,
        }

    @staticmethod
    async def _ask(
        section: str,
        figures: Callable[[], Awaitable[msgspec.Struct | None]],
        asked: dict[str, Any],
    ) -> None:
        with trio.move_on_after(_ASKED_SECONDS):
            if (found := await figures()) is not None:
                asked[section] = msgspec.to_builtins(found)

    async def _pings(self) -> dict[str, _Ping]:
        """Return what each node answers to PING, by its address; one under no address if none is known."""
        nodes = self._redis.nodes()
        if not nodes:
            return {"": await _ping(self._redis.ping)}
        pings: dict[str, _Ping] = {}

        async def ping(node: Node) -> None:
            pings[node.label] = await _ping(partial(node.execute, "PING", retry_safe=True))

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ping, node)
        return pings


async def _ping(ask: Callable[[], Awaitable[object]]) -> _Ping:
    began = trio.current_time()
    with trio.move_on_after(_PING_SECONDS):
        try:
            await ask()
        except BusError as error:
            # A server that cannot save refuses PING as it refuses writes, and is there all the same.
            if error.code is not Code.BACKEND_READ_ONLY:
                return {"answered": False, "cause": error.cause, "next_step": error.next_step}
        return {"answered": True, "seconds": round(trio.current_time() - began, 6)}
    return {"answered": False, "cause": f"There was no answer within {_PING_SECONDS} s."}


def _redis(status: TopologyStatus, pings: Mapping[str, _Ping]) -> dict[str, Any]:
    """Return what is said of Redis: of one server the same as of each node, and of several both."""
    whole = _server(status.label, _joined(pings), status.located_problems, status.roles)
    if status.kind is TopologyKind.STANDALONE:
        return whole
    nodes = [
        _server(
            node.label,
            pings.get(node.label, {"answered": False, "cause": "It was not known yet when all were asked."}),
            [("", problem) for problem in node.problems],
            node.roles,
        )
        for node in status.nodes
    ]
    return {"topology": status.kind.value, **whole, "nodes": nodes}


def _server(
    address: str,
    ping: _Ping,
    problems: Sequence[tuple[str, Problem]],
    roles: Mapping[Role, RoleStatus],
) -> dict[str, Any]:
    return {
        "address": address,
        "ping": ping,
        "troubles": [
            {
                "cause": f"{where}: {problem.effect}" if where else problem.effect,
                "next_step": problem.next_step,
            }
            for where, problem in problems
        ],
        "connections": {
            role.value: {"for": ROLE_NAMES[role], **_connection(state)}
            for role, state in roles.items()
            if state.wanted
        },
    }


def _joined(pings: Mapping[str, _Ping]) -> _Ping:
    """Return one answer for all: that of the slowest, or of one that gave none, which it names."""
    missing = {label: ping for label, ping in pings.items() if not ping["answered"]}
    if not missing:
        return max(pings.values(), key=lambda ping: ping["seconds"])
    label, ping = next(iter(missing.items()))
    return ping if len(pings) == 1 else {**ping, "cause": f"{label}: {ping['cause']}"}


def _connection(state: RoleStatus) -> dict[str, Any]:
    said: dict[str, Any] = {"connected": state.connected, "for_seconds": round(state.seconds, 3)}
    if state.connected:
        said["server"] = state.server
    elif state.problem is not None:
        said["cause"] = state.problem.cause
        said["next_step"] = state.problem.next_step
        said["failed_attempts"] = state.failed_attempts
    return said
