"""One entry that is added with nothing asked for but that: an XADD, and the ID that is its reply.

It is packed in the protocol's own form if its values are texts in ASCII and integers. The same names, sizes,
streams and senders recur: their parts of the command are remembered, and an entry is put together in one
pass. hiredis, which looks at each word anew, takes more than twice as long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec

from redstreamd.redisio.script import PackedCommand, Write
from redstreamd.streams.entry_encoding import (
    ESCAPE,
    FORMAT,
    JSON_NAMES,
    MAX_MEMBERS,
    PREFIX_TEXT,
    SENDER,
    VERSION,
    Stamp,
    encode_fields,
)
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.plans import Plan
from redstreamd.strict_json import MAX_INTEGER

KeyT = TypeVar("KeyT", bound=Hashable)
ResultT = TypeVar("ResultT")

#: What is remembered of each kind, and how long a word may be that is: of names of 512 bytes some 3 MiB.
_MAX_REMEMBERED: Final = 4_096
_MAX_CHARACTERS: Final = 512


class SingleAdds:
    """Plans the adding of single entries.

    Attributes:
        added: How many were added so far.
    """

    def __init__(self, encryption: Encryption) -> None:
        """Have `encryption` seal the entries of streams that are encrypted."""
        self._encryption = encryption
        self.added = 0
        # Made once, not for each call.
        self._read: Final = self._id_of_one

    def plan(
        self,
        stream: str,
        members: Mapping[str, Any],
        sender: str,
        conversions: tuple[Callable[[bytes], ResultT]],
    ) -> Plan[ResultT]:
        """Plan to add an entry, with a stamp of its sender and nothing else.

        Args:
            stream: The stream; created if it does not exist.
            members: The entry.
            sender: Its stamp.
            conversions: The one that makes the result of the entry's ID; as plans have them.

        Raises:
            BusError: As `Publisher.plan_add`.
        """
        if not self._encryption.encrypts:
            packed = packed_add(stream, members, sender)
            if packed is not None:
                return Plan(packed, stream, self._read, conversions)
        return self.plan_stamped(stream, members, Stamp(sender), conversions)

    def plan_stamped(
        self,
        stream: str,
        members: Mapping[str, Any],
        stamp: Stamp,
        conversions: tuple[Callable[[bytes], ResultT]],
    ) -> Plan[ResultT]:
        """As `plan`, with any stamp."""
        fields = encode_fields(members, stamp)
        rule = self._encryption.rule_for(stream)
        if rule is not None:
            (fields,) = self._encryption.seal_all(stream, rule, (fields,))
        write: Write = ("XADD", stream, "*", *chain.from_iterable(fields.items()))
        return Plan(write, stream, self._read, conversions)

    def _id_of_one(self, entry_id: bytes) -> bytes:
        if type(entry_id) is not bytes:
            raise TypeError("an entry has an ID")
        self.added += 1
        return entry_id


def packed_add(stream: str, members: Mapping[str, Any], sender: str) -> PackedCommand | None:
    """Return the XADD of an entry whose stamp is its sender; None if the entry is not usual."""
    while True:
        as_json = []
        try:
            # Of more members than there may be no count is known.
            words = [_COUNT[len(members)], _OPENING[stream]]
            for name, value in members.items():
                if type(value) is not str:
                    if type(value) is not int or not -MAX_INTEGER <= value <= MAX_INTEGER:
                        return None
                    as_json.append(name)
                    value = str(value)
                words += _NAME[name], _SIZE[len(value)], value
            if as_json:
                words[0], numbers = _COUNT_LISTED[len(members)], tuple(as_json)
                words += _VERSIONED, _LISTED.get(numbers) or _listed(numbers), _CLOSING[sender]
            else:
                words += _VERSIONED, _CLOSING[sender]
        except KeyError:
            if not _learn(stream, members, sender):
                return None
        else:
            command = "".join(words)
            # What has other characters has more bytes than characters, or may be no I-JSON.
            return PackedCommand("XADD", command.encode()) if command.isascii() else None


def _word(text: str) -> str:
    """Return a text in ASCII as a bulk string, with the end of the line before it instead of its own."""
    return f"\r\n${len(text)}\r\n{text}"


#: What is known so far. These are plain dicts, in which the interpreter finds a text in half the time.
_OPENING: Final[dict[str, str]] = {}
_NAME: Final[dict[str, str]] = {}
_CLOSING: Final[dict[str, str]] = {}
_LISTED: Final[dict[tuple[str, ...], str]] = {}
# XADD, the stream and the asterisk, the version and the sender with their values, and pairs: those of the
# members alone, and with the list of those that are JSON.
_COUNT: Final[dict[int, str]] = {}
_COUNT_LISTED: Final[dict[int, str]] = {}
_SIZE: Final[dict[int, str]] = {}
_VERSIONED: Final = _word(VERSION) + _word(FORMAT)


def _learn(stream: str, members: Mapping[str, Any], sender: str) -> bool:
    """Remember what recurs of an entry; return whether all of that was short enough."""
    pairs = len(members)
    if pairs > MAX_MEMBERS:
        return False
    return (
        _remember(_OPENING, stream, _word("XADD") + _word(stream) + _word("*"))
        and all(
            (type(value) is str or (type(value) is int and abs(value) <= MAX_INTEGER))
            and _remember(_NAME, name, _word(_escaped(name)))
            and _remember(_SIZE, size := len(str(value)), f"\r\n${size}\r\n")
            for name, value in members.items()
        )
        and _remember(_CLOSING, sender, _word(SENDER) + _word(sender) + "\r\n")
        and _remember(_COUNT, pairs, f"*{7 + 2 * pairs}")
        and _remember(_COUNT_LISTED, pairs, f"*{9 + 2 * pairs}")
    )


def _escaped(name: str) -> str:
    return ESCAPE + name if name.startswith(PREFIX_TEXT) else name


def _listed(names: tuple[str, ...]) -> str:
    text = _word(JSON_NAMES) + _word(msgspec.json.encode(names).decode())
    _remember(_LISTED, names, text)
    return text


def _remember(known: dict[KeyT, str], key: KeyT, text: str) -> bool:
    """Remember a text that follows from `key`; return False if it is too long for that."""
    if key not in known:
        if len(text) > _MAX_CHARACTERS:
            return False
        if len(known) >= _MAX_REMEMBERED:
            known.clear()
        known[key] = text
    return True
