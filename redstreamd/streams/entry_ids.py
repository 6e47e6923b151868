"""Entry IDs, the times they carry, and the forms in which a caller names a position.

An entry ID is ``<milliseconds>-<sequence>``, both unsigned 64-bit
(https://redis.io/docs/latest/develop/data-types/streams/#entry-ids). It stays a string on its way
to and from callers: 64 bits do not fit JSON's numbers.
"""

from __future__ import annotations

import datetime as dt
import re
import zlib
from collections.abc import Sequence

from redstreamd.errors import BusError, Code

#: Before the first entry that can exist; the cursor of one who has read nothing.
ZERO = "0-0"

#: A year, or a year and a month, which is the entry ID of a moment in 1970 as well.
_YEAR = re.compile(r"(?:19[7-9]\d|2\d{3})(?:-(?:0[1-9]|1[0-2]))?", re.ASCII)
_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
MAX_PART = (1 << 64) - 1
#: The greatest ID that can exist.
LAST = f"{MAX_PART}-{MAX_PART}"

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def parse(text: str) -> tuple[int, int] | None:
    """Return an entry ID's two parts, or None if `text` is not one. A missing sequence reads as 0."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    milliseconds, sequence = int(match[1]), int(match[2] or 0)
    return (milliseconds, sequence) if milliseconds <= MAX_PART and sequence <= MAX_PART else None


def time_of(entry_id: str) -> str:
    """Return the time in an entry ID as ISO 8601 in UTC with milliseconds.

    IDs given by hand need not be times: beyond the year 9999 the answer is the last instant of it.
    """
    parts = parse(entry_id)
    return iso_time(parts[0] if parts else 0)


def iso_time(milliseconds: int) -> str:
    """Return a Unix time in milliseconds as ISO 8601 in UTC."""
    try:
        moment = _EPOCH + dt.timedelta(milliseconds=milliseconds)
    except OverflowError:
        moment = dt.datetime.max.replace(tzinfo=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def position(text: str, *, argument: str) -> str:
    """Turn what a caller gave as a start or an end into an entry ID, or ``-``, ``+``.

    Args:
        text: ``earliest``, ``latest``, an ISO 8601 time (UTC if it names no zone) or an entry ID.
        argument: The argument's name, for the error.

    Returns:
        ``-`` for earliest, ``+`` for latest, else an entry ID. That of a time has no second part, which
        stands for the whole millisecond: its first ID where a range begins, its last where one ends.

    Raises:
        BusError: INVALID_START.
    """
    if text == "earliest":
        return "-"
    if text == "latest":
        return "+"
    if _YEAR.fullmatch(text):
        raise BusError(
            Code.INVALID_START,
            f"{argument}={text!r} may be a date or an entry ID.",
            cause="An entry ID begins with milliseconds since 1970: this one lies in its first seconds.",
            next_step="Give a date with its day, such as 2026-01-31, or a full entry ID such as "
            "1767225600000-0.",
        )
    if (parts := parse(text)) is not None:
        return f"{parts[0]}-{parts[1]}" if "-" in text else str(parts[0])
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or not text[:4].isdigit():
        raise BusError(
            Code.INVALID_START,
            f"{argument}={text[:80]!r} names no position in a stream.",
            cause="It is none of the four forms that are understood.",
            next_step="Give 'earliest', 'latest', an ISO 8601 time such as 2026-01-31T12:00:00Z, "
            "or an entry ID such as 1767225600000-0.",
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    milliseconds = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
    return str(max(0, milliseconds))


def before(entry_id: str) -> str:
    """Return the greatest ID below a complete one; ``0-0`` has none and is returned itself."""
    milliseconds, sequence = parse(entry_id) or (0, 0)
    if sequence > 0:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{MAX_PART}" if milliseconds > 0 else ZERO


def after(entry_id: str) -> str:
    """Return the smallest ID above a complete one; the last one there is has none and is returned itself."""
    milliseconds, sequence = parse(entry_id) or (0, 0)
    if sequence < MAX_PART:
        return f"{milliseconds}-{sequence + 1}"
    return f"{milliseconds + 1}-0" if milliseconds < MAX_PART else entry_id


def join_cursor(streams: Sequence[str], ids: Sequence[str]) -> str:
    """Return one cursor for positions in several streams, given in the same order.

    The cursor of one stream is simply an entry ID, so that it works for every tool. With several,
    a checksum of their names comes first: positions must not be applied to other streams.
    """
    if len(streams) == 1:
        return ids[0]
    return f"{_fingerprint(streams)}:{','.join(ids)}"


def split_cursor(streams: Sequence[str], cursor: str) -> list[str]:
    """Return the positions in a cursor, one complete ID for each of `streams`.

    Raises:
        BusError: INVALID_ARGUMENT if it is malformed or belongs to other streams.
    """
    mark, colon, rest = cursor.rpartition(":")
    ids = [f"{parts[0]}-{parts[1]}" for one in rest.split(",") if (parts := parse(one)) is not None]
    right = len(ids) == len(streams) == rest.count(",") + 1
    if right and (mark == _fingerprint(streams) if len(streams) > 1 else not colon):
        return ids
    raise BusError(
        Code.INVALID_ARGUMENT,
        f"cursor={cursor[:80]!r} does not belong to these {len(streams)} stream(s).",
        cause="A cursor holds one position for each stream of the call it came from, in that order.",
        next_step="Pass next_cursor of the last answer with the same streams, or leave cursor out.",
    )


def _fingerprint(streams: Sequence[str]) -> str:
    return format(zlib.crc32("\0".join(streams).encode()), "08x")
