"""Adding entries: once per idempotency key, with retention, as safely as asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.streams import entry_codec
from redstreamd.streams.call_records import CallRecord
from redstreamd.streams.durability import Confirmation, Durability, confirm
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.error_context import explained
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.scripts import load

_ADD = load("ids", "add")


@attrs.frozen
class Added:
    """What an add did.

    Attributes:
        ids: The entry IDs, in the order the entries were given.
        duplicate: The idempotency key was known: nothing was added, the IDs are those of the first call. What
            this call added itself, before a reply was lost, is none.
        confirmation: What is known about their safety, if anything was asked.
        kept_for: A group that has not finished entries which would else have been trimmed.
    """

    ids: list[str]
    duplicate: bool
    confirmation: Confirmation | None = None
    kept_for: str | None = None


class KeyReused(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """An idempotency key was used with another body before; nothing was added."""

    def __init__(self, key: str, *, window_seconds: int) -> None:
        """Record the key, and for how long it stands for its first body."""
        super().__init__(
            Code.INVALID_ARGUMENT,
            f"idempotency_key {key[:80]!r} was used with other entries.",
            cause=f"A key stands for one set of entries for {window_seconds} seconds.",
            next_step="Use a new key for new entries, or send exactly the entries of the first call.",
        )


class Publisher:
    """Adds entries to streams."""

    def __init__(self, manager: Manager, commands: Commands, *, idempotency_window_seconds: float) -> None:
        """Write through `manager`; idempotency keys are kept for the window."""
        self._manager = manager
        self._commands = commands
        self._window_ms = milliseconds(idempotency_window_seconds)
        #: Entries added through this process so far.
        self.added = 0

    async def add(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_codec.Stamp,
        *,
        idempotency_key: str | None = None,
        key_space: str | None = None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
        durability: Durability = Durability.MEMORY,
    ) -> Added:
        """Add JSON objects as entries, all of them or none.

        Args:
            stream: The stream; created if it does not exist.
            entries: The objects, in order.
            stamp: What the daemon writes beside them.
            idempotency_key: Within the window, the same key adds nothing a second time.
            key_space: What a key of redstreamd's own is for. No caller's key is equal to such a key,
                so none can take its place.
            max_length: The stream is cut to its newest entries, this many; but what a group has pending,
                or did not get yet, stays.
            max_age_seconds: Entries older than this are cut off, with the same regard.
            durability: How safe the entries are to be before this returns. If that cannot be confirmed
                in about a second they are there nevertheless, and the answer says so.

        Raises:
            BusError: INVALID_ARGUMENT if an object is not I-JSON, and as `KeyReused` if the key was used
                with other entries; OUTCOME_UNKNOWN if the reply was lost and there is no key; WRONG_TYPE.

        Cancellation: entries whose command was already sent are added all the same.
        """
        encoded = [entry_codec.encode(entry, stamp) for entry in entries]
        confirmation = None
        asks = durability is not Durability.MEMORY
        async with explained(self._commands, stream):
            if (
                len(encoded) == 1
                and idempotency_key is None
                and max_length is max_age_seconds is None
                and not asks
            ):
                only = await self._commands.xadd(stream, encoded[0])
                self.added += 1
                return Added([only], duplicate=False)
            words: list[bytes | int] = []
            for fields in encoded:
                words.append(2 * len(fields))
                for pair in fields:
                    words.extend(pair)
            body_hash = "" if idempotency_key is None else _hash(words)
            sending = CallRecord.of(self._manager, stream)
            known, ids, kept_for = await self._manager.run_script(
                _ADD,
                keys=[stream, _record(stream, idempotency_key, key_space), sending.key],
                args=[
                    body_hash,
                    self._window_ms,
                    "" if max_length is None else max_length,
                    "" if max_age_seconds is None else milliseconds(max_age_seconds),
                    sending.keep_ms,
                    *words,
                ],
                retry_safe=idempotency_key is not None,
                role=Role.DURABLE if asks else Role.COMMAND,
            )
            if asks and known != -1:
                confirmation = await confirm(self._manager, self._commands, durability)
        if known == -1:
            raise KeyReused(str(idempotency_key), window_seconds=self._window_ms // 1000)
        self.added += 0 if known else len(ids)
        return Added(
            ids=[entry_id.decode() for entry_id in ids],
            duplicate=known == 1,
            confirmation=confirmation,
            kept_for=reply_parsing.name(kept_for) if kept_for else None,
        )

    async def remembers(self, stream: str, key: str, *, key_space: str | None = None) -> bool:
        """Tell whether `add` with this key would add nothing, because it did before."""
        async with explained(self._commands, stream):
            found = await self._manager.execute(
                "EXISTS", stream, _record(stream, key, key_space), retry_safe=True
            )
        return bool(found == 2)


def _record(stream: str, key: str | None, space: str | None) -> str:
    # Any text may be a key; its digest is a short name without braces. Without a key nothing is recorded.
    digest = "" if key is None else hashlib.sha256(key.encode()).hexdigest()[:32]
    return companion_key(stream, Kind.IDEMPOTENCY, *(() if space is None else (space,)), digest)


def _hash(words: Sequence[bytes | int]) -> str:
    digest = hashlib.sha256()
    for word in words:
        part = word if isinstance(word, bytes) else str(word).encode()
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.hexdigest()[:32]
