"""Whether the server at the other end of a connection is still there: it answers in time, at least a PING."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from redis.exceptions import RedisError

from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.redis_errors import QueueFull
from redstreamd.redisio.redis_request import SECOND_LOOK_SECONDS


class Liveness:
    """Watches one connection that is logged in.

    Attributes:
        round_trip_seconds: Of the last PING; None before the first.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        end: Callable[[str, float], None],
        *,
        reply_timeout: float,
        ping_interval: float,
        ping_timeout: float,
        on_ping_refused: Callable[[RedisError], None] | None,
    ) -> None:
        """Watch the requests of `pipeline`, once the tasks below run.

        Args:
            pipeline: The requests.
            end: Called when the server is given up, with what it did not answer within so many seconds.
            reply_timeout: See `Connection`, as for all that follow.
            ping_interval: Likewise.
            ping_timeout: Likewise.
            on_ping_refused: Likewise.
        """
        self.round_trip_seconds: float | None = None
        self._pipeline = pipeline
        self._end = end
        self._reply_timeout = reply_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._on_ping_refused = on_ping_refused

    async def watch_deadlines(self) -> None:
        """End the connection when the oldest request is overdue.

        Deadlines grow along the pipeline, so watching its head is enough, and spares every request a
        cancel scope of its own.
        """
        awaited = self._pipeline.awaited
        while True:
            now = trio.current_time()
            due = awaited.oldest_deadline
            if due is None:
                # Whatever is sent from now on is due no sooner than this.
                due = now + self._reply_timeout
            elif due <= now:
                # If this process was held up itself, the replies are there and not yet read.
                await trio.sleep(SECOND_LOOK_SECONDS)
                if awaited.oldest_deadline == due:
                    self._end("a command", self._reply_timeout)
                    return
                continue
            await trio.sleep_until(due)

    async def ping(self) -> None:
        """Find out from time to time whether the peer is still there, and how far away."""
        pipeline = self._pipeline
        while True:
            await trio.sleep(self._ping_interval)
            if pipeline.is_closed:
                return
            # Behind other requests, such as a large read, their own deadline has to do.
            seconds = math.inf if pipeline.in_flight else self._ping_timeout
            started = trio.current_time()
            try:
                request = pipeline.enqueue(("PING",))
                try:
                    await request.reply_by(started + seconds)
                except trio.TooSlowError:
                    if not request.sent:
                        continue  # it was taken back; others were sent before
                    if pipeline.in_flight == 1:
                        self._end("PING", self._ping_timeout)
                        return
                    # Those who asked meanwhile have the time of a command.
                    await request.reply()
            except RedisError as error:
                # LOADING, BUSY and MISCONF are signs of life as well.
                if self._on_ping_refused is not None:
                    self._on_ping_refused(error)
            except QueueFull:
                continue  # others wait for replies, which is as good a test
            self.round_trip_seconds = trio.current_time() - started
