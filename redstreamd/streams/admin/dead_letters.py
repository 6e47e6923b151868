"""Dead letters: listing, replaying and deleting them. ``lua/dead_letter.lua`` makes them."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_encryption import Encryption, key_of
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explain_errors, find_group
from redstreamd.streams.failure_reasons import with_reasons
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load
from redstreamd.streams.tail_hub import TailHub

_REPLAY = load("server_time", "clock", "due_members", "lease_expiry", "replay")

#: Size at which a page of letters ends early.
_PAGE_BYTES = 4_194_304


class DeadLetterAction(enum.StrEnum):
    """What to do with a dead letter."""

    REPLAY = "replay"
    DELETE = "delete"


class DeadLetterOutcome(enum.StrEnum):
    """What was done to a dead letter."""

    ADDED = "added"  #: Added to the stream as a new entry.
    RETURNED = "returned"  #: Its original entry, too large to copy, is pending in the group again.
    DELETED = "deleted"
    GONE = "gone"  #: There is no such dead letter: another call replayed or deleted it.
    LOST = "lost"  #: It was too large to copy when it was dead-lettered, and its original was deleted since.
    STUCK = "stuck"  #: It was too large to copy, and its group does not exist.
    LARGE = "large"  #: Another program wrote it, with more fields than can be copied.
    LEFT = "left"  #: Not examined: those before it were enough for one step.


class DeadLetterResult(msgspec.Struct, frozen=True):
    """Result for one dead letter.

    Attributes:
        id: The dead letter's entry ID.
        outcome: What was done to it.
        entry_id: ADDED: the new entry's ID, None in a dry run; RETURNED, STUCK, LOST: the original's.
    """

    id: str
    outcome: DeadLetterOutcome
    entry_id: str | None


class DeadLetterPage(msgspec.Struct, frozen=True):
    """Some dead letters of a group, oldest first.

    Attributes:
        key: The dead-letter stream.
        entries: The letters; their last field is the note.
        keys: The ID of the key of each letter that is encrypted, by the letter's ID.
        total: All dead letters of the group.
        has_more: Whether there are more after these.
    """

    key: str
    entries: list[RawEntry]
    keys: dict[str, str]
    total: int
    has_more: bool


class DeadLetters:
    """The dead letters of any stream and group."""

    def __init__(
        self, redis: Redis, pages: Pages, hub: TailHub, clocks: GroupClocks, encryption: Encryption
    ) -> None:
        """Work through `redis`; `hub` wakes waiting takes, `clocks` know the groups' clocks."""
        self._redis = redis
        self._clocks = clocks
        self._pages = pages
        self._hub = hub
        self._encryption = encryption

    async def page(self, stream: str, group: str, *, cursor: str | None, count: int) -> DeadLetterPage:
        """Read at most `count` dead letters after the letter `cursor`, oldest first; fewer if they are large.

        Dead letters are kept when their group or stream is deleted.

        Raises:
            BusError: STREAM_NOT_FOUND, GROUP_NOT_FOUND if there is neither a dead letter nor the group;
                WRONG_TYPE.
        """
        key = companion_key(stream, Kind.DEAD, group)
        async with explain_errors(self._redis, key):
            start = "-" if cursor is None else f"({cursor}"
            page = await self._pages.read(key, start, "+", max_entries=count, max_bytes=_PAGE_BYTES)
            total = await self._redis.xlen(key)
        if not total:
            await find_group(self._redis, stream, group)
        opened = await self._encryption.open_entries(key, page.entries)
        entries = [with_reasons(self._encryption, stream, group, entry) for entry in opened]
        keys = {each.id: key_id for each in page.entries if (key_id := key_of(each)) is not None}
        return DeadLetterPage(key, entries, keys, total, page.has_more)

    async def settle(
        self, stream: str, group: str, action: DeadLetterAction, ids: Sequence[str], *, dry_run: bool
    ) -> list[DeadLetterResult]:
        """Replay or delete dead letters in one step: all, or as many as its limit of size allows.

        A replayed letter is a new entry with exactly the fields of the original, stamps included, and every
        group of the stream gets it. Idempotent: what is done is GONE.

        Args:
            stream: The stream they came from.
            group: The group that dead-lettered them.
            action: What to do.
            ids: Entry IDs of the dead letters; at most some hundred, since the server does nothing else
                meanwhile.
            dry_run: Change nothing; return what would be done.

        Raises:
            BusError: WRONG_TYPE, PERMISSION_DENIED, BACKEND_OUT_OF_MEMORY: nothing was changed.
                OUTCOME_UNKNOWN: letters that do not exist any more were processed.

        Cancellation: what was sent is done nevertheless.
        """
        async with explain_errors(self._redis, stream, group):
            replies = await _REPLAY.run(
                self._redis,
                stream=stream,
                group=group,
                action=action.value,
                dry_run=dry_run,
                letters=ids,
                **self._clocks.operands(stream, group),
                retry_safe=dry_run,
            )
        results = [
            DeadLetterResult(letter, DeadLetterOutcome(outcome.decode()), entry_id.decode() or None)
            for letter, (outcome, entry_id) in zip(ids, replies, strict=True)
        ]
        if not dry_run and any(one.outcome is DeadLetterOutcome.RETURNED for one in results):
            # Waiting takes do not watch the due set.
            self._hub.notify(stream)
        return results

    async def other_groups(self, stream: str, group: str) -> int:
        """Count the groups of a stream, which need not exist, without `group`."""
        if await self._redis.key_type(stream) == "none":
            return 0
        async with explain_errors(self._redis, stream):
            groups = (await self._redis.shared(GroupLists).of(stream)).groups
        return len(groups) - (group in groups)
