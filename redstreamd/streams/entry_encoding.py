"""The fields of an entry, and encoding a JSON object as them; `entry_decoding` reads them.

Owns the format in Redis; docs/design.md specifies it, and tests/streams/vectors.json has test vectors.

Each member of the object is one field of the same name. A string is stored as its own text, so that redis-cli
shows and writes it as expected. Any other value is stored as compact JSON text, and its name is listed in a
reserved field. Reserved fields begin with ``_rs.`` and come last:

- ``_rs.v``: ``1``, the version of the format. Only an entry with this field has reserved fields.
- ``_rs.json``: a JSON array of the names whose values are JSON text; absent if there are none.
- ``_rs.sender``: the principal that added the entry, stamped by the daemon.
- ``_rs.correlation_id``, ``_rs.reply_to``: given by the writer for a reply.
- ``_rs.in_reply_to``: the request that a reply belongs to, ``<entry ID> <stream>``, stamped by the daemon.
- ``_rs.released``: ``<ID while it waited> <principal>``, of an entry that waited in quarantine, and who
  released it.
- ``_rs.=<name>``: the member `<name>`, if that name itself begins with ``_rs.``; so no writer can forge a
  reserved field.
- ``_rs.enc``, ``_rs.clear``, ``_rs.sealed``: of an encrypted entry, see `encryption.sealed_format`.
- ``_rs.dead``: the note of a dead letter: its reason and origin; always the last field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import msgspec

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.streams import entry_ids

PREFIX_TEXT = "_rs."
VERSION = "_rs.v"
FORMAT = "1"
JSON_NAMES = "_rs.json"
SENDER = "_rs.sender"
ESCAPE = "_rs.="
#: The fields of a stamp, by attribute, in their order.
STAMPED = {
    "sender": SENDER,
    "correlation_id": "_rs.correlation_id",
    "reply_to": "_rs.reply_to",
    "in_reply_to": "_rs.in_reply_to",
    "released": "_rs.released",
}

#: Scripts copy entries with Lua's unpack, which takes less than 8,000 values.
MAX_MEMBERS = 1_000

_MIN, _MAX = -strict_json.MAX_INTEGER, strict_json.MAX_INTEGER


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """What the daemon adds to the members of an entry.

    Attributes:
        sender: Name of the principal that adds it.
        correlation_id: Connects a reply and its request.
        reply_to: The stream on which a reply is expected.
        in_reply_to: The request that this entry is a reply to, as `request_name` gives it.
        released: The ID that the entry had in quarantine, and the principal that released it; see `Release`.
    """

    sender: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    in_reply_to: str | None = None
    released: str | None = None

    @property
    def release(self) -> Release | None:
        """How the entry left the quarantine; None if it was in none."""
        waiting_id, _, by = (self.released or "").partition(" ")
        return Release(waiting_id, by) if by and entry_ids.parse(waiting_id) is not None else None


class Release(msgspec.Struct, frozen=True):
    """How an entry left the quarantine.

    Attributes:
        waiting_id: The ID that it had there, whose time is that of its publication.
        by: The principal that released it.
    """

    waiting_id: str
    by: str


NO_STAMP = Stamp()


def request_name(stream: str, entry_id: str, stamp: Stamp = NO_STAMP) -> str:
    """Return the `in_reply_to` of a reply to that entry; the ID that it had in quarantine, if it was there.

    Its requester knows no other.
    """
    release = stamp.release
    return f"{entry_id if release is None else release.waiting_id} {stream}"


def encode(members: Mapping[str, Any], stamp: Stamp) -> list[tuple[bytes, bytes]]:
    """Return the fields of the entry that holds the JSON object `members`.

    Raises:
        BusError: INVALID_ARGUMENT if a value is not I-JSON, TOO_LARGE beyond `MAX_MEMBERS`.
    """
    return [(name.encode(), value.encode()) for name, value in encode_fields(members, stamp).items()]


def encode_all(entries: Sequence[Mapping[str, Any]], stamp: Stamp) -> list[dict[str, str]]:
    """Return the fields of many entries as `encode` does, each as a name with its value, in order.

    Raises:
        BusError: As `encode`.
    """
    if hold_texts_only(entries):
        # Stored as they are.
        end = {VERSION: FORMAT, **stamped(stamp)}
        return [entry | end for entry in entries]  # type: ignore[operator]
    return [encode_fields(entry, stamp) for entry in entries]


def hold_texts_only(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all members are texts that need no closer look; all loops run in C."""
    if set(map(type, entries)) != {dict} or max(map(len, entries)) > MAX_MEMBERS:
        return False
    names = "".join(chain.from_iterable(entries))
    try:
        values = "".join(chain.from_iterable(map(dict.values, entries)))  # type: ignore[arg-type]
    except TypeError:
        # Not a text.
        return False
    return names.isascii() and PREFIX_TEXT not in names and strict_json.is_allowed(values)


def encode_fields(members: Mapping[str, Any], stamp: Stamp) -> dict[str, str]:
    """Return the fields of an entry as `encode` does, each as a name with its value, in order.

    Raises:
        BusError: As `encode`.
    """
    if len(members) > MAX_MEMBERS:
        raise BusError(
            Code.TOO_LARGE,
            f"An entry of {len(members)} members is too large.",
            cause=f"Each member becomes a field of the entry, and an entry has at most {MAX_MEMBERS}.",
            next_step="Nest the data: one member may hold a whole object or list.",
        )
    fields: dict[str, str] = {}
    as_json: list[str] = []
    is_checked = type(members) is not dict
    if is_checked:
        strict_json.check(members)
    for name, value in members.items():
        kind = type(value)
        # Most values need no closer look. The first that may be no I-JSON has all of them looked at.
        if not is_checked and not (
            name.isascii()
            and (value.isascii() if kind is str else kind is bool or (kind is int and _MIN <= value <= _MAX))
        ):
            strict_json.check(members)
            is_checked = True
        field = ESCAPE + name if name.startswith(PREFIX_TEXT) else name
        if kind is str:
            fields[field] = value
        else:
            as_json.append(name)
            fields[field] = str(value) if kind is int else msgspec.json.encode(value).decode()
    fields[VERSION] = FORMAT
    if as_json:
        fields[JSON_NAMES] = msgspec.json.encode(as_json).decode()
    fields.update(stamped(stamp))
    return fields


@lru_cache(maxsize=1)
def stamped(stamp: Stamp) -> dict[str, str]:
    """Return the reserved fields of a stamp, in order; not to be changed."""
    given = {field: getattr(stamp, name) for name, field in STAMPED.items()}
    return {field: text for field, text in given.items() if text is not None}
