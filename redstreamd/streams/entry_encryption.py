"""Encryption of what is stored: which streams it is for, with which keys, and what cannot be read.

Entries are sealed before they are sent, and opened where a page of them was read and filtered, so that
nothing below knows more than names and sizes. An entry that cannot be opened is no error: it keeps its place
in a page, with its clear fields and why it cannot be read, and all that needs no content goes on.

The keys beside a stream follow its rule. An entry is bound to the name of the key that it was written to; its
dead letters, and what waits for a release, keep that binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from redstreamd.admission.turns import next_turn
from redstreamd.encryption import opening, sealed_format, sealing
from redstreamd.encryption.encryption_rules import EncryptionRule, EncryptionRules
from redstreamd.encryption.key_files import KEY_ID
from redstreamd.encryption.key_ring import NO_KEYS, KeyRing
from redstreamd.encryption.unreadable import Unreadable, UnreadableEntry, Why, unreadable
from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.names import judged_by, written_to
from redstreamd.streams.plans import UnfinishedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

ResultT = TypeVar("ResultT")

#: Bytes that are opened at a time: half a millisecond.
_BYTES_AT_ONCE: Final = 262_144
#: Series whose ciphers are remembered; each process that writes makes one with each start.
_MAX_SERIES: Final = 1_024
_NO_RULES: Final = EncryptionRules((), judged_by)
_ENCRYPTED_BYTES: Final = sealed_format.ENCRYPTED.encode()


class UnopenedEntry(RawEntry, frozen=True, array_like=True, gc=False):
    """An encrypted entry that could not be opened; its words are as they are stored.

    Attributes:
        unreadable: Why.
    """

    unreadable: Unreadable


class Encryption:
    """Seals and opens what is stored.

    Attributes:
        rule_for: Returns how entries are written to a stream; None for as they are.
        encrypts: Whether there is a stream for which it returns anything else.
        opens: Whether there are keys, and so anything that can be opened.
    """

    def __init__(
        self,
        ring: KeyRing = NO_KEYS,
        rules: EncryptionRules = _NO_RULES,
        on_unreadable: Callable[[UnreadableEntry], None] | None = None,
    ) -> None:
        """Encrypt with the keys of `ring` what `rules` say.

        Args:
            ring: The keys.
            rules: Which streams are encrypted.
            on_unreadable: Told of each entry that somebody wants to read and that cannot be opened.
        """
        self._on_unreadable: Final = on_unreadable
        self.reconfigure(ring, rules)

    def reconfigure(self, ring: KeyRing, rules: EncryptionRules) -> None:
        """Use other keys and rules from now on."""
        self._ring = ring
        self._series: sealing.Series | None = None
        self._ciphers: dict[tuple[str, str], AESGCM] = {}
        self.rule_for: Callable[[str], EncryptionRule | None] = rules.rule_for
        self.encrypts = rules.encrypts
        self.opens = len(ring) > 0

    def has_key(self, key_id: str) -> bool:
        """Return whether what is encrypted with a key can be read."""
        return self._ring.get(key_id) is not None

    # Writing

    def seal_all(
        self, stream: str, rule: EncryptionRule, encoded: Iterable[Mapping[str, str]]
    ) -> list[dict[str, str]]:
        """Return the fields of entries sealed, as `entry_encoding.encode_all` returned them.

        Raises:
            BusError: NO_ENCRYPTION_KEY: there is none to write with.
        """
        series = self._writing(stream)
        draw = sealing.new_draw()
        clear, hide_names = rule.clear, rule.hide_names
        return [series.seal(stream, each, clear, hide_names=hide_names, draw=draw) for each in encoded]

    def seal_text(self, stream: str, text: str, *places: str) -> str:
        """Return a text that belongs to a stream, sealed if its entries are; see `open_text`.

        Raises:
            BusError: NO_ENCRYPTION_KEY.
        """
        if not text or self.rule_for(stream) is None:
            return text
        return self._writing(stream).seal_text(text, stream, *places)

    def _writing(self, stream: str) -> sealing.Series:
        series = self._series
        if series is None or series.is_used_up:
            key = self._ring.writing
            if key is None:
                raise _no_key(stream)
            series = self._series = sealing.Series(key.id, key.secret)
        return series

    def check_filter(self, streams: Iterable[str], names: Iterable[str]) -> None:
        """Refuse a filter for fields that are encrypted.

        Raises:
            BusError: INVALID_ARGUMENT, which names the first such field.
        """
        for stream in streams:
            rule = self.rule_for(stream)
            for name in names if rule is not None else ():
                if rule is not None and name not in rule.clear:
                    raise _not_filterable(stream, name)

    # Reading

    def open_entry(self, stream: str, entry: RawEntry) -> RawEntry:
        """Return an entry as it was before it was sealed; an `UnopenedEntry` if it cannot be opened.

        An entry that is not encrypted is returned as it is.
        """
        found = self._find(stream, entry)
        if found is None:
            return entry
        if isinstance(found, UnopenedEntry):
            return found
        closed, cipher = found
        try:
            opening.take_apart(closed, written_to(stream))
            return RawEntry(entry.id, opening.put_together(closed, cipher))
        except sealed_format.SealError:
            return self._unopened(stream, entry, closed, Why.DAMAGED)

    async def _open_large(self, stream: str, entry: RawEntry) -> RawEntry:
        """Open an entry as `open_entry` does, in two halves."""
        found = self._find(stream, entry)
        if found is None:
            return entry
        if isinstance(found, UnopenedEntry):
            return found
        closed, cipher = found
        try:
            opening.take_apart(closed, written_to(stream))
            await next_turn()
            return RawEntry(entry.id, opening.put_together(closed, cipher))
        except sealed_format.SealError:
            return self._unopened(stream, entry, closed, Why.DAMAGED)

    def _find(self, stream: str, entry: RawEntry) -> UnopenedEntry | tuple[opening.Closed, AESGCM] | None:
        """Return an encrypted entry and what opens it, or why nothing does; None for another entry."""
        words = entry.words
        if not _is_marked(words):
            return None
        if type(words[0]) is bytes:
            words = [word.decode("utf-8", "backslashreplace") for word in words]
        closed = None
        try:
            closed = opening.closed_entry(words)
            if closed is None:
                return None
            cipher = self._cipher(closed.header)
        except sealed_format.UnknownFormatError:
            return self._unopened(stream, entry, None, Why.FORMAT)
        except sealed_format.SealError:
            return self._unopened(stream, entry, closed, Why.DAMAGED)
        if cipher is None:
            return self._unopened(stream, entry, closed, Why.NO_KEY)
        return closed, cipher

    async def open_entries(self, stream: str, entries: list[RawEntry]) -> list[RawEntry]:
        """Return entries as `open_entry` does, and let others run between two parts of them."""
        if not self.opens or not _bytes_to_open(entries):
            return entries
        opened: list[RawEntry] = []
        left = _BYTES_AT_ONCE
        for entry in entries:
            size = sum(map(len, entry.words))
            if size > left:
                await next_turn()
                left = _BYTES_AT_ONCE
            left -= size
            if size > _BYTES_AT_ONCE:
                opened.append(await self._open_large(stream, entry))
            else:
                opened.append(self.open_entry(stream, entry))
        return opened

    def open_page(
        self, stream: str, entries: list[RawEntry], made: Callable[[list[RawEntry]], ResultT]
    ) -> ResultT:
        """Return what `made` makes of the opened entries: a step of a plan.

        Raises:
            UnfinishedError: They are large, and are to be opened in parts.
        """
        size = _bytes_to_open(entries) if self.opens else 0
        if not size:
            return made(entries)
        if size <= _BYTES_AT_ONCE:
            return made([self.open_entry(stream, entry) for entry in entries])

        async def go_on() -> ResultT:
            return made(await self.open_entries(stream, entries))

        raise UnfinishedError(go_on)

    def open_text(self, stream: str, text: str, *places: str) -> str:
        """Return a text as it was before `seal_text`; what to know of it, if it cannot be opened."""
        split = opening.split_text(text) if text.startswith(sealed_format.TEXT_PREFIX) else None
        if split is None:
            return text
        header, box = split
        try:
            cipher = self._cipher(header) if header.format == sealed_format.FORMAT else None
            if cipher is None:
                return f"(encrypted with the key {header.key!r}, which this daemon does not have)"
            return opening.open_text(cipher, header, box, stream, *places)
        except sealed_format.SealError:
            return (
                f"(encrypted with the key {header.key!r}; it was changed since, or that key is another one)"
            )

    def _cipher(self, header: sealed_format.Header) -> AESGCM | None:
        place = header.key, header.series
        cipher = self._ciphers.get(place)
        if cipher is None:
            key = self._ring.get(header.key)
            if key is None:
                return None
            if len(self._ciphers) >= _MAX_SERIES:
                del self._ciphers[next(iter(self._ciphers))]
            cipher = self._ciphers[place] = sealed_format.derived(key.secret, header.series)
        return cipher

    def _unopened(
        self, stream: str, entry: RawEntry, closed: opening.Closed | None, why: Why
    ) -> UnopenedEntry:
        key, why = _key_and_reason(None if closed is None else closed.header, why)
        if self._on_unreadable is not None:
            self._on_unreadable(UnreadableEntry(stream, entry.id, key, why))
        return UnopenedEntry(entry.id, entry.words, unreadable(why, key))


def _bytes_to_open(entries: list[RawEntry]) -> int:
    """Return how many bytes the entries have that are encrypted; 0 if none is."""
    return sum(sum(map(len, entry.words)) for entry in entries if _is_marked(entry.words))


def _is_marked(words: list[Any]) -> bool:
    """Return whether an entry with these words may be encrypted."""
    return bool(words) and (_ENCRYPTED_BYTES if type(words[0]) is bytes else sealed_format.ENCRYPTED) in words


def key_of(entry: RawEntry) -> str | None:
    """Return the ID of an entry's key; empty if it says none that can be read, None if it has none."""
    words = entry.words
    if not _is_marked(words):
        return None
    names, name = words[::2], _ENCRYPTED_BYTES if type(words[0]) is bytes else sealed_format.ENCRYPTED
    if name not in names:
        return None
    value = words[2 * names.index(name) + 1]
    header = sealed_format.read_header(value if type(value) is str else value.decode("ascii", "replace"))
    return _key_and_reason(header, Why.NO_KEY)[0]


