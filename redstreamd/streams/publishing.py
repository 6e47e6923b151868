"""Adding entries, or putting them into quarantine: once per key, with retention and confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.settings import QuarantineSettings
from redstreamd.streams import entry_encoding
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.call_records import call_record
from redstreamd.streams.durability import Confirmation, Durability, run_confirmed
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.group_counts import GroupCounts, one_of_too_many
from redstreamd.streams.idempotency import IdempotencyRecords, shared_record
from redstreamd.streams.names import Kind, companion_key, quarantine_of
from redstreamd.streams.packed_entries import pack_all
from redstreamd.streams.plans import Plan, run_plan
from redstreamd.streams.scripts import NamedScript, load
from redstreamd.streams.single_adds import SingleAdds

_ADD = load("ids", "info", "group_count", "idempotency", "packed_entries", "add")
_QUARANTINE = load("idempotency", "packed_entries", "quarantine")


class Added(msgspec.Struct, frozen=True, gc=False):
    """Result of adding entries.

    Attributes:
        ids: The entry IDs, in the order of the entries; of entries that wait, those in the quarantine.
        duplicate: The idempotency key was used before: nothing was added, the IDs are those of the first
            call. False for what this call added itself before a reply was lost.
        confirmation: Of their durability, if that was asked for.
        kept_for: A group that has not finished entries which would otherwise have been trimmed.
        waits: The entries were put into quarantine, where they wait for a release.
    """

    ids: list[str]
    duplicate: bool
    confirmation: Confirmation | None = None
    kept_for: str | None = None
    waits: bool = False


class KeyReused(BusError):  # noqa: N818 - what happened, as BusError's codes put it
    """An idempotency key was used with another body before; nothing was added."""

    def __init__(self, key: str, *, window_seconds: int) -> None:
        """Record the key, and how long keys are remembered."""
        super().__init__(
            Code.INVALID_ARGUMENT,
            f"idempotency_key {key[:80]!r} was used with other entries.",
            cause=f"A key stands for one set of entries for {window_seconds} seconds.",
            next_step="Use a new key for new entries, or send exactly the entries of the first call.",
        )


class Publisher:
    """Adds entries to streams.

    Attributes:
        single: Plans the adding of single entries.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        records: IdempotencyRecords,
        encryption: Encryption,
        idempotency_window_seconds: float,
        max_groups: int,
        quarantine: QuarantineSettings,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Write through `redis`.

        Args:
            redis: Where the streams are.
            records: Makes the records of idempotency keys.
            encryption: Seals the entries of streams that are encrypted.
            idempotency_window_seconds: How long idempotency keys are kept.
            max_groups: Of a stream with more groups nothing is trimmed.
            quarantine: The bounds of a quarantine.
            limits: Bounds of the domain.
        """
        self._bounds = limits
        self._records = records
        self._encryption = encryption
        self.single: Final = SingleAdds(encryption)
        self._redis = redis
        self._groups = redis.shared(GroupCounts)
        self.reconfigure(
            idempotency_window_seconds=idempotency_window_seconds,
            max_groups=max_groups,
            quarantine=quarantine,
        )
        self._added = 0

    @property
    def added(self) -> int:
        """Entries added through this process so far."""
        return self._added + self.single.added

    def reconfigure(
        self, *, idempotency_window_seconds: float, max_groups: int, quarantine: QuarantineSettings
    ) -> None:
        """Apply other values from now on; records that exist are kept for as long as they were to be."""
        self._quarantine = quarantine
        self._window_ms = milliseconds(idempotency_window_seconds)
        self._max_groups = max_groups

    async def add(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_encoding.Stamp,
        *,
        idempotency_key: str | None = None,
        owner: Principal | None = None,
        key_space: str | None = None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
        durability: Durability = Durability.MEMORY,
        waits: bool = False,
    ) -> Added:
        """Add JSON objects as entries, all of them or none.

        Args:
            stream: The stream; created if it does not exist.
            entries: The objects, in order.
            stamp: What the daemon adds to each.
            idempotency_key: Within the window, the same key adds nothing a second time.
            owner: Whose the key is; None: redstreamd's own.
            key_space: Separates redstreamd's own keys from those of callers.
            max_length: The stream is trimmed to so many entries, except for those that a group has pending or
                has not read.
            max_age_seconds: Entries older than this are trimmed, with the same exception.
            durability: What to wait for. If it is not confirmed in a second or two the entries are added
                nevertheless, and the result says so.
            waits: Put them into quarantine instead, which trims nothing.

        Raises:
            BusError: INVALID_ARGUMENT if an object is not I-JSON, and as `KeyReused` if the key was used
                with other entries, or if what waits is to trim; NO_ENCRYPTION_KEY if the entries are to be
                encrypted and there is no key for that; QUARANTINE_FULL; OUTCOME_UNKNOWN if the reply was lost
                and there is no idempotency key; WRONG_TYPE.

        Cancellation: entries whose command was sent are added nevertheless.
        """
        if durability is Durability.MEMORY:
            plan = self.plan_add(
                stream,
                entries,
                stamp,
                idempotency_key=idempotency_key,
                owner=owner,
                key_space=key_space,
                max_length=max_length,
                max_age_seconds=max_age_seconds,
                waits=waits,
            )
            return await run_plan(self._redis, plan)
        script, operands = self._call(
            stream,
            entries,
            stamp,
            idempotency_key,
            owner,
            key_space,
            max_length,
            max_age_seconds,
            waits=waits,
        )
        async with explain_errors(self._redis, stream):
            reply, confirmation = await run_confirmed(
                script,
                self._redis,
                durability,
                retry_safe=idempotency_key is not None,
                wrote=lambda reply: reply.outcome in (0, 3) and not reply.found,
                found=lambda reply: reply.found,
                limits=self._bounds,
                **operands,
            )
        return self._read_added(stream, reply, idempotency_key, confirmation)

    def plan_add(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_encoding.Stamp,
        *,
        idempotency_key: str | None = None,
        owner: Principal | None = None,
        key_space: str | None = None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
        waits: bool = False,
    ) -> Plan[Added]:
        """Plan what `add` does with durability MEMORY.

        Raises:
            BusError: INVALID_ARGUMENT if an object is not I-JSON; NO_ENCRYPTION_KEY.
        """
        is_plain = idempotency_key is None and max_length is max_age_seconds is None and not waits
        if len(entries) == 1 and is_plain:
            return self.single.plan_stamped(stream, entries[0], stamp, (_as_added,))
        script, operands = self._call(
            stream,
            entries,
            stamp,
            idempotency_key,
            owner,
            key_space,
            max_length,
            max_age_seconds,
            waits=waits,
        )
        return Plan(
            script.call(operands),
            stream,
            lambda reply: self._read_added(stream, script.read(reply), idempotency_key),
            retry_safe=idempotency_key is not None,
        )

    def _call(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_encoding.Stamp,
        idempotency_key: str | None,
        owner: Principal | None,
        key_space: str | None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
        *,
        waits: bool = False,
    ) -> tuple[NamedScript, dict[str, Any]]:
        """Return the script that adds entries, and its operands."""
        rule = self._encryption.rule_for(stream)
        encoded: list[dict[str, str]] = []
        if rule is None and idempotency_key is None:
            packed, more = pack_all(entries, stamp)
        else:
            encoded, more = entry_encoding.encode_all(entries, stamp), 0
            stored = encoded if rule is None else self._encryption.seal_all(stream, rule, encoded)
            packed = msgspec.msgpack.encode(stored)
        record = self._records.operands(
            stream, idempotency_key, owner, key_space, encoded, is_secret=rule is not None
        )
        operands = {
            "stream": stream,
            **record,
            "keep_ms": self._window_ms,
            "entries": packed,
            "more": more,
            "only_known": False,
            # Without a key it is not sent again.
            **call_record(self._redis, stream, keep=idempotency_key is not None),
        }
        if waits:
            if max_length is not None or max_age_seconds is not None:
                raise _trims_nothing()
            return _QUARANTINE, operands | {
                "quarantine": quarantine_of(stream),
                "most_entries": self._quarantine.max_entries,
                "most_bytes": self._quarantine.max_bytes,
                "keep_waiting_ms": milliseconds(self._quarantine.keep_seconds),
            }
        return _ADD, operands | {
            "trim_record": companion_key(stream, Kind.TRIM),
            "max_length": max_length,
            "max_age_ms": None if max_age_seconds is None else milliseconds(max_age_seconds),
            **self._groups.operands(stream, self._max_groups),
        }

    def _read_added(
        self, stream: str, reply: Any, idempotency_key: str | None, confirmation: Confirmation | None = None
    ) -> Added:
        """Read the reply of the script."""
        if reply.outcome == -1:
            raise KeyReused(str(idempotency_key), window_seconds=self._window_ms // 1000)
        if reply.outcome == 5:
            raise _quarantine_full(stream)
        ids = reply.ids.decode().split()
        if reply.outcome >= 3:
            return Added(ids, duplicate=reply.outcome == 4, confirmation=confirmation, waits=True)
        self._groups.note(stream, reply.groups)
        self._added += 0 if reply.outcome else len(ids)
        return Added(
            ids=ids,
            duplicate=reply.outcome == 1,
            confirmation=confirmation,
            kept_for=reply.kept_for or one_of_too_many(reply.too_many),
        )

    async def was_added(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_encoding.Stamp,
        *,
        idempotency_key: str,
        owner: Principal,
        key_space: str | None,
    ) -> bool:
        """Return whether `add` was called with all of this before; adds nothing."""
        _, operands = self._call(stream, entries, stamp, idempotency_key, owner, key_space)
        async with explain_errors(self._redis, stream):
            reply = await _ADD.run(self._redis, retry_safe=True, **operands | {"only_known": True})
        return reply.outcome in (0, 1, 3, 4)

    async def remembers(self, stream: str, key: str, *, key_space: str | None = None) -> bool:
        """Return whether `add` was called with this key of redstreamd's own before."""
        record = shared_record(stream, key, key_space)
        async with explain_errors(self._redis, stream):
            found = await self._redis.execute("EXISTS", stream, record, key=stream, retry_safe=True)
            if found == 1:
                # The record of what waits counts without a stream, which a release may have to make.
                saved = await self._redis.execute("GET", record, key=stream, retry_safe=True)
                return saved is not None and b" quarantine " in saved
        return bool(found == 2)


def _as_added(entry_id: bytes) -> Added:
    return Added([entry_id.decode()], duplicate=False)


def _quarantine_full(stream: str) -> BusError:
    return BusError(
        Code.QUARANTINE_FULL,
        f"Nothing was added: the quarantine of {stream[:80]!r} has no room.",
        cause="What you publish there waits for a release by an operator, and too much of it waits: "
        f"{setting('quarantine.max_entries')}, {setting('quarantine.max_bytes')}.",
        next_step="Ask the operator to look at them, or try again later.",
    )


def _trims_nothing() -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        "Nothing was added: what waits for a release trims nothing.",
        cause="What you publish there waits in quarantine until an operator releases it.",
        next_step="Leave out max_length and max_age_seconds.",
    )
