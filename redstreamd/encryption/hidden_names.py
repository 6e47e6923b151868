"""Entries whose names are hidden: their members as one JSON object, in one field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from redstreamd.encryption.sealed_format import (
    ESCAPE,
    HIDDEN,
    JSON_NAMES,
    PREFIX,
    is_member,
    json_text,
    names_in,
)


def hidden(fields: Mapping[str, str], clear: Collection[str]) -> dict[str, str]:
    """Return the fields of an entry with all members that do not stay clear in one JSON object."""
    as_json = names_in(fields.get(JSON_NAMES))
    kept: dict[str, str] = {}
    members: list[str] = []
    for field, text in fields.items():
        name = field.removeprefix(ESCAPE)
        if not is_member(field) or name in clear:
            kept[field] = text
        else:
            value = text if name in as_json else json_text(text)
            members.append(f"{json_text(name)}:{value}")
    if as_json:
        if shown := [name for name in msgspec.json.decode(fields[JSON_NAMES]) if name in clear]:
            kept[JSON_NAMES] = json_text(shown)
        else:
            del kept[JSON_NAMES]
    kept[HIDDEN] = f"{{{','.join(members)}}}"
    return kept


def revealed(words: Sequence[str]) -> list[str]:
    """Return the words of an entry with the members that `hidden` put into one."""
    fields = dict(zip(words[::2], words[1::2], strict=True))
    as_json = list(names_in(fields.pop(JSON_NAMES, None)))
    members: list[str] = []
    for name, raw in msgspec.json.decode(fields.pop(HIDDEN), type=dict[str, msgspec.Raw]).items():
        text = bytes(raw)
        members.append(ESCAPE + name if name.startswith(PREFIX) else name)
        if text.startswith(b'"'):
            members.append(msgspec.json.decode(text, type=str))
        else:
            as_json.append(name)
            members.append(text.decode())
    shown = [word for pair in fields.items() if is_member(pair[0]) for word in pair]
    end = [word for pair in fields.items() if not is_member(pair[0]) for word in pair]
    dead: list[str] = []
    if end[-2:-1] == ["_rs.dead"]:
        end, dead = end[:-2], end[-2:]
    if as_json:
        end += (JSON_NAMES, json_text(as_json))
    return [*shown, *members, *end, *dead]