def why_not_opened(entry: RawEntry, header: str) -> Unreadable:
    """Return why an entry that is encrypted was not opened."""
    if isinstance(entry, UnopenedEntry):
        return entry.unreadable
    key, why = _key_and_reason(sealed_format.read_header(header), Why.NO_KEY)
    return unreadable(why, key)


def _key_and_reason(header: sealed_format.Header | None, why: Why) -> tuple[str, Why]:
    """Return the ID of an entry's key, and why the entry cannot be read."""
    if header is None or not KEY_ID.fullmatch(header.key):
        return "", Why.FORMAT if why is Why.NO_KEY else why
    return header.key, why


def _no_key(stream: str) -> BusError:
    return BusError(
        Code.NO_ENCRYPTION_KEY,
        f"Nothing was written: what is written to {stream[:80]!r} is to be encrypted, and there is no key.",
        cause="A rule of the settings says that the stream is encrypted, and they name no key that writes.",
        next_step="Ask the operator to make a key with `redstreamd keys new`, to name it in "
        f"{setting('encryption.writing_key')}, and to reload.",
    )


def _not_filterable(stream: str, name: str) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        f"filter names {name[:80]!r}, a field that is encrypted in {stream[:80]!r}.",
        cause="Entries are filtered as they are stored, and a rule of the settings encrypts the field.",
        next_step="Filter by a field that stays clear, or read without a filter; the operator decides which "
        f"fields stay clear ({setting('encryption.streams')}).",
    )
