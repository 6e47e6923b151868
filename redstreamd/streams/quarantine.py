"""Entries that wait for a release: listing, releasing and discarding them.

Who may only submit to a stream (see `policy`) publishes into its quarantine, a stream beside it::

    <stream>:rs:quarantine[:{<stream>}]

It also takes the replies that are submitted to the reply streams beside the stream. The first field of each
entry, ``_rs.quarantine``, names the stream that it is for; the others are those that the entry would have had
there. `publishing` writes it. Nobody reads or takes from it by its name (see `ownership`), and no listing
has it.

An entry is released once: it leaves the quarantine and enters its stream in one script, with a new ID, the
same fields and stamps, and ``_rs.released``. What was already released or discarded is GONE.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.call_records import call_record
from redstreamd.streams.entry_encryption import Encryption, key_of
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.listing import MAX_KEYS_SCANNED, SCANNED_AT_ONCE
from redstreamd.streams.names import Kind, is_quarantine, is_reply_stream, judged_by, quarantine_of
from redstreamd.streams.request_reply import Requests
from redstreamd.streams.scripts import load

_RELEASE = load("release")

#: The field that names the stream an entry is for.
_TARGET: Final = b"_rs.quarantine"
#: Size at which a page of entries ends early.
_PAGE_BYTES: Final = 4_194_304


class QuarantineAction(enum.StrEnum):
    """What to do with an entry."""

    RELEASE = "release"
    DISCARD = "discard"


class QuarantineOutcome(enum.StrEnum):
    """What was done with an entry."""

    WAITING = "waiting"  #: Nothing, in a dry run.
    RELEASED = "released"
    DISCARDED = "discarded"
    GONE = "gone"  #: It does not wait: it was released or discarded before, or never waited.
    LEFT = "left"  #: Not examined: those before it were enough for one step.


class QuarantineResult(msgspec.Struct, frozen=True):
    """Result for one entry.

    Attributes:
        id: Its ID in the quarantine.
        outcome: What was done with it.
        stream: The stream that it is for; empty if it is GONE or LEFT.
        entry_id: RELEASED: its ID there.
    """

    id: str
    outcome: QuarantineOutcome
    stream: str
    entry_id: str | None


class WaitingEntry(msgspec.Struct, frozen=True):
    """An entry in quarantine.

    Attributes:
        stream: The stream that it is for.
        entry: Its ID in the quarantine, and the fields that it will have in the stream.
        key: The ID of the key that it is encrypted with; None if it is not.
    """

    stream: str
    entry: RawEntry
    key: str | None = None


class WaitingPage(msgspec.Struct, frozen=True):
    """Some entries of a quarantine, oldest first.

    Attributes:
        entries: The entries.
        total: How many wait in all.
        has_more: Whether there are more after these.
    """

    entries: list[WaitingEntry]
    total: int
    has_more: bool


class Waiting(msgspec.Struct, frozen=True):
    """What waits for a stream.

    Attributes:
        stream: The stream.
        entries: How many entries.
        oldest_id: The ID of the oldest, whose time is that of its publication; None if there are none.
    """

    stream: str
    entries: int
    oldest_id: str | None


class Quarantine:
    """The quarantines of all streams."""

    def __init__(self, redis: Redis, pages: Pages, requests: Requests, encryption: Encryption) -> None:
        """Work through `redis`; `requests` renew the reply streams that a reply is released to."""
        self._redis = redis
        self._pages = pages
        self._requests = requests
        self._encryption = encryption

    async def page(self, stream: str, *, cursor: str | None, count: int) -> WaitingPage:
        """Read at most `count` waiting entries of a stream after the ID `cursor`; fewer if they are large.

        A stream that does not exist may have some.

        Raises:
            BusError: WRONG_TYPE; CONNECTION_ERROR.
        """
        key = quarantine_of(stream)
        async with explain_errors(self._redis, key):
            start = "-" if cursor is None else f"({cursor}"
            page = await self._pages.read(key, start, "+", max_entries=count, max_bytes=_PAGE_BYTES)
            total = await self._redis.xlen(key)
        waiting = [_waiting(each) for each in page.entries]
        # Each is bound to the stream that it is for.
        opened = [(await self._encryption.open_entries(each.stream, [each.entry]))[0] for each in waiting]
        entries = [
            WaitingEntry(each.stream, entry, key_of(each.entry))
            for each, entry in zip(waiting, opened, strict=True)
        ]
        return WaitingPage(entries, total, page.has_more)

    async def waiting(self, stream: str) -> Waiting:
        """Return how many entries wait for a stream, and since when."""
        key = quarantine_of(stream)
        async with explain_errors(self._redis, key):
            total = await self._redis.xlen(key)
            first = await self._redis.xrange(key, "-", "+", 1) if total else []
        return Waiting(stream, total, first[0].id if first else None)

    async def streams(self, may_see: Callable[[str], bool]) -> list[Waiting]:
        """Return what waits for each stream that the caller may see, longest wait first.

        Args:
            may_see: Says whether a stream may be named to the caller.
        """
        moves = self._redis.moves
        names = await self._scan()
        if self._redis.moves != moves:
            # As for a listing: one that moved to a node that had been scanned.
            names |= await self._scan()
        found = [await self.waiting(name) for name in sorted(names) if may_see(name)]
        return sorted(
            (each for each in found if each.entries),
            key=lambda each: entry_ids.parse(each.oldest_id or "") or (0, 0),
        )

    async def _scan(self) -> set[str]:
        """Return the streams that have a quarantine."""
        names: set[str] = set()
        cursor = None
        scanned = 0
        while scanned < MAX_KEYS_SCANNED:
            cursor, page = await self._redis.scan_streams(cursor, f"*:rs:{Kind.QUARANTINE}*", SCANNED_AT_ONCE)
            names |= {judged_by(key)[0] for key in page if is_quarantine(key)}
            scanned += SCANNED_AT_ONCE
            if cursor is None:
                break
        return names

    async def settle(
        self, stream: str, action: QuarantineAction, ids: Sequence[str], *, by: str, dry_run: bool
    ) -> list[QuarantineResult]:
        """Release or discard entries that wait for a stream, in their order: all, or as many as fit one step.

        Each is released at most once, whatever is lost or repeated.

        Args:
            stream: The stream.
            action: What to do.
            ids: The entries' IDs in the quarantine; at most some hundred.
            by: The name of the principal that releases them.
            dry_run: Change nothing; return what waits.

        Raises:
            BusError: WRONG_TYPE, PERMISSION_DENIED, BACKEND_OUT_OF_MEMORY: nothing was changed.

        Cancellation: what was sent is done nevertheless.
        """
        found = await self._run(stream, action, ids, by, ())
        if dry_run:
            return found
        targets = {one.stream for one in found if one.outcome is QuarantineOutcome.WAITING}
        if action is QuarantineAction.RELEASE:
            for target in targets:
                # It may have expired since.
                if is_reply_stream(target):
                    await self._requests.prepare(target)
        return await self._run(stream, action, ids, by, sorted(targets), execute=True)

    async def _run(
        self,
        stream: str,
        action: QuarantineAction,
        ids: Sequence[str],
        by: str,
        targets: Sequence[str],
        *,
        execute: bool = False,
    ) -> list[QuarantineResult]:
        async with explain_errors(self._redis, stream):
            replies = await _RELEASE.run(
                self._redis,
                quarantine=quarantine_of(stream),
                targets=targets,
                action=action.value,
                by=by,
                execute=execute,
                ids=ids,
                # A second sending finds what the first one did.
                retry_safe=True,
                **call_record(self._redis, stream),
            )
        return [
            QuarantineResult(
                each, QuarantineOutcome(outcome.decode()), target.decode(), entry_id.decode() or None
            )
            for each, (outcome, target, entry_id) in zip(ids, replies, strict=True)
        ]


def _waiting(entry: RawEntry) -> WaitingEntry:
    """Return an entry without the field that says where it is to go."""
    words = entry.words
    name, target = (word.encode() if isinstance(word, str) else word for word in words[:2])
    if name != _TARGET:
        # Written by another program; a release finds nothing under this ID.
        return WaitingEntry("", entry)
    return WaitingEntry(target.decode("utf-8", "backslashreplace"), RawEntry(entry.id, words[2:]))
