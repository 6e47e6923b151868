"""Names of streams that exist, for hints in errors.

Whoever asks for a stream that does not exist must not make the server look through all of its keys. So the
names are those of one step of SCAN, which all who ask share.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams.names import is_companion_key, is_stream_name
from redstreamd.streams.shared_requests import SharedRequest

#: Keys of one step: about 0.1 ms of the server's time, and 0.4 of ours.
_SCANNED: Final = 200
#: Seconds for which the names of one step are used where there are more keys than that.
_FRESH_SECONDS: Final = 1.0


class KnownStreams:
    """The names that the last step of SCAN found; one for each `Redis`, by `Redis.shared`.

    Invariant: `_until` is in the past if that step saw all keys; the next who asks has them scanned again.
    """

    def __init__(self, redis: Redis) -> None:
        """Ask `redis`."""
        self._redis = redis
        self._names: list[str] = []
        self._cursor = 0
        self._until = 0.0
        self._step = SharedRequest(self._scan)

    async def names(self) -> Collection[str]:
        """Return the names of some streams: of all, if there are few keys.

        None for a user of Redis who may not run SCAN.

        Raises:
            BusError: CONNECTION_ERROR and the like.
        """
        if trio.current_time() >= self._until:
            await self._step.answer()
        return self._names

    async def _scan(self) -> None:
        if trio.current_time() < self._until:
            return
        began = self._cursor
        try:
            self._cursor, page = await self._redis.scan_streams(began, "*", _SCANNED)
        except ServerReplied:
            page = []
        self._names = [name for name in page if is_stream_name(name) and not is_companion_key(name)]
        saw_all = began == self._cursor == 0
        self._until = 0.0 if saw_all else trio.current_time() + _FRESH_SECONDS
