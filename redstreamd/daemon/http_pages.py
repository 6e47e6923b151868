"""What HTTP listeners serve beside MCP: whether the daemon is alive and ready, and its metrics.

The first two are for proxies and orchestrators, and need no credential. So they tell nothing about Redis,
streams or clients, and cost at most a question to Redis a second, however many ask. The metrics name streams,
so they are for those who may read every stream.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy import Principal
from redstreamd.policy.access import Policy
from redstreamd.redisio.client import Redis
from redstreamd.redisio.server_health import State
from redstreamd.streamable_http.http_messages import Answer, RequestHead

MetricsSource = Callable[[str], Awaitable[tuple[bytes, str]]]
"""``(the header Accept)``: returns a page and its content type."""

#: An answer of Redis is given again for so long.
FRESH_SECONDS: Final = 1.0
#: Seconds in which Redis has to answer.
_PING_SECONDS: Final = 1.0
_TEXT: Final = "text/plain; charset=utf-8"
_NOT_STORED: Final = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
_LATER: Final = (*_NOT_STORED, ("Retry-After", "1"))
_METHODS: Final = ("GET", "HEAD")


class HttpPages:
    """Answers requests for the pages. Each method is that of a page, for `HttpSite`."""

    def __init__(
        self,
        redis: Redis,
        policy: Policy,
        metrics: MetricsSource,
        *,
        is_draining: Callable[[], bool],
    ) -> None:
        """Ask nobody anything yet.

        Args:
            redis: Is asked whether it answers.
            policy: Says who may read the metrics.
            metrics: Writes them.
            is_draining: Whether the daemon stops.
        """
        self._redis = redis
        self._policy = policy
        self._metrics = metrics
        self._is_draining = is_draining
        self._asking = trio.Lock()
        self._asked_at = -math.inf
        self._missing = ""

    async def alive(self, head: RequestHead, _: Principal) -> Answer:
        """Return 200: the event loop runs."""
        return _refused(head) or _text(200, "alive")

    async def ready(self, head: RequestHead, _: Principal) -> Answer:
        """Return 200 if calls can be served now, else 503 and the reason in a few words."""
        if (refused := _refused(head)) is not None:
            return refused
        missing = "the daemon stops" if self._is_draining() else await self._missing_now()
        return _text(503, f"not ready: {missing}", _LATER) if missing else _text(200, "ready")

    async def metrics(self, head: RequestHead, principal: Principal) -> Answer:
        """Return the metrics to a principal that may read every stream, because they name streams."""
        if (refused := _refused(head)) is not None:
            return refused
        if self._policy.readable(principal) is not None:
            return _text(
                403,
                f"metrics name streams: they are for principals that may read * by {setting('policy.rules')}",
            )
        page, content_type = await self._metrics(head.fields.get("accept", ""))
        return Answer(200, page, content_type, _NOT_STORED)

    async def _missing_now(self) -> str:
        """Return what keeps calls from being served; empty if nothing does."""
        async with self._asking:
            if trio.current_time() >= self._asked_at + FRESH_SECONDS:
                self._missing = await self._ask()
                self._asked_at = trio.current_time()
            return self._missing

    async def _ask(self) -> str:
        answered = False
        with trio.move_on_after(_PING_SECONDS):
            try:
                # One node of several is enough: without this daemon, nobody would get at its streams either.
                await self._redis.ping_any()
                answered = True
            except BusError as error:
                # A server that cannot save refuses PING as it refuses writes, and serves reads.
                answered = error.code is Code.BACKEND_READ_ONLY
        if answered:
            return ""
        return (
            "Redis loads its data" if self._redis.status().state is State.LOADING else "Redis does not answer"
        )


def document_page(json: bytes) -> Callable[[RequestHead, Principal], Awaitable[Answer]]:
    """Return what answers with a JSON document that every web page may read."""
    answer = Answer(200, json, fields=(*_NOT_STORED, ("Access-Control-Allow-Origin", "*")))

    async def page(head: RequestHead, _: Principal) -> Answer:
        return _refused(head) or answer

    return page


def _refused(head: RequestHead) -> Answer | None:
    """Return the answer to a method that pages do not have; None to others."""
    if head.method in _METHODS:
        return None
    return _text(405, "a page is read by GET or HEAD", (*_NOT_STORED, ("Allow", ", ".join(_METHODS))))


def _text(status: int, text: str, fields: tuple[tuple[str, str], ...] = _NOT_STORED) -> Answer:
    return Answer(status, f"{text}\n".encode(), _TEXT, fields)
