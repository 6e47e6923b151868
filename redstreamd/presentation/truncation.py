"""Truncating lists of entries: what is shortened, what replaces it, and where the whole can be read.

Entries are ``{id, time, stream, fields, …}`` of plain JSON values.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from redstreamd.presentation.entries import EntryView
from redstreamd.presentation.uris import entry_uri, field_uri

# Characters shown of a truncated value: the most of these with which the entry fits.
_HEADS = (512, 64, 0)
# `"":0,` is the shortest member of an object.
_SMALLEST_MEMBER = 5


def bound_entries(
    entries: list[dict[str, Any]], max_bytes: int, *, droppable: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Return entries whose JSON array takes at most ``max_bytes``.

    A truncated value is replaced by ``{"cut": {"bytes", "head", "uri"}}``: its length in UTF-8 (of its JSON,
    unless it is a string), its first characters, and the resource with the whole value. Since a field may
    hold such an object itself, the names of truncated fields are listed beside the fields as ``cut``. If that
    is not enough, fields are left out, and ``omitted`` has their number, their bytes of JSON, and the
    resource with the whole entry. Lists of field names beside the fields keep only the remaining names.

    Takes time proportional to the entries' JSON. Does not change the given entries.

    Args:
        entries: Entries that were read or delivered.
        max_bytes: Bound on the UTF-8 length of the compact JSON of the returned list. Exceeded only by what
            may not be left out: the first entry, or all if ``droppable`` is False, without any fields.
        droppable: Whether entries at the end may be left for the next page (a read). If not (a delivery), all
            entries are returned and the large ones share the space equally.

    Returns:
        The entries, and whether some were left out at the end.
    """
    sizes = [_entry_size(entry, max_bytes) for entry in entries]
    # With the brackets and the commas.
    if not entries or sum(sizes) + len(sizes) + 1 <= max_bytes:
        return entries, False
    room = max_bytes - len("[]")
    if not droppable:
        level = _size_limit(sizes, room - (len(entries) - 1))
        return [
            entry if size <= level else _truncated(entry, level)
            for entry, size in zip(entries, sizes, strict=True)
        ], False
    kept: list[dict[str, Any]] = []
    for entry, size in zip(entries, sizes, strict=True):
        # Truncate only what no page could hold; other entries are whole on the next page.
        fitting = entry if size <= max_bytes - len("[]") else _truncated(entry, max_bytes - len("[]"))
        room -= (size if fitting is entry else _size(fitting)) + (1 if kept else 0)
        if kept and room < 0:
            return kept, True
        kept.append(fitting)
    return kept, False


def encode_page(views: Sequence[EntryView], max_bytes: int) -> tuple[Any, int]:
    """Return the JSON array that `bound_entries` makes of a page, and how many entries it holds.

    The array is a `msgspec.Raw`, to stand for the list in a result: so it is encoded once, and copied then.
    """
    # A page ends with the entry that exceeds it, which may have 100 MiB.
    if not views or not _is_too_large(views[-1].fields, max_bytes):
        encoded = msgspec.json.encode(views)
        if len(encoded) <= max_bytes:
            return msgspec.Raw(encoded), len(views)
    lines: list[bytes] = []
    room = most = max_bytes - len("[]")
    for view in views:
        line = b"" if _is_too_large(view.fields, most) else msgspec.json.encode(view)
        if not line or len(line) > most:
            line = msgspec.json.encode(_truncated(view.as_dict(), most))
        room -= len(line) + (1 if lines else 0)
        if lines and room < 0:
            break
        lines.append(line)
    return msgspec.Raw(b"".join((b"[", b",".join(lines), b"]"))), len(lines)


def encode_delivery(views: Sequence[EntryView], max_bytes: int) -> Any:
    """Return the JSON array that `bound_entries` makes of a delivery, as `encode_page` does of a page."""
    if not any(_is_too_large(view.fields, max_bytes) for view in views):
        encoded = msgspec.json.encode(views)
        if len(encoded) <= max_bytes:
            return msgspec.Raw(encoded)
    bounded, _ = bound_entries([view.as_dict() for view in views], max_bytes, droppable=False)
    return msgspec.Raw(msgspec.json.encode(bounded))


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _size_up_to(value: Any, most: int) -> int:
    """Return the size of a value; of a text of more than `most` characters some greater number than that."""
    return len(value) if isinstance(value, str) and len(value) > most else _size(value)


def _entry_size(entry: dict[str, Any], most: int) -> int:
    """Return the size of an entry; if it has a text of more than `most` characters some greater number."""
    return most + 1 if _is_too_large(entry["fields"], most) else _size(entry)


def _is_too_large(fields: dict[str, Any], most: int) -> bool:
    """Return whether there is a text of more than `most` characters; to encode one takes long."""
    # Not by `any`, which has a frame for each value.
    for value in fields.values():  # noqa: SIM110
        if isinstance(value, str) and len(value) > most:
            return True
    return False


def _size_limit(sizes: list[int], room: int) -> int:
    """Return the limit for each size with which all of them fit."""
    left = len(sizes)
    for size in sorted(sizes):
        share = max(room, 0) // left
        if size > share:
            return share
        room -= size
        left -= 1
    return max(sizes)


def _truncated(entry: dict[str, Any], budget: int) -> dict[str, Any]:
    """Return ``entry`` in at most ``budget`` bytes, or with all its fields omitted."""
    if not entry["fields"]:
        return entry
    parts = _Parts.of(entry, budget)
    if parts.may_fit_with_markers():
        for head in _HEADS:
            if (result := parts.with_markers(head)) is not None:
                return result
    return parts.with_omissions()


