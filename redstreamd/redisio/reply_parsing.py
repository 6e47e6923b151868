"""The shapes of stream replies: frozen values, and how RESP3 replies become them.

Owns the reading of replies, and nothing else in the project does that. It does not know how
commands are built or sent.

Names of streams, groups and consumers are ``str``. Redis allows any bytes; what is not UTF-8 is
shown with backslash escapes. Fields and values stay ``bytes``, unless the server sent them as JSON.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from redstreamd.redisio.unexpected_replies import unexpected_reply

Fields = tuple[tuple[bytes, bytes], ...]


class RawEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a stream, as Redis holds it.

    Attributes:
        id: Entry ID, ``<milliseconds>-<sequence>``.
        words: Field and value in turn; a field may occur more than once. All are ``bytes``, or all ``str``.
    """

    id: str
    words: list[Any]

    @property
    def fields(self) -> Fields:
        """Field and value pairs, as bytes."""
        words = self.words
        if words and type(words[0]) is str:
            words = [word.encode() for word in words]
        try:
            return tuple(zip(words[::2], words[1::2], strict=True))
        except ValueError as error:
            raise unexpected_reply(error) from error


class GroupInfo(msgspec.Struct, frozen=True):
    """One group of XINFO GROUPS (https://redis.io/commands/xinfo-groups).

    Attributes:
        name: The consumer group.
        consumers: Number of its consumers.
        pending: Length of its pending entries list.
        last_delivered_id: ID of the last entry delivered.
        entries_read: Its logical read counter; None when unknown or before Redis 7.0.
        lag: Entries still to be delivered; None when the server cannot tell or before Redis 7.0.
    """

    name: str
    consumers: int
    pending: int
    last_delivered_id: str
    entries_read: int | None
    lag: int | None


class ConsumerInfo(msgspec.Struct, frozen=True):
    """One consumer of XINFO CONSUMERS (https://redis.io/commands/xinfo-consumers).

    Attributes:
        name: The consumer.
        pending: Entries delivered to it and not acknowledged.
        idle_seconds: Since it last tried anything.
        inactive_seconds: Since it last got or claimed an entry; None if it never did, or before
            Redis 7.2.
    """

    name: str
    pending: int
    idle_seconds: float
    inactive_seconds: float | None


class PendingEntry(msgspec.Struct, frozen=True):
    """One line of XPENDING's extended form (https://redis.io/commands/xpending).

    Attributes:
        id: Entry ID.
        consumer: Who holds it.
        idle_seconds: Since it was last delivered.
        deliveries: How often it was delivered.
    """

    id: str
    consumer: str
    idle_seconds: float
    deliveries: int


class PendingSummary(msgspec.Struct, frozen=True):
    """XPENDING's summary form.

    Attributes:
        count: Length of the group's pending entries list.
        smallest_id: Lowest pending entry ID, None if nothing is pending.
        greatest_id: Highest pending entry ID, None if nothing is pending.
        consumers: Each consumer that holds entries, with how many.
    """

    count: int
    smallest_id: str | None
    greatest_id: str | None
    consumers: tuple[tuple[str, int], ...]


def name(raw: bytes) -> str:
    """Decode the name of a key, group or consumer; bytes that are not UTF-8 show as hexadecimal escapes."""
    return raw.decode("utf-8", "backslashreplace")


def key_names(raw: Sequence[bytes]) -> list[str]:
    """Decode names of keys, without those that are not UTF-8: shown escaped they would name other keys."""
    names = []
    for each in raw:
        with contextlib.suppress(UnicodeDecodeError):
            names.append(each.decode())
    return names


def entry(raw: Sequence[Any]) -> RawEntry:
    """Read ``[ID, [field, value, ...]]``."""
    entry_id, flat = raw
    # A pending entry whose content was deleted comes with a null instead of fields.
    return RawEntry(entry_id.decode("ascii"), flat or [])


def entries(raw: Any) -> list[RawEntry]:
    """Read a list of entries, or one that a script encoded as JSON; null is the empty list."""
    if not isinstance(raw, bytes):
        # As `entry`, which would be a frame for each.
        return [RawEntry(entry_id.decode("ascii"), words or []) for entry_id, words in raw or ()]
    try:
        return _ENTRIES.decode(raw)
    except _NOT_UTF8:
        return [RawEntry(each.id, _as_bytes(each.words)) for each in _ENTRIES.decode(raw.decode("latin-1"))]


#: What is no UTF-8 is a UnicodeDecodeError up to msgspec 0.22, and a DecodeError from 0.23.
_NOT_UTF8: Final = (UnicodeDecodeError, msgspec.DecodeError)
_ENTRIES: Final = msgspec.json.Decoder(list[RawEntry])


def _as_bytes(words: list[str]) -> list[bytes]:
    """Return words of JSON that was decoded as Latin-1.

    The server escapes what is not printable in ASCII, and passes other bytes on, whatever they mean.
    """
    return [word.encode("latin-1") for word in words]


def config_value(raw: Mapping[bytes, bytes], setting: str) -> str | None:
    """Read the reply to CONFIG GET of one setting; None if the server has none of this name."""
    value = raw.get(setting.encode())
    return None if value is None else name(value)


def group_info(raw: Mapping[bytes, Any]) -> GroupInfo:
    """Read one group of XINFO GROUPS."""
    return GroupInfo(
        name=name(raw[b"name"]),
        consumers=raw[b"consumers"],
        pending=raw[b"pending"],
        last_delivered_id=raw[b"last-delivered-id"].decode("ascii"),
        entries_read=raw.get(b"entries-read"),
        lag=raw.get(b"lag"),
    )


def consumer_info(raw: Mapping[bytes, Any]) -> ConsumerInfo:
    """Read one consumer of XINFO CONSUMERS; times arrive in milliseconds, -1 for never."""
    inactive = raw.get(b"inactive", -1)
    return ConsumerInfo(
        name=name(raw[b"name"]),
        pending=raw[b"pending"],
        idle_seconds=raw[b"idle"] / 1000,
        inactive_seconds=None if inactive < 0 else inactive / 1000,
    )


def pending_entry(raw: Sequence[Any]) -> PendingEntry:
    """Read one line of XPENDING's extended form; XNACK leaves no consumer and an idle time of -1."""
    entry_id, consumer, idle_ms, deliveries = raw
    return PendingEntry(entry_id.decode("ascii"), name(consumer), max(idle_ms, 0) / 1000, deliveries)


def pending_summary(raw: Sequence[Any]) -> PendingSummary:
    """Read XPENDING's summary form."""
    count, smallest, greatest, consumers = raw
    return PendingSummary(
        count=count,
        smallest_id=None if smallest is None else smallest.decode("ascii"),
        greatest_id=None if greatest is None else greatest.decode("ascii"),
        # The counts are the one place where Redis sends numbers as text.
        consumers=tuple((name(consumer), int(held)) for consumer, held in consumers or ()),
    )


def info(raw: bytes) -> dict[str, str]:
    """Read INFO: its ``key:value`` lines, without the section headings."""
    lines = (line.partition(":") for line in raw.decode("utf-8", "backslashreplace").splitlines())
    return {key: value for key, colon, value in lines if colon}
