"""Requests: entries that name the stream of their reply, and the wait for that reply.

A request is an ordinary entry with two stamps, a correlation ID and a reply stream. Its worker adds an entry
with the same correlation ID to that stream (see `replies`). Neither side keeps a connection to the other: a
reply stays in the stream until it is read.

Unless the caller names one, the reply stream is ``<stream>:rs:reply:<principal>[:{<stream>}]``, a companion
of the stream: one per principal, kept for the idempotency window after its last use and trimmed to
`Bounds.replies` entries. A reply stream that a caller names is neither trimmed nor expired.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.turns import ACCOUNT
from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp, request_name
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Batch, Pages
from redstreamd.streams.error_context import append_to_errors, appended, explain_errors
from redstreamd.streams.listing import Lister
from redstreamd.streams.names import Kind, check_unreserved, companion_key, is_reply_stream
from redstreamd.streams.places import Places
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.publishing import Added, KeyReused, Publisher
from redstreamd.streams.scripts import load
from redstreamd.streams.waiting import TRANSIENT, Look, ReadResult, Wait, run_wait

_REPLY_STREAM = load("info", "reply_stream")

#: The size at which a page of a reply stream ends early.
_PAGE_BYTES = 1_048_576
#: A resumed wait reads a long stream from so many milliseconds before its request: the streams may be on
#: nodes of a cluster whose clocks differ.
_MAX_CLOCK_DIFFERENCE_MS = 60_000


class Request(msgspec.Struct, frozen=True):
    """A request to add.

    Attributes:
        stream: Where it is added.
        members: Its content.
        principal: Who sends it; the key, the correlation ID and the reply stream are its own.
        correlation_id: Identifies its reply; None: derived from the idempotency key, else random.
        reply_to: The reply stream; None: the principal's own beside the stream.
        idempotency_key: With the same key, or else the same correlation ID, nothing is added twice.
        waits: It goes into quarantine.
    """

    stream: str
    members: Mapping[str, Any]
    principal: Principal
    correlation_id: str | None = None
    reply_to: str | None = None
    idempotency_key: str | None = None
    waits: bool = False


class Requested(msgspec.Struct, frozen=True):
    """Result of a request.

    Attributes:
        id: The request's entry ID, also of one in quarantine.
        correlation_id: Identifies its reply.
        reply_to: The reply stream.
        resumed: It was added before; this call only waited.
        reply: The reply; None if it did not come in time.
        cursor: The last ID read from the reply stream: a later reply comes after it.
        waits: It was put into quarantine, and is answered only if it is released.
    """

    id: str
    correlation_id: str
    reply_to: str
    resumed: bool
    reply: RawEntry | None
    cursor: str
    waits: bool = False


class Requests:
    """Sends requests over any stream."""

    def __init__(
        self,
        redis: Redis,
        lister: Lister,
        pages: Pages,
        places: Places,
        publisher: Publisher,
        encryption: Encryption,
        *,
        keep_seconds: float,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Add through `publisher`, wait at `places`; our own reply streams expire after `keep_seconds`."""
        self._max_replies, self._at_once = limits.replies, limits.replies_at_once
        self._redis = redis
        self._lister = lister
        self._pages = pages
        self._places = places
        self._hub = places.hub
        self._publisher = publisher
        self._encryption = encryption
        self._keep_ms = milliseconds(keep_seconds)

    def reconfigure(self, *, keep_seconds: float) -> None:
        """Let our own reply streams expire after another time, each from the next request on."""
        self._keep_ms = milliseconds(keep_seconds)

    async def request(self, request: Request, *, timeout_seconds: float) -> Requested:
        """Add a request, unless it was added before, and wait for its reply.

        Raises:
            BusError: As `Publisher.add` and `NextEntries.wait`; INVALID_STREAM if `reply_to` is reserved. If
                the connection breaks while the request is added, the error says how to continue without
                adding it twice.

        Cancellation: what was sent is added nevertheless; the same key or correlation ID resumes.
        """
        wait = await self.ask(request, timeout_seconds=timeout_seconds)
        requested: Requested = await run_wait(wait)
        return requested

    async def ask(self, request: Request, *, timeout_seconds: float, account: Account | None = None) -> Wait:
        """Add a request, unless it was added before, and return the wait for its reply; see `request`.

        Args:
            request: The request.
            timeout_seconds: How long to wait, from now on.
            account: Who waits; None for whoever the task works for.
        """
        deadline = trio.current_time() + timeout_seconds
        request = await self._as_before(request)
        stamp = _stamp(request)
        correlation_id, reply_to = str(stamp.correlation_id), str(stamp.reply_to)
        check_unreserved(reply_to)
        # Before anything is added: a wait that is refused must not leave a request behind.
        claim = self._hub.waits.claim(account or ACCOUNT.get())
        try:
            # So that the stream is armed when it is read first.
            with self._hub.watch((reply_to,), is_eager=True, is_counted=False):
                at = await self.prepare(reply_to)
                added = await self._add(request, stamp)
                (request_id,) = added.ids
                was_added = (
                    f"The request was added as {request_id}; the same call with correlation_id "
                    f"{correlation_id!r} goes on waiting."
                )
                with append_to_errors(lambda: was_added):
                    if added.duplicate:
                        at = await self._resume_position(reply_to, request_id)
        except BaseException:
            self._hub.waits.release(claim)
            raise
        expected = Stamp(correlation_id=correlation_id, in_reply_to=request_name(request.stream, request_id))

        def convert(found: tuple[RawEntry | None, str]) -> Requested:
            reply, cursor = found
            return Requested(
                request_id, correlation_id, reply_to, added.duplicate, reply, cursor, added.waits
            )

        def reword(error: Exception) -> Exception:
            return appended(error, was_added) if isinstance(error, BusError) else error

        search = _Reply(self._redis, self._pages, self._encryption, reply_to, expected, self._at_once)
        return Wait(
            partial(self._places.join, search, at),
            deadline,
            convert,
            # The request was added, so a failed read must not end the wait.
            may_fail=True,
            claim=claim,
            account=account,
            reword=reword,
        )

    async def prepare(self, reply_to: str) -> str:
        """Create or renew a reply stream of redstreamd's own; return the last ID of any reply stream."""
        async with explain_errors(self._redis, reply_to):
            if is_reply_stream(reply_to):
                last_id = await _REPLY_STREAM.run(
                    self._redis,
                    stream=reply_to,
                    max_length=self._max_replies,
                    keep_ms=self._keep_ms,
                    retry_safe=True,
                )
                return str(last_id, "ascii")
        summary = await self._lister.position(reply_to)
        return entry_ids.ZERO if summary is None else summary.last_id

    async def _resume_position(self, reply_to: str, request_id: str) -> str:
        """Return the ID after which to look for the reply to a request that was added before.

        A short stream is read whole: IDs of two streams cannot be compared, since a stream that once got a
        greater ID is ahead of the clock.
        """
        if not is_reply_stream(reply_to):
            summary = await self._lister.position(reply_to)
            if summary is not None and summary.length > self._max_replies:
                asked, _ = entry_ids.parse(request_id) or (0, 0)
                return f"{max(0, asked - _MAX_CLOCK_DIFFERENCE_MS)}-0"
        return entry_ids.ZERO

    async def _as_before(self, request: Request) -> Request:
        """Return a request as the principal made it under a former name, if it did."""
        if request.idempotency_key is None and request.correlation_id is None:
            return request
        for name in request.principal.names[1:]:
            before = msgspec.structs.replace(request, principal=Principal(name, request.principal.transport))
            stamp = _stamp(before)
            key, space = _key(before, stamp)
            if await self._publisher.was_added(
                before.stream,
                [before.members],
                stamp,
                idempotency_key=key,
                owner=before.principal,
                key_space=space,
            ):
                return before
        return request

    async def _add(self, request: Request, stamp: Stamp) -> Added:
        key, space = _key(request, stamp)
        try:
            return await self._publisher.add(
                request.stream,
                [request.members],
                stamp,
                idempotency_key=key,
                owner=request.principal,
                key_space=space,
                waits=request.waits,
            )
        except KeyReused as error:
            raise _reused(request) from error
        except BusError as error:
            if error.code not in TRANSIENT:
                raise
            raise BusError(
                error.code,
                f"It is not certain that the request was added: {error.message}.",
                cause=error.cause,
                next_step="Make the same call again, with correlation_id "
                f"{stamp.correlation_id!r}: it is not added twice.",
            ) from error


