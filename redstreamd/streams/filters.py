"""Filters of reads and of waits: which entries have members equal to what is wanted.

Most entries do not match, and to decode one costs ten times as much as to look for the words that it would
have to have. Most batches have no entry that matches, and to look for the words among those of all its
entries costs as much as for one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from redstreamd import strict_json
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import ESCAPE, JSON_NAMES, PREFIX_TEXT
from redstreamd.streams.entry_pages import Batch


class Filter:
    """Tells which entries have members equal to some values."""

    __slots__ = ("_encoded", "_encoded_escaped", "_escaped", "_least_words", "_names", "_wanted", "_words")

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        """Look for entries with members equal to `wanted`, which has at least one."""
        self._wanted = wanted
        self._least_words = 2 * len(wanted)
        # Made when needed: a filter may be large.
        self._words: frozenset[str] | None = None

    def may_match_any(self, batch: Batch) -> bool:
        """Return whether an entry of a batch may match."""
        words = batch.words
        if words.most < self._least_words:
            return False
        return words.all is None or self._may_match(words.all, is_text=type(next(iter(words.all))) is str)

    def matches(self, entry: RawEntry) -> bool:
        """Return whether an entry matches."""
        words = entry.words
        if len(words) < self._least_words or not self._may_match(words, is_text=type(words[0]) is str):
            return False
        # Of an encrypted entry those that stayed clear.
        members = decode(entry.fields).members
        return all(
            name in members and strict_json.equal(members[name], value)
            for name, value in self._wanted.items()
        )

    def _may_match(self, words: Collection[Any], *, is_text: bool) -> bool:
        """Return whether all names are among the fields and values, and all texts, unless some are JSON.

        Also True if another program wrote one of the names in the form of a name that begins as ours do.
        """
        if self._words is None:
            wanted = self._wanted
            # Other names are stored or shown otherwise.
            names = [name for name in wanted if not name.startswith(PREFIX_TEXT) and "\\" not in name]
            self._names = frozenset(names)
            self._words = self._names.union(wanted[name] for name in names if isinstance(wanted[name], str))
            self._escaped = frozenset([ESCAPE + name for name in names])
            self._encoded = frozenset([_encoded(name) for name in names])
            self._encoded_escaped = frozenset(map(_encoded, self._escaped))
        if not is_text:
            return self._encoded.issubset(words) or not self._encoded_escaped.isdisjoint(words)
        return (
            self._words.issubset(words)
            or (JSON_NAMES in words and self._names.issubset(words))
            or not self._escaped.isdisjoint(words)
        )


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
