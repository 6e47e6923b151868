"""What the events of encryption mean to an administrator."""

from __future__ import annotations

from redstreamd.encryption.key_events import KeysLoaded
from redstreamd.encryption.unreadable import UnreadableEntry, unreadable
from redstreamd.errors.remedies import setting
from redstreamd.event_log.declaration import declared
from redstreamd.service.log_record import Severity

Event = KeysLoaded | UnreadableEntry


@declared(
    KeysLoaded,
    "789687c73f6947718ae36d7d07db2846",
    Severity.WARNING,
    when=lambda event: bool(event.replaced),
    cause="A file of the ring holds other bytes than before under the same ID. What was encrypted with the "
    "former bytes cannot be read any more, by this daemon, and is not lost.",
    remedy="Put the former key back from a copy or from another host, and reload. Give a new key a new ID: "
    "`redstreamd keys new ID`.",
)
def keys_replaced(event: KeysLoaded) -> str:
    return f"{keys_loaded(event)}; of other bytes than before, under the same ID: {', '.join(event.replaced)}"


@declared(
    KeysLoaded,
    "11cb0985645642e69c7357ee01fbc199",
    Severity.NOTICE,
    cause="The daemon has read the keys of encryption, at its start or at a reload, and they or the rules "
    "are other ones than before.",
    remedy="None. Before another key writes, every host that shares the streams must have it: compare "
    f"`redstreamd status` of all, then change {setting('encryption.writing_key')}.",
)
def keys_loaded(event: KeysLoaded) -> str:
    text = f"keys of encryption: {', '.join(event.keys) or 'none'}"
    writes = "nothing is encrypted" if event.writing_key is None else f"{event.writing_key} writes"
    gone = f"; no longer there: {', '.join(event.removed)}" if event.removed else ""
    return f"{text}; {writes}; rules: {event.rules}{gone}"


@declared(
    UnreadableEntry,
    "61e258c149b140feb562d66c869845b5",
    Severity.WARNING,
    cause="Somebody wanted to read an entry that is encrypted and that this daemon cannot open: it has not "
    "the key, or the entry was changed or moved. The entry stays where it is, and can be acknowledged, "
    "released and dead-lettered.",
    remedy="If the key is missing, copy its file from a host that has it (`redstreamd keys list`) and "
    "reload. If the entry was changed, find out who can write to Redis besides the daemons.",
    # Whoever can write to Redis chooses the key that an entry names.
    summed_by=lambda event: (event.stream, event.why),
)
def entry_unreadable(event: UnreadableEntry) -> str:
    why = unreadable(event.why, event.key)
    return f"entry {event.entry_id} of stream {event.stream!r} cannot be read: {why.cause}"
