"""Entry IDs, the times they contain, and how callers name positions in a stream.

An entry ID is ``<milliseconds>-<sequence>``, both unsigned 64-bit
(https://redis.io/docs/latest/develop/data-types/streams/#entry-ids). It is a string for callers, too, since
JSON numbers do not hold 64 bits.
"""

from __future__ import annotations

import datetime as dt
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

from redstreamd.errors import BusError, Code

#: Before the first possible entry; the cursor before anything was read.
ZERO = "0-0"

#: A year, or a year and a month, which is also an entry ID of 1970.
_YEAR = re.compile(r"(?:19[7-9]\d|2\d{3})(?:-(?:0[1-9]|1[0-2]))?", re.ASCII)
_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)
MAX_PART = (1 << 64) - 1
#: Of the two parts of an ID that are surely no greater than that, with the dash.
_USUAL_LENGTH = 20
#: The greatest possible ID.
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

    An ID that was given explicitly need not be a time; beyond the year 9999 the result is its last instant.
    """
    milliseconds, _, sequence = entry_id.partition("-")
    if len(entry_id) <= _USUAL_LENGTH and sequence.isdecimal() and entry_id.isascii():
        return _time_in(milliseconds)
    parts = parse(entry_id)
    return iso_time(parts[0] if parts else 0)


def times_of(entry_ids: Sequence[str]) -> list[str]:
    """Return of each of some IDs that Redis gave what `time_of` returns."""
    if len(entry_ids) == 1:
        return [time_of(entry_ids[0])]
    parts = "-".join(entry_ids).split("-")
    if len(parts) != 2 * len(entry_ids) or max(map(len, entry_ids)) > _USUAL_LENGTH:
        return [time_of(each) for each in entry_ids]
    milliseconds = parts[::2]
    # Entries that are added together have the same.
    times = {each: _time_in(each) for each in set(milliseconds)}
    return list(map(times.__getitem__, milliseconds))


@lru_cache(maxsize=256)
def _time_in(milliseconds: str) -> str:
    # Entries that are added together have the same.
    return iso_time(int(milliseconds) if milliseconds.isdecimal() else 0)


@lru_cache(maxsize=256)
def _iso_second(seconds: int) -> str:
    return (_EPOCH + dt.timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def forget_times() -> None:
    """Forget the texts of times that were made of late. They are made again."""
    _time_in.cache_clear()
    _iso_second.cache_clear()


def iso_time(milliseconds: int) -> str:
    """Return a Unix time in milliseconds as ISO 8601 in UTC."""
    seconds, rest = divmod(milliseconds, 1_000)
    try:
        return f"{_iso_second(seconds)}.{rest:03d}Z"
    except OverflowError:
        latest = dt.datetime.max.replace(tzinfo=dt.UTC)
        return latest.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def position(text: str, *, argument: str) -> str:
    """Turn a start or end that a caller gave into an entry ID, or ``-``, ``+``.

    Args:
        text: ``earliest``, ``latest``, an ISO 8601 time (UTC if it names no zone) or an entry ID.
        argument: The argument's name, for the error.

    Returns:
        ``-`` for earliest, ``+`` for latest, else an entry ID. For a time it has no sequence: then it is the
        first ID of its millisecond as a start, and the last one as an end.

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
            cause="As an entry ID, which is milliseconds since 1970, it is in the first seconds of 1970.",
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
            f"{argument}={text[:80]!r} is not a position in a stream.",
            cause="It has none of the four known formats.",
            next_step="Give 'earliest', 'latest', an ISO 8601 time such as 2026-01-31T12:00:00Z, "
            "or an entry ID such as 1767225600000-0.",
        )
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    milliseconds = (moment - _EPOCH) // dt.timedelta(milliseconds=1)
    return str(max(0, milliseconds))


def before(entry_id: str) -> str:
    """Return the greatest ID below a complete one; ``0-0`` is returned itself."""
    milliseconds, sequence = parse(entry_id) or (0, 0)
    if sequence > 0:
        return f"{milliseconds}-{sequence - 1}"
    return f"{milliseconds - 1}-{MAX_PART}" if milliseconds > 0 else ZERO


def after(entry_id: str) -> str:
    """Return the smallest ID above a complete one; the greatest possible one is returned itself."""
    milliseconds, sequence = parse(entry_id) or (0, 0)
    if sequence < MAX_PART:
        return f"{milliseconds}-{sequence + 1}"
    return f"{milliseconds + 1}-0" if milliseconds < MAX_PART else entry_id


def join_cursor(streams: Sequence[str], ids: Sequence[str]) -> str:
    """Return one cursor for positions in several streams, given in the same order.

    The cursor of one stream is an entry ID, so that it works for every tool. That of several begins with a
    checksum of their names, since positions must not be applied to other streams.
    """
    if len(streams) == 1:
        return ids[0]
    return f"{_checksum(streams)}:{','.join(ids)}"


def split_cursor(streams: Sequence[str], cursor: str) -> list[str]:
    """Return the positions of a cursor, a complete ID for each of `streams`.

    Raises:
        BusError: INVALID_ARGUMENT if it is malformed or belongs to other streams.
    """
    checksum, colon, rest = cursor.rpartition(":")
    ids = [f"{parts[0]}-{parts[1]}" for one in rest.split(",") if (parts := parse(one)) is not None]
    complete = len(ids) == len(streams) == rest.count(",") + 1
    if complete and (checksum == _checksum(streams) if len(streams) > 1 else not colon):
        return ids
    if len(streams) == 1:
        raise BusError(
            Code.INVALID_ARGUMENT,
            f"cursor={cursor[:80]!r} is not a position in this stream.",
            cause="A cursor is what next_cursor was in the last answer about the same stream.",
            next_step="Pass that, or '0-0' for the beginning of the stream, or leave cursor out.",
        )
    raise BusError(
        Code.INVALID_ARGUMENT,
        f"cursor={cursor[:80]!r} does not belong to these {len(streams)} streams.",
        cause="A cursor has one position for each stream of its call, in the same order.",
        next_step="Pass next_cursor of the last answer with the same streams, or leave cursor out.",
    )


def _checksum(streams: Sequence[str]) -> str:
    return format(zlib.crc32("\0".join(streams).encode()), "08x")
