"""A stream as a whole, and how far a group is behind its end."""

from __future__ import annotations

from typing import Any

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.error_context import explained
from redstreamd.streams.scripts import load

_SHAPE = load("stream_info")

#: Entries counted one by one where the server's lag is not to be relied on.
MOST_COUNTED = 100
#: Entries are counted only where they are no larger on average: the server reads them whole.
SMALL_BYTES = 16_384


@attrs.frozen
class Shape:
    """A stream as a whole; None for what the server cannot tell or may not.

    Attributes:
        stream: Its name.
        now: The server's time in milliseconds.
        length: Entries in it.
        groups: Number of its groups.
        first_id: Its oldest entry; None if it is empty.
        newest_id: Its newest entry; None if it is empty.
        last_id: The last ID ever generated; of an entry that may have been removed.
        added: Entries ever added.
        deleted_id: The greatest ID ever deleted; None if none was.
        memory_bytes: What it takes, with its groups; an estimate by the server.
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


@attrs.frozen
class Lag:
    """Entries not yet delivered to a group.

    Attributes:
        entries: How many, or the best guess.
        least: At least so many.
        most: At most so many; equal to `least` if it is known.
        unknown_because: Why the server does not tell; None if it does, or if nothing depends on it.
    """

    entries: int
    least: int
    most: int
    unknown_because: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the number is known."""
        return self.least == self.most

    def evidence(self) -> dict[str, Any]:
        """Return it as members of a finding's evidence, with its bounds unless it is known."""
        bounds = {} if self.exact else {"estimated": True, "at_least": self.least, "at_most": self.most}
        return {"lag": self.entries, **bounds}


@attrs.frozen
class Counted:
    """Entries after a group's position that were counted one by one; `all` if there are no more."""

    entries: int
    all: bool


async def shape_of(manager: Manager, commands: Commands, stream: str) -> Shape | None:
    """Describe a stream; None if it does not exist."""
    async with explained(commands, stream):
        reply = await manager.run_script(_SHAPE, keys=[stream], args=[], retry_safe=True)
    if not reply:
        return None
    now, length, groups, first, newest, last, added, deleted, memory = reply
    return Shape(
        stream=stream,
        now=now,
        length=length,
        groups=groups,
        first_id=first.decode() or None,
        newest_id=newest.decode() or None,
        last_id=last.decode(),
        added=None if added < 0 else added,
        deleted_id=None if deleted in (b"", b"0-0") else deleted.decode(),
        memory_bytes=None if memory < 0 else memory,
    )


def lag_of(shape: Shape, info: GroupInfo, *, counted: Counted | None) -> Lag:
    """Return a group's lag, as exactly as it can be known.

    The server subtracts what it counted as delivered from what was ever added. That is right as long as
    nothing was removed. When entries ahead of a group are trimmed, Redis 7.0 goes on counting them, even
    once the group has read to the end, and later servers do so until it reads on: the number is then no more
    than an upper bound. When entries ahead of the group were deleted, or its position was given as an
    arbitrary ID, the server tells no number (https://redis.io/docs/latest/commands/xinfo-groups/).

    A client that creates a group with a wrong ENTRIESREAD makes the server tell anything; that is noticed
    only where the position or the count contradicts it.

    Args:
        shape: The stream.
        info: The group.
        counted: What was found after the group's position; None: not counted.
    """
    delivered = entry_ids.parse(info.last_delivered_id) or (0, 0)
    first, newest = (entry_ids.parse(one or "") for one in (shape.first_id, shape.newest_id))
    if first is None or newest is None or delivered >= newest:
        return Lag(0, 0, 0)
    if delivered < first:
        return Lag(shape.length, shape.length, shape.length)
    # In between: the newest entry was not delivered, and the first one is not going to be.
    told, least, most = info.lag, 1, shape.length - 1
    if told is not None and shape.added == shape.length and least <= told <= most:
        return Lag(told, told, told)
    why = None if told is not None else _why_unknown(shape, info)
    if counted is not None:
        if counted.all:
            return Lag(counted.entries, counted.entries, counted.entries, why)
        # It was counted later than the stream was described, and may have grown in between.
        least = min(max(least, counted.entries), most)
    if told is not None and least <= told <= most:
        return Lag(told, least, told)
    # Entries are taken as evenly spread over time.
    share = (newest[0] - delivered[0]) / max(1, newest[0] - first[0])
    return Lag(min(max(round(shape.length * share), least), most), least, most, why)


def _why_unknown(shape: Shape, info: GroupInfo) -> str:
    if shape.added is None:
        return "This server does not count it (Redis before 7.0)."
    if info.entries_read is not None:
        return "Entries after the group's position were deleted, so the server lost count."
    if shape.deleted_id is not None:
        return (
            "The group was created, or its position was set, at an ID in the middle of the stream, or it "
            "read on where entries had been deleted."
        )
    return "The group was created, or its position was set, at an ID in the middle of the stream."
