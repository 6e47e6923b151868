"""Adding entries: once per idempotency key, with retention and confirmation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.redisio.connection_manager import Write
from redstreamd.streams import entry_codec
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.call_records import call_record
from redstreamd.streams.durability import Confirmation, Durability, run_confirmed
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.group_counts import GroupCounts, one_of_too_many
from redstreamd.streams.idempotency import IdempotencyRecords, shared_record
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.plans import Plan, run_plan
from redstreamd.streams.scripts import load

_ADD = load("ids", "info", "group_count", "add")


class Added(msgspec.Struct, frozen=True):
    """Result of adding entries.

    Attributes:
        ids: The entry IDs, in the order of the entries.
        duplicate: The idempotency key was used before: nothing was added, the IDs are those of the first
            call. False for what this call added itself before a reply was lost.
        confirmation: Of their durability, if that was asked for.
        kept_for: A group that has not finished entries which would otherwise have been trimmed.
    """

    ids: list[str]
    duplicate: bool
    confirmation: Confirmation | None = None
    kept_for: str | None = None


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
    """Adds entries to streams."""

    def __init__(
        self,
        redis: Redis,
        *,
        records: IdempotencyRecords,
        idempotency_window_seconds: float,
        max_groups: int,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Write through `redis`.

        Args:
            redis: Where the streams are.
            records: Makes the records of idempotency keys.
            idempotency_window_seconds: How long idempotency keys are kept.
            max_groups: Of a stream with more groups nothing is trimmed.
            limits: Bounds of the domain.
        """
        self._bounds = limits
        self._records = records
        self._redis = redis
        self._groups = redis.shared(GroupCounts)
        self._max_groups = max_groups
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
        owner: Principal | None = None,
        key_space: str | None = None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
        durability: Durability = Durability.MEMORY,
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

        Raises:
            BusError: INVALID_ARGUMENT if an object is not I-JSON, and as `KeyReused` if the key was used
                with other entries; OUTCOME_UNKNOWN if the reply was lost and there is no key; WRONG_TYPE.

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
            )
            return await run_plan(self._redis, plan)
        async with explain_errors(self._redis, stream):
            reply, confirmation = await run_confirmed(
                _ADD,
                self._redis,
                durability,
                retry_safe=idempotency_key is not None,
                wrote=lambda reply: reply.outcome != -1,
                limits=self._bounds,
                **self._operands(
                    stream,
                    entry_codec.encode_all(entries, stamp),
                    idempotency_key,
                    owner,
                    key_space,
                    max_length,
                    max_age_seconds,
                ),
            )
        return self._added(stream, reply, idempotency_key, confirmation)

    def plan_add(
        self,
        stream: str,
        entries: Sequence[Mapping[str, Any]],
        stamp: entry_codec.Stamp,
        *,
        idempotency_key: str | None = None,
        owner: Principal | None = None,
        key_space: str | None = None,
        max_length: int | None = None,
        max_age_seconds: float | None = None,
    ) -> Plan[Added]:
        """Plan what `add` does with durability MEMORY.

        Raises:
            BusError: INVALID_ARGUMENT if an object is not I-JSON.
        """
        if len(entries) == 1 and idempotency_key is None and max_length is max_age_seconds is None:
            write: Write | None = entry_codec.packed_add(stream, entries[0], stamp)
            if write is None:
                fields = entry_codec.encode_fields(entries[0], stamp)
                write = ("XADD", stream, "*", *chain.from_iterable(fields.items()))
            return Plan(write, stream, self._added_one)
        encoded = entry_codec.encode_all(entries, stamp)
        operands = self._operands(
            stream, encoded, idempotency_key, owner, key_space, max_length, max_age_seconds
        )
        return Plan(
            _ADD.call(operands),
            stream,
            lambda reply: self._added(stream, _ADD.read(reply), idempotency_key),
            retry_safe=idempotency_key is not None,
        )

    def _operands(
        self,
        stream: str,
        encoded: Sequence[Mapping[str, str]],
        idempotency_key: str | None,
        owner: Principal | None,
        key_space: str | None,
        max_length: int | None,
        max_age_seconds: float | None,
    ) -> dict[str, Any]:
        return {
            "stream": stream,
            **self._records.operands(stream, idempotency_key, owner, key_space, encoded),
            "trim_record": companion_key(stream, Kind.TRIM),
            "keep_ms": self._window_ms,
            "max_length": max_length,
            "max_age_ms": None if max_age_seconds is None else milliseconds(max_age_seconds),
            "entries": msgspec.msgpack.encode(encoded),
            "only_known": False,
            **self._groups.operands(stream, self._max_groups),
            **call_record(self._redis, stream),
        }

    def _added_one(self, entry_id: bytes) -> Added:
        self.added += 1
        return Added([entry_id.decode()], duplicate=False)

    def _added(
        self, stream: str, reply: Any, idempotency_key: str | None, confirmation: Confirmation | None = None
    ) -> Added:
        """Read the reply of the script."""
        if reply.outcome == -1:
            raise KeyReused(str(idempotency_key), window_seconds=self._window_ms // 1000)
        self._groups.note(stream, reply.groups)
        ids = reply.ids.decode().split()
        self.added += 0 if reply.outcome else len(ids)
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
        stamp: entry_codec.Stamp,
        *,
        idempotency_key: str,
        owner: Principal,
        key_space: str | None,
    ) -> bool:
        """Return whether `add` was called with all of this before; adds nothing."""
        encoded = entry_codec.encode_all(entries, stamp)
        operands = self._operands(stream, encoded, idempotency_key, owner, key_space, None, None)
        async with explain_errors(self._redis, stream):
            reply = await _ADD.run(self._redis, retry_safe=True, **operands | {"only_known": True})
        return reply.outcome in (0, 1)

    async def remembers(self, stream: str, key: str, *, key_space: str | None = None) -> bool:
        """Return whether `add` was called with this key of redstreamd's own before."""
        async with explain_errors(self._redis, stream):
            found = await self._redis.execute(
                "EXISTS", stream, shared_record(stream, key, key_space), key=stream, retry_safe=True
            )
        return bool(found == 2)