class _Parts(msgspec.Struct, frozen=True):
    """An entry that is too large, and the size of its parts in bytes of JSON.

    Attributes:
        entry: The entry, never changed.
        budget: What it may take.
        uri: The resource with the whole entry.
        bare: Size without fields and without names in its lists, with an empty ``cut``.
        names: Sizes of the names of fields; only of as many fields as the budget could hold, which bounds the
            time spent on a huge entry.
        values: Sizes of their values; of a text that has more characters than the budget some greater number.
        beside: Sizes of the rest of each: punctuation, and its names in lists.
    """

    entry: dict[str, Any]
    budget: int
    uri: str
    bare: int
    names: dict[str, int]
    values: dict[str, int]
    beside: dict[str, int]

    @classmethod
    def of(cls, entry: dict[str, Any], budget: int) -> _Parts:
        """Measure ``entry``."""
        fields: dict[str, Any] = entry["fields"]
        lists = [set(entry[key]) for key in _lists_of_names(entry)]
        considered = list(islice(fields, max(budget, 0) // _SMALLEST_MEMBER + 1))
        names = {name: _size(name) for name in considered}
        return cls(
            entry=entry,
            budget=budget,
            uri=entry_uri(entry["stream"], entry["id"]),
            bare=_size(_rebuilt(entry, {})) + len(',"cut":[]'),
            names=names,
            values={name: _size_up_to(fields[name], budget) for name in considered},
            beside={
                name: len(":,") + sum(name in listed for listed in lists) * (size + len(","))
                for name, size in names.items()
            },
        )

    def may_fit_with_markers(self) -> bool:
        """Return whether all fields might fit; False is certain, True is not."""
        least = sum(min(size, self._smallest_marker) for size in self.values.values())
        return (
            len(self.names) == len(self.entry["fields"])
            and self.bare + sum(self.names.values()) + sum(self.beside.values()) + least <= self.budget
        )

    def with_markers(self, head: int) -> dict[str, Any] | None:
        """Return the entry with its largest values cut to ``head`` characters; None if it does not fit."""
        markers: dict[str, Any] = {}
        total = self.bare + sum(self.names.values()) + sum(self.values.values()) + sum(self.beside.values())
        for name in sorted(self.values, key=self.values.__getitem__, reverse=True):
            if total <= self.budget or self.values[name] <= self._smallest_marker:
                break
            marker, size = self._marker(name, head)
            if size < self.values[name]:
                markers[name] = marker
                total += size - self.values[name]
        if total > self.budget:
            return None
        return _rebuilt(self.entry, self.entry["fields"], markers)

    def with_omissions(self) -> dict[str, Any]:
        """Return the entry with as many fields as fit, in their order, without content of large ones."""
        fields: dict[str, Any] = self.entry["fields"]
        omitted = {"fields": len(fields), "bytes": _size(fields), "uri": self.uri}
        room = self.budget - self.bare - len(',"omitted":') - _size(omitted)
        kept: dict[str, Any] = {}
        markers: dict[str, Any] = {}
        left = _size(fields)
        for name, size in self.values.items():
            shown = size
            if size > self._smallest_marker:
                marker, marker_size = self._marker(name, 0)
                if marker_size < size:
                    markers[name], shown = marker, marker_size
            if (cost := self.names[name] + shown + self.beside[name]) <= room:
                room -= cost
                left -= self.names[name] + (size if size <= self.budget else _size(fields[name])) + len(":,")
                kept[name] = fields[name]
        omitted.update(fields=len(fields) - len(kept), bytes=left)
        return {**_rebuilt(self.entry, kept, markers), "omitted": omitted}

    @property
    def _smallest_marker(self) -> int:
        return len('{"cut":{"bytes":1,"head":"","uri":"/fields/"}}') + len(self.uri)

    def _marker(self, name: str, head: int) -> tuple[dict[str, Any], int]:
        """Return the replacement of a value, and its size with the name in ``cut``."""
        value = self.entry["fields"][name]
        if isinstance(value, str):
            length, text = len(value) if value.isascii() else len(value.encode()), value[:head]
        else:
            encoded = msgspec.json.encode(value)
            # A character takes at most four bytes; an incomplete one at the end is dropped.
            length, text = len(encoded), encoded[: 4 * head].decode(errors="ignore")[:head]
        marker = {"cut": {"bytes": length, "head": text, "uri": field_uri(self.uri, name)}}
        return marker, _size(marker) + self.names[name] + len(",")


def _lists_of_names(entry: Mapping[str, Any]) -> list[str]:
    """Return the members beside ``fields`` that list field names."""
    return [
        key
        for key, value in entry.items()
        if isinstance(value, list) and all(isinstance(name, str) for name in value)
    ]


def _rebuilt(
    entry: Mapping[str, Any], kept: Collection[str], markers: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return ``entry`` with the fields in ``kept``, ``markers`` instead of values, and matching lists."""
    cut = markers or {}
    result = dict(entry)
    for key in _lists_of_names(entry):
        result[key] = [name for name in entry[key] if name in kept]
    result["fields"] = {name: cut.get(name, value) for name, value in entry["fields"].items() if name in kept}
    if names := [name for name in result["fields"] if name in cut]:
        result["cut"] = names
    return result


def fitting(lines: list[dict[str, Any]], max_bytes: int) -> list[dict[str, Any]]:
    """Return the first lines, as many as take `max_bytes` of JSON together, but at least one."""
    room = max_bytes
    for index, line in enumerate(lines):
        room -= len(msgspec.json.encode(line)) + len(",")
        if room < 0 and index > 0:
            return lines[:index]
    return lines
