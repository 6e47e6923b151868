"""Information about a stream, and the lag of its groups."""

from __future__ import annotations

from typing import Any

import msgspec

from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.redisio.script import ScriptCall
from redstreamd.streams import entry_ids
from redstreamd.streams.error_context import explain_errors, stream_not_found
from redstreamd.streams.scripts import load

_INFO = load("info", "stream_info")

#: Entries are counted only if they are not larger on average, since the server reads them whole.
SMALL_BYTES = 16_384


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream; None for what the server does not tell.

    Attributes:
        stream: Its name.
        now: The server's time in milliseconds.
        length: Entries in it.
        groups: Number of its groups.
        first_id: Its oldest entry; None if it is empty.
        newest_id: Its newest entry; None if it is empty.
        last_id: The last ID ever generated; its entry may have been removed.
        added: Entries ever added.
        deleted_id: The greatest ID ever deleted; None if none was.
        memory_bytes: Its size with its groups, as the server estimates it.
    """

    stream: str
    now: int
    length: int
    groups: int
    first_id: str | None
    newest_id: str | None
    last_id: str
    added: int | None
    deleted_id: str | None
    memory_bytes: int | None

    @property
    def countable(self) -> bool:
        """Whether its entries are small enough to be counted one by one."""
        return self.memory_bytes is not None and self.memory_bytes <= SMALL_BYTES * max(1, self.length)


class Lag(msgspec.Struct, frozen=True):
    """Entries not yet delivered to a group.

    Attributes:
        entries: Their number, or an estimate.
        least: Lower bound.
        most: Upper bound; equal to `least` if the number is exact.
        unknown_because: Why the server does not tell it; None if it does, or if nothing depends on it.
    """

    entries: int
    least: int
    most: int
    unknown_because: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the number is exact."""
        return self.least == self.most

    def evidence(self) -> dict[str, Any]:
        """Return members of a finding's evidence, with bounds unless the number is exact."""
        bounds = {} if self.exact else {"estimated": True, "at_least": self.least, "at_most": self.most}
        return {"lag": self.entries, **bounds}


class Counted(msgspec.Struct, frozen=True):
    """A count of entries after a group's position; `all` if there are no more."""

    entries: int
    all: bool


async def read_stream_info(redis: Redis, stream: str) -> StreamInfo:
    """Describe a stream. Raises STREAM_NOT_FOUND, WRONG_TYPE."""
    async with explain_errors(redis, stream):
        reply = await _INFO.run(redis, stream=stream, retry_safe=True)
    if reply is None:
        raise await stream_not_found(redis, stream)
    return StreamInfo(stream, *reply)


def stream_info_call(stream: str) -> ScriptCall:
    """Return what to ask for a stream's description."""
    return _INFO.call({"stream": stream})


def stream_info_from(stream: str, reply: Any) -> StreamInfo | None:
    """Return the description of a stream from the reply; None if there is none."""
    return StreamInfo(stream, *_INFO.read(reply)) if reply else None


def compute_lag(stream: StreamInfo, info: GroupInfo, *, counted: Counted | None) -> Lag:
    """Return a group's lag as exactly as possible.

    The server subtracts the entries it counted as delivered from those ever added, which is right if none was
    removed. When entries ahead of a group are trimmed, Redis 7.0 goes on counting them, even after the group
    has read to the end, and later servers do so until it reads again: then the number is an upper bound. When
    entries ahead of the group were deleted, or its position is an arbitrary ID, the server reports no number
    (https://redis.io/docs/latest/commands/xinfo-groups/).

    After XGROUP CREATE with a wrong ENTRIESREAD the server may report any number; that is detected only if
    the position or the count contradicts it.

    Args:
        stream: The stream.
        info: The group.
        counted: Entries counted after the group's position; None: not counted.
    """
    delivered = entry_ids.parse(info.last_delivered_id) or (0, 0)
    first, newest = (entry_ids.parse(one or "") for one in (stream.first_id, stream.newest_id))
    if first is None or newest is None or delivered >= newest:
        return Lag(0, 0, 0)
    if delivered < first:
        return Lag(stream.length, stream.length, stream.length)
    # In between: the newest entry was not delivered, and the first one will not be.
    reported, least, most = info.lag, 1, stream.length - 1
    if reported is not None and stream.added == stream.length and least <= reported <= most:
        return Lag(reported, reported, reported)
    why = None if reported is not None else _why_unknown(stream, info)
    if counted is not None:
        if counted.all:
            return Lag(counted.entries, counted.entries, counted.entries, why)
        # The stream may have grown between its description and the count.
        least = min(max(least, counted.entries), most)
    if reported is not None and least <= reported <= most:
        return Lag(reported, least, reported)
    # Assume that entries are evenly distributed over time.
    share = (newest[0] - delivered[0]) / max(1, newest[0] - first[0])
    return Lag(min(max(round(stream.length * share), least), most), least, most, why)


def _why_unknown(stream: StreamInfo, info: GroupInfo) -> str:
    if stream.added is None:
        return "This server does not count it (Redis before 7.0)."
    if info.entries_read is not None:
        return "Entries after the group's position were deleted, so the server lost count."
    if stream.deleted_id is not None:
        return (
            "The group was created, or its position was set, at an ID in the middle of the stream, or it "
            "read on where entries had been deleted."
        )
    return "The group was created, or its position was set, at an ID in the middle of the stream."
