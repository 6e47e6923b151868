"""How an entry looks to a caller: ``{id, time, stream, fields, ...}``."""

from __future__ import annotations

from typing import Any

from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_codec import decode


def view(stream: str, entry: RawEntry) -> dict[str, Any]:
    """Return an entry as JSON.

    ``fields`` holds what the writer gave, and nothing else does. Members without a value are left out:
    ``sender``, ``correlation_id``, ``reply_to`` (stamped by the daemon that added the entry), ``binary``,
    ``repeated`` and ``dead_letter``; see `entry_codec.Decoded`.
    """
    decoded = decode(entry.fields)
    shown: dict[str, Any] = {
        "id": entry.id,
        "time": entry_ids.time_of(entry.id),
        "stream": stream,
        "fields": decoded.members,
    }
    stamp = decoded.stamp
    if stamp.sender is not None:
        shown["sender"] = stamp.sender
    if stamp.correlation_id is not None:
        shown["correlation_id"] = stamp.correlation_id
    if stamp.reply_to is not None:
        shown["reply_to"] = stamp.reply_to
    if decoded.binary:
        shown["binary"] = list(decoded.binary)
    if decoded.repeated:
        shown["repeated"] = list(decoded.repeated)
    if decoded.dead_letter is not None:
        shown["dead_letter"] = _note(decoded.dead_letter)
    return shown


def _note(written: dict[str, Any]) -> dict[str, Any]:
    """Return a dead letter's note with readable times in its history."""
    history = written.get("history")
    if not isinstance(history, list):
        return written
    return {**written, "history": [_delivery(each) if isinstance(each, dict) else each for each in history]}


def _delivery(written: dict[str, Any]) -> dict[str, Any]:
    at = written.get("at")
    if not isinstance(at, int) or not 0 <= at < entry_ids.MAX_PART:
        return written
    return {name: value for name, value in written.items() if name != "at"} | {"time": entry_ids.iso_time(at)}