class _Reply:
    """The search for the reply to one request. A position is an entry ID of the reply stream."""

    is_eager = True

    def __init__(
        self,
        redis: Redis,
        pages: Pages,
        encryption: Encryption,
        reply_to: str,
        expected: Stamp,
        at_once: int,
    ) -> None:
        # No other wait is for the same.
        self.key: Hashable = self
        self.streams = (reply_to,)
        self._redis = redis
        self._pages = pages
        self._encryption = encryption
        self._expected = expected
        self._at_once = at_once

    def plan(self, position: str) -> Plan[Look]:
        (reply_to,) = self.streams

        def read(page: Batch) -> Look:
            at = position
            for entry in page.entries:
                at = entry.id
                if _is_reply(entry, self._expected):
                    return self._encryption.open_page(reply_to, [entry], partial(_found, at))
            if page.has_more:
                raise UnfinishedError(partial(self.read, at))
            return Look(ReadResult.EMPTY, at, end=at)

        return self._pages.plan(
            reply_to, f"({position}", "+", max_entries=self._at_once, max_bytes=_PAGE_BYTES
        ).then(read)

    async def read(self, position: str) -> Look:
        return await run_plan(self._redis, self.plan(position))

    def plan_bounded(self, position: str) -> None:
        return None

    def last_id(self, position: str) -> str:
        return position

    def nothing(self, position: str) -> tuple[None, str]:
        return None, position


