"""Pages of entries as JSON, put together from what their entries have in common.

Most entries of a stream have the same names and the same reserved fields. What JSON has around their values
is made once for all of them, and the values are looked at together: a text of printable characters without
quotes and backslashes is its own JSON. All loops run in C. Another page is left to `entries.views`, which is
the truth about how an entry looks; a property test compares both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import msgspec

from redstreamd.presentation.entries import views
from redstreamd.presentation.truncation import encode_page
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.entry_codec import MEMBERS, RESERVED_PART, stored_value

_encode: Final = msgspec.json.Encoder().encode


def encode_entries(parts: Sequence[tuple[str, Sequence[RawEntry]]], max_bytes: int) -> tuple[Any, int]:
    """Return the JSON array of entries of some streams, and how many it holds; see `truncation.encode_page`.

    Args:
        parts: Streams and their entries.
        max_bytes: Bound on the array.
    """
    texts = [_joined(stream, entries, max_bytes) for stream, entries in parts]
    if None not in texts:
        array = f"[{','.join(texts)}]".encode()  # type: ignore[arg-type]
        if len(array) <= max_bytes:
            return msgspec.Raw(array), sum(len(entries) for _, entries in parts)
    return encode_page([view for stream, entries in parts for view in views(stream, entries)], max_bytes)


def delivery_lines(stream: str, entries: Sequence[RawEntry], max_bytes: int) -> list[str] | None:
    """Return entries that were delivered for the first time as JSON, each with a comma before it.

    Args:
        stream: Their stream.
        entries: The entries.
        max_bytes: Bound on all together.

    Returns:
        None if they are not alike, or larger; then `entries.views` shows them.
    """
    found = _pieces(stream, entries, max_bytes, end=',"attempt":1}')
    if found is None:
        return None
    pieces, step = found
    return ["".join(pieces[begin : begin + step]) for begin in range(0, len(pieces), step)]


def _joined(stream: str, entries: Sequence[RawEntry], most: int) -> str | None:
    """Return entries as JSON, with commas between them; None if they are not alike, or larger than `most`."""
    found = _pieces(stream, entries, most)
    # A comma begins each.
    return None if found is None else "".join(found[0])[1:]


def _pieces(
    stream: str, entries: Sequence[RawEntry], most: int, *, end: str = "}"
) -> tuple[list[str], int] | None:
    """Return the JSON of entries in pieces, and how many each has; None as `_joined`.

    Args:
        stream: Their stream.
        entries: The entries.
        most: How many characters there may be.
        end: The end of each.
    """
    if not entries or set(map(type, entries)) != {RawEntry}:
        return None
    words, each, count = entries[0].words, len(entries[0].words), len(entries)
    if set(map(len, [entry.words for entry in entries])) != {each}:
        return None
    flat = list(chain.from_iterable([entry.words for entry in entries]))
    members = MEMBERS[tuple(words[::2])]
    if not members or flat[::2] != words[::2] * count:
        return None
    values = 2 * len(members)
    # Of what is reserved the values are the same, too.
    if any(flat[place::each].count(words[place]) < count for place in range(values + 1, each, 2)):
        return None
    shape = _shape(stream, members, words[values:])
    if shape is None or count * sum(map(len, shape[0])) > most:
        return None
    between, as_json = shape
    try:
        columns = _texts([flat[place::each] for place in range(1, values, 2)], as_json, most)
    except (TypeError, UnicodeDecodeError):
        # Not all are texts in UTF-8.
        return None
    if columns is None:
        return None
    ids = [entry.id for entry in entries]
    step = 2 * len(between) - 1
    pieces = [between[-1] + end] * (step * count)
    for place, column in enumerate((ids, entry_ids.times_of(ids), *columns)):
        pieces[2 * place :: step] = [between[place]] * count
        pieces[2 * place + 1 :: step] = column
    return pieces, step


def _shape(
    stream: str, members: Sequence[str], end: Sequence[bytes | str]
) -> tuple[list[str], list[int]] | None:
    """Return what is before, between and behind an entry's ID, time and values, and which of these are JSON.

    Without the brace at its end.

    None if the entry is not usual.
    """
    read = RESERVED_PART[tuple(end)]
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
    return between, [place for place, name in enumerate(members) if name in as_json]


def _texts(columns: list[list[Any]], as_json: Sequence[int], most: int) -> list[list[str]] | None:
    """Return columns of values as they stand in JSON; None if they have more than `most` characters.

    Raises:
        TypeError: Some values are bytes and some are texts.
        UnicodeDecodeError: Some are not UTF-8.
    """
    flat, count = list(chain.from_iterable(columns)), len(columns[0])
    is_text = type(flat[0]) is str
    if sum(map(len, flat)) > 4 * most:
        # Not even copied: a value may have 100 MiB.
        return None
    # One text is decoded and looked at as fast as a single word.
    joined: Any = ('"' if is_text else b'"').join(flat)
    if len(joined) > most + len(flat):
        return None
    text: str = joined if is_text else joined.decode()
    words = text.split('"')
    is_plain = len(words) == len(flat) and "\\" not in text and text.isprintable()
    if len(words) != len(flat):
        words = flat if is_text else [word.decode() for word in flat]
    columns = [words[begin : begin + count] for begin in range(0, len(words), count)]
    for place, column in enumerate(columns):
        if place in as_json:
            columns[place] = [_json(stored_value(value)) for value in column]
        elif not is_plain:
            columns[place] = [_json(value)[1:-1] for value in column]
    return columns


def _json(value: Any) -> str:
    return _encode(value).decode()
