"""How a script recognises a second sending of its own call.

A command whose reply was lost is sent again if that is safe. The second sending finds what the first one did,
and could not tell that from what others did: it would answer `duplicate`, or not report a group that it
created. So each call brings the name of a key of its own, in which the script records what it did.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Any

from redstreamd.redisio.client import Redis
from redstreamd.streams.names import Kind, companion_key


def call_record(redis: Redis, stream: str, *, keep: bool = True) -> dict[str, Any]:
    """Return the operands of a script for the record of one call on `stream`.

    They are `call_record`, the key, whose format is the script's own; and `call_record_ms`, how long to keep
    it: a call ends after its timeout, but the server may execute a last sending after that. 0 if it is not to
    be kept; then the key is one that no call writes.
    """
    if not keep:
        return _NOT_KEPT | {"call_record": _unwritten(stream)}
    key = companion_key(stream, Kind.CALL, secrets.token_hex(8))
    return {"call_record": key, "call_record_ms": int(redis.command_timeout * 2_000)}


_NOT_KEPT = {"call_record_ms": 0}


@lru_cache(maxsize=1_024)
def _unwritten(stream: str) -> str:
    return companion_key(stream, Kind.CALL, "none")