def _found(at: str, replies: list[RawEntry]) -> Look:
    return Look(ReadResult.FOUND, at, (replies[0], at))


def _stamp(request: Request) -> Stamp:
    """Return the stamp of a request, with its correlation ID and its reply stream."""
    sender = request.principal.name
    reply_to = request.reply_to or companion_key(request.stream, Kind.REPLY, sender)
    return Stamp(sender, _correlation_id(request), reply_to)


def _key(request: Request, stamp: Stamp) -> tuple[str, str | None]:
    """Return the key under which a request is recorded, and its space."""
    if request.idempotency_key is None:
        return str(stamp.correlation_id), "request"
    return request.idempotency_key, None


def _correlation_id(request: Request) -> str:
    correlation_id, key = request.correlation_id, request.idempotency_key
    if correlation_id is None and key is not None:
        asked = f"{request.principal.name}\0{request.stream}\0{key}"
        correlation_id = hashlib.sha256(asked.encode()).hexdigest()[:32]
    return correlation_id or secrets.token_hex(16)


def _reused(request: Request) -> BusError:
    """Return the error for a key or correlation ID that was used for another request."""
    if request.idempotency_key is None:
        given, other = "correlation_id", "request"
        value = str(request.correlation_id)
    else:
        given, other = "idempotency_key", "entry, correlation_id or reply_to"
        value = request.idempotency_key
    return BusError(
        Code.INVALID_ARGUMENT,
        f"{given} {value[:80]!r} was used with another {other}.",
        cause=f"The same {given} means the same request of the same sender, to wait for its reply again.",
        next_step=f"Use another {given} for another request, or send exactly the first one.",
    )


def _is_reply(entry: RawEntry, expected: Stamp) -> bool:
    """Return whether an entry is a reply to the request that `expected` names."""
    decoded = decode(entry.fields)
    stamp = decoded.stamp
    # An entry with reply_to is a request, which may be in the stream that takes its reply.
    if stamp.reply_to is not None:
        return False
    # A reply by stream_add does not name the request. One by work_done does, and may belong to an older
    # request with the same correlation ID.
    if stamp.in_reply_to not in (None, expected.in_reply_to):
        return False
    correlation_id: object = stamp.correlation_id
    if correlation_id is None and stamp.sender is None:
        # Programs other than redstreamd stamp nothing, and give it as an ordinary field.
        correlation_id = decoded.members.get("correlation_id")
    return correlation_id == expected.correlation_id
