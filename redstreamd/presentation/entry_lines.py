"""Pages of entries as JSON, put together from what their entries have in common.

Most entries of a stream have the same names and the same reserved fields. What JSON has around their values
is made once for all of them, and the values are looked at together: a text of printable characters without
quotes and backslashes is its own JSON. All loops run in C.
Another page is left to `entries.views`, which is the truth about how an entry looks; a property test compares
both.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any, Final

import msgspec

from redstreamd.presentation.entries import views
from redstreamd.presentation.truncation import encode_page
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_decoding import MEMBERS, RESERVED_PART, stored_value

_encode: Final = msgspec.json.Encoder().encode
_ids_of: Final = attrgetter("id")
_words_of: Final = attrgetter("words")
#: Bytes around an array.
_BRACKETS: Final = 2


class _Lines(msgspec.Struct):
    """Entries that are alike, as JSON. Of each entry there are as many pieces, with a comma before the first.

    Attributes:
        between: What is before, between and behind the values of an entry.
        columns: The values; of each place those of all entries.
    """

    between: list[str]
    columns: list[list[str]]

    def pieces(self) -> list[str]:
        """Return the pieces of all entries."""
        between = self.between
        row = [""] * (2 * len(between) - 1)
        row[::2] = between
        if len(self.columns[0]) == 1:
            row[1::2] = [column[0] for column in self.columns]
            return row
        pieces = row * len(self.columns[0])
        for place, column in enumerate(self.columns):
            pieces[2 * place + 1 :: len(row)] = column
        return pieces

    def lines(self) -> list[str]:
        """Return each entry by itself."""
        pieces, step = self.pieces(), 2 * len(self.between) - 1
        return ["".join(pieces[begin : begin + step]) for begin in range(0, len(pieces), step)]


def encode_entries(parts: Sequence[tuple[str, Sequence[RawEntry]]], max_bytes: int) -> tuple[Any, int]:
    """Return the JSON array of entries of some streams, and how many it holds; see `truncation.encode_page`.

    Args:
        parts: Streams and their entries.
        max_bytes: Bound on the array.
    """
    if len(parts) == 1 and len(parts[0][1]) == 1:
        stream, (entry,) = parts[0]
        line = _lone_line(stream, entry, max_bytes)
        if line is not None:
            array = b"[%b]" % line[1:].encode()
            if len(array) <= max_bytes:
                return msgspec.Raw(array), 1
    alike = _all_alike(parts, max_bytes)
    if alike:
        array = _array([each.pieces() for each in alike])
        if len(array) <= max_bytes:
            return msgspec.Raw(array), sum([len(entries) for _, entries in parts])
        if (fitting := _first_that_fit(alike, max_bytes)) is not None:
            return fitting
    shown = [view for stream, entries in parts for view in views(stream, entries)]
    return encode_page(shown, max_bytes)


def delivery_lines(stream: str, entries: Sequence[RawEntry], max_bytes: int) -> list[str] | None:
    """Return entries that were delivered for the first time as JSON, each with a comma before it.

    Args:
        stream: Their stream.
        entries: The entries.
        max_bytes: Bound on all together.

    Returns:
        None if they are not alike, or larger; then `entries.views` shows them.
    """
    alike = _alike(stream, entries, max_bytes, end=',"attempt":1}')
    lines = [] if alike is None else alike.lines()
    return lines if lines and sum(map(len, lines)) <= max_bytes else None


def _lone_line(stream: str, entry: RawEntry, most: int) -> str | None:
    """Return one entry of small texts as JSON with a comma before it, in few steps: most waits end with one.

    None if it is anything else, or if it is new what such entries have in common; `_alike` is for that.
    """
    words = entry.words
    names = tuple(words[::2])
    members = MEMBERS.get(names)
    if not members or type(entry) is not RawEntry:
        return None
    values = 2 * len(members)
    reserved, texts = tuple(words[values:]), words[1:values:2]
    if reserved not in RESERVED_PART or sum(map(len, texts)) > most:
        return None
    shape = _remembered_shape(stream, members, reserved, "}")
    if shape is None or shape[1]:
        return None
    try:
        if type(texts[0]) is not str:
            texts = [text.decode() for text in texts]
        if not _is_own_json("".join(texts)):
            return None
    except (AttributeError, TypeError, UnicodeDecodeError):
        # Not all are texts in UTF-8.
        return None
    between = shape[0]
    row = [""] * (2 * len(between) - 1)
    row[::2] = between
    row[1::2] = [entry.id, entry_ids.time_of(entry.id), *texts]
    return "".join(row)


def _array(parts: Sequence[list[str]]) -> bytes:
    # A comma begins each.
    return f"[{''.join(chain.from_iterable(parts) if len(parts) > 1 else parts[0])[1:]}]".encode()


def _first_that_fit(alike: Sequence[_Lines], most: int) -> tuple[msgspec.Raw, int] | None:
    """Return as many as fit, and how many; None if no page holds the next one, which is truncated then."""
    lines = [line.encode() for each in alike for line in each.lines()]
    sizes = list(map(len, lines))
    # Each has a comma, the first one in vain.
    fitting = sum([size - 1 + _BRACKETS <= most for size in accumulate(sizes)])
    if sizes[fitting] - 1 + _BRACKETS > most:
        return None
    return msgspec.Raw(b"[%b]" % b"".join(lines[:fitting])[1:]), fitting


def _all_alike(parts: Sequence[tuple[str, Sequence[RawEntry]]], most: int) -> list[_Lines] | None:
    """Return the entries of each stream; None if those of one are not alike."""
    alike = []
    for stream, entries in parts:
        lines = _alike(stream, entries, most)
        if lines is None:
            return None
        alike.append(lines)
    return alike


def _alike(stream: str, entries: Sequence[RawEntry], most: int, *, end: str = "}") -> _Lines | None:
    """Return entries as JSON; None if they are not alike, or so large that much would be copied in vain.

    Args:
        stream: Their stream.
        entries: The entries.
        most: How many characters there should be.
        end: The end of each.
    """
    if not entries or set(map(type, entries)) != {RawEntry}:
        return None
    words, count = list(map(_words_of, entries)), len(entries)
    first, each = words[0], len(words[0])
    if set(map(len, words)) != {each}:
        return None
    flat: list[Any] = []
    for of_one in words:
        flat += of_one
    names = tuple(first[::2])
    members = MEMBERS[names]
    if not members or (count > 1 and flat[::2] != first[::2] * count):
        return None
    values = 2 * len(members)
    if count > 1:
        # Of what is reserved the values are the same, too.
        for place in range(values + 1, each, 2):
            if flat[place::each].count(first[place]) < count:
                return None
    reserved = tuple(first[values:])
    # What has small names and reserved fields is remembered, as their meanings are.
    is_small = names in MEMBERS and reserved in RESERVED_PART
    shape = (_remembered_shape if is_small else _shape)(stream, members, reserved, end)
    if shape is None:
        return None
    between, as_json = shape
    if count * sum(map(len, between)) > 4 * most:
        return None
    try:
        texts = _texts([flat[place::each] for place in range(1, values, 2)], as_json, most)
    except (TypeError, UnicodeDecodeError):
        # Not all are texts in UTF-8.
        return None
    if texts is None:
        return None
    ids = list(map(_ids_of, entries))
    return _Lines(
        between,
        [ids, entry_ids.times_of(ids), *texts],
    )


def _shape(
    stream: str, members: Sequence[str], reserved: tuple[bytes | str, ...], end: str
) -> tuple[list[str], list[int]] | None:
    """Return what is before, between and behind an entry's ID, time and values, and which of these are JSON.

    Both are not to be changed. None if the entry is not usual.

    Args:
        stream: Its stream.
        members: The names of its values.
        reserved: Its reserved fields, each with its value.
        end: What ends it.
    """
    read = RESERVED_PART[reserved]
    if read is None or read[1].released is not None:
        return None
    as_json, stamp = read
    between = [',{"id":"', '","time":"', f'","stream":{_json(stream)},"fields":{{']
    quote = ""
    for name in members:
        between[-1] += f"{quote}{_json(name)}:"
        quote = "," if name in as_json else '",'
        if name not in as_json:
            between[-1] += '"'
        between.append("")
    between[-1] = quote.rstrip(",") + "}"
    for name in ("sender", "correlation_id", "reply_to"):
        if (text := getattr(stamp, name)) is not None:
            between[-1] += f',"{name}":{_json(text)}'
    between[-1] += end
    return between, [place for place, name in enumerate(members) if name in as_json]


#: The same entries come again and again.
_remembered_shape: Final = functools.lru_cache(maxsize=256)(_shape)


def _texts(columns: list[list[Any]], as_json: Sequence[int], most: int) -> list[list[str]] | None:
    """Return columns of values as they stand in JSON.

    None if they have many more than `most` characters: then they are not even copied, since a value may have
    100 MiB.

    Raises:
        TypeError: Some values are bytes and some are texts.
        UnicodeDecodeError: Some are not UTF-8.
    """
    flat, count = list(chain.from_iterable(columns)), len(columns[0])
    if sum(map(len, flat)) > 4 * most:
        return None
    is_text = type(flat[0]) is str
    # One text is decoded and looked at as fast as a single word.
    joined: Any = ('"' if is_text else b'"').join(flat)
    text: str = joined if is_text else joined.decode()
    words = text.split('"')
    is_own_json = len(words) == len(flat) and _is_own_json(text, quotes=True)
    if len(words) != len(flat):
        words = flat if is_text else [word.decode() for word in flat]
    elif is_text:
        words = flat
    columns = [words[begin : begin + count] for begin in range(0, len(words), count)]
    for place, column in enumerate(columns):
        if place in as_json:
            columns[place] = [_json(stored_value(value)) for value in column]
        elif not is_own_json and not _is_own_json("".join(column)):
            columns[place] = [_json(value)[1:-1] for value in column]
    return columns


def _is_own_json(text: str, *, quotes: bool = False) -> bool:
    """Return whether JSON has a text as it is; `quotes` are those between values."""
    return "\\" not in text and text.isprintable() and (quotes or '"' not in text)


def _json(value: Any) -> str:
    return _encode(value).decode()
