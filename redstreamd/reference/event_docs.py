"""Generates systemd/redstreamd.catalog and docs/events.md: what each record of the log means.

Owns the form of both, which `make generate` writes and a test compares.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from redstreamd.event_log.declaration import Declaration
from redstreamd.event_log.fields import REPEATS, field_names
from redstreamd.event_log.kinds import all_kinds
from redstreamd.service.log_forms import PREFIX

_COLUMNS: Final = 80

_CATALOG_HEAD: Final = """\
# The message catalog of redstreamd for journald: `journalctl -x` shows it below each record.
# Generated from redstreamd/event_log/. Installed in /usr/lib/systemd/catalog; see journalctl(1).
"""

_HEAD: Final = f"""\
# Events

Generated from `redstreamd/event_log/`. Each record of the log is of one of these kinds. In the journal it has
the kind's `MESSAGE_ID`, which never changes, and structured fields:

    journalctl -u redstreamd -x                          # what each record means, and what to do
    journalctl {PREFIX}EVENT=redis_unusable         # one kind
    journalctl {PREFIX}PRINCIPAL=mcp -o verbose     # what concerns a principal, with all fields
    journalctl -t redstreamd -p warning --since today    # what is worth a look

All have `{PREFIX}EVENT`, the name of the kind. Where clients can cause any number of an event, the first is a
record, and when there were no more for a minute, another says how many there were (`{PREFIX}REPEATS`). A
record of an exception that nobody foresaw has its `{PREFIX}TRACEBACK`. No field holds a payload, a secret, or
the value of an entry.

Outside of systemd records are lines for people, or with `daemon.log_format = "json"` one object a line with
the same members, as `journalctl -o json` prints them.
"""


def as_catalog() -> str:
    """Return the message catalog."""
    return "\n".join((_CATALOG_HEAD, *map(_entry, all_kinds())))


def as_markdown() -> str:
    """Return docs/events.md."""
    return "\n".join((_HEAD, *map(_section, all_kinds())))


def _entry(kind: Declaration) -> str:
    body = "\n\n".join(_wrapped(text) for text in (kind.cause, f"What to do: {kind.remedy}"))
    return f"-- {kind.message_id}\nSubject: redstreamd: {kind.subject}\nDefined-By: redstreamd\n\n{body}\n"


def _section(kind: Declaration) -> str:
    fields = ", ".join(f"`{PREFIX}{name}`" for name in _fields(kind))
    about = f"{kind.severity.name.lower()}, `{kind.message_id}`" + (f"; {fields}" if fields else "")
    return f"## {kind.name}\n\n{about}\n\n{kind.cause} *What to do:* {kind.remedy}\n"


def _fields(kind: Declaration) -> Iterator[str]:
    yield from dict.fromkeys(field_names(kind.event))
    if kind.summed_by is not None:
        yield REPEATS


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)
