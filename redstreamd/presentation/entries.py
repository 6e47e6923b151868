"""How an entry looks to a caller: ``{id, time, stream, fields, ...}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_decoding import decode_all
from redstreamd.streams.entry_encryption import why_not_opened


class EntryView(msgspec.Struct, omit_defaults=True):
    """An entry as JSON; members that are None are left out.

    ``fields`` holds what the writer gave, and nothing else does. For the members behind it see
    `entry_decoding.Decoded`; the stamps were added by the daemon that added the entry. ``unreadable`` says
    why an encrypted entry cannot be read; then ``fields`` holds what is not encrypted. ``attempt`` counts
    the deliveries of one that was taken.
    """

    id: str
    time: str
    stream: str
    fields: dict[str, Any]
    sender: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    binary: Sequence[str] | None = None
    repeated: Sequence[str] | None = None
    dead_letter: dict[str, Any] | None = None
    released: dict[str, Any] | None = None
    unreadable: dict[str, Any] | None = None
    attempt: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain JSON values."""
        members = zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True)
        return {name: value for name, value in members if value is not None}


def views(stream: str, entries: Sequence[RawEntry]) -> list[EntryView]:
    """Return entries of a stream as JSON."""
    time_of = entry_ids.time_of
    shown = []
    for entry, decoded in zip(entries, decode_all(entries), strict=True):
        stamp = decoded.stamp
        view = EntryView(
            entry.id,
            time_of(entry.id),
            stream,
            decoded.members,
            stamp.sender,
            stamp.correlation_id,
            stamp.reply_to,
        )
        if decoded.binary:
            view.binary = list(decoded.binary)
        if decoded.repeated:
            view.repeated = list(decoded.repeated)
        if stamp.released is not None and (release := stamp.release) is not None:
            view.released = {
                "by": release.by,
                "waited_as": release.waiting_id,
                "published": time_of(release.waiting_id),
            }
        if decoded.dead_letter is not None:
            view.dead_letter = _note(decoded.dead_letter)
        if decoded.encrypted is not None:
            view.unreadable = msgspec.structs.asdict(why_not_opened(entry, decoded.encrypted))
        shown.append(view)
    return shown


def view(stream: str, entry: RawEntry) -> dict[str, Any]:
    """Return an entry of a stream as plain JSON values."""
    return views(stream, (entry,))[0].as_dict()


def with_key(shown: dict[str, Any], key: str | None, stream: str) -> dict[str, Any]:
    """Return an entry that lies beside its stream with what it is encrypted with, for operators.

    Args:
        shown: The entry.
        key: The ID of its key; None if it is not encrypted.
        stream: The stream that it is bound to: it can be read there, and nowhere else.
    """
    return shown if key is None else {**shown, "encrypted": {"key": key, "bound_to": stream}}


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
