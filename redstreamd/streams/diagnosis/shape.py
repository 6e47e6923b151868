"""A stream as a whole, and how far a group is behind its end."""

from __future__ import annotations

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.manager import Manager, Replay
from redstreamd.redisio.replies import GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.problems import explained
from redstreamd.streams.scripts import load

_SHAPE = load("shape")

#: Entries counted one by one where the server cannot tell the lag.
MOST_COUNTED = 100


@attrs.frozen
class Shape:
    """A stream as a whole; None for what the server cannot tell or may not.

    Attributes:
        stream: Its name.
        now: The server's time in milliseconds.
        length: Entries in it.
        groups: Number of its groups.
        first_id: Its oldest entry; None if it is empty.
        last_id: The last ID ever generated.
        added: Entries ever added.
        deleted_id: The greatest ID ever deleted; None if none was.
        memory_bytes: What it takes, with its groups; an estimate by the server.
    """

    stream: str
    now: int
    length: int
    groups: int
    first_id: str | None
    last_id: str
    added: int | None
    deleted_id: str | None
    memory_bytes: int | None


@attrs.frozen
class Lag:
    """Entries not yet delivered to a group.

    Attributes:
        entries: How many, or the best guess.
        least: At least so many.
        most: At most so many; equal to `least` if it is known.
        unknown_because: Why the server itself does not tell; None if it does.
    """

    entries: int
    least: int
    most: int
    unknown_because: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the number is known."""
        return self.least == self.most


async def shape_of(manager: Manager, commands: Commands, stream: str) -> Shape | None:
    """Describe a stream; None if it does not exist."""
    async with explained(commands, stream):
        reply = await manager.run_script(_SHAPE, keys=[stream], args=[], replay=Replay.SAFE)
    if not reply:
        return None
    now, length, groups, first, last, added, deleted, memory = reply
    return Shape(
        stream=stream,
        now=now,
        length=length,
        groups=groups,
        first_id=first.decode() or None,
        last_id=last.decode(),
        added=None if added < 0 else added,
        deleted_id=None if deleted in (b"", b"0-0") else deleted.decode(),
        memory_bytes=None if memory < 0 else memory,
    )


def lag_of(shape: Shape, info: GroupInfo, *, counted: int | None) -> Lag:
    """Return a group's lag, as exactly as it can be known.

    The server does not tell it when entries ahead of the group were deleted, nor when the group's
    position was given as an arbitrary ID (https://redis.io/docs/latest/commands/xinfo-groups/). When
    entries ahead of it were trimmed it goes on counting them; so where the position alone decides, or the
    length sets a bound, that comes first.

    Args:
        shape: The stream.
        info: The group.
        counted: Entries found after the group's position, counting at most `MOST_COUNTED`; None: not counted.
    """
    why: str | None
    if info.lag is not None:
        why = None
    elif shape.added is None:
        why = "This server does not count it (Redis before 7.0)."
    elif info.entries_read is None:
        why = "The group was created, or its position was set, at an ID in the middle of the stream."
    else:
        why = "Entries after the group's position were deleted, so the server lost count."
    delivered = entry_ids.parse(info.last_delivered_id) or (0, 0)
    last = entry_ids.parse(shape.last_id) or (0, 0)
    first = entry_ids.parse(shape.first_id or "")
    if first is None or delivered >= last:
        return Lag(0, 0, 0, why)
    if delivered < first:
        return Lag(shape.length, shape.length, shape.length, why)
    if info.lag is not None:
        known = min(info.lag, shape.length)
        return Lag(known, known, known)
    if counted is not None and counted < MOST_COUNTED:
        return Lag(counted, counted, counted, why)
    # Entries are taken as evenly spread over time; the first one was certainly delivered.
    least, most = counted or 0, shape.length - 1
    share = (last[0] - delivered[0]) / max(1, last[0] - first[0])
    return Lag(min(max(round(shape.length * share), least), most), least, most, why)
