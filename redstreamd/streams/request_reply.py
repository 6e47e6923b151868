"""Requests: entries that name where their answer goes, and the wait for that answer.

A request is an ordinary entry with two stamps, a correlation ID and a reply stream. Whoever works on
it adds an entry with the same correlation ID to that stream (see `answers`). Neither side keeps
anything open for the other: an answer that comes when nobody waits lies there until it is asked for.

Unless the caller names one, the reply stream is ``<stream>:rs:reply:<principal>[:{<stream>}]``, a
companion of the stream: one per principal, kept for the idempotency window after its last use and
cut to its newest `MAX_REPLIES` entries. A reply stream that a caller names is the caller's own, and
is neither cut nor expired.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_ids
from redstreamd.streams.durations import milliseconds
from redstreamd.streams.entry_codec import Stamp, decode, request_name
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.error_context import explained, telling
from redstreamd.streams.listing import Lister
from redstreamd.streams.names import Kind, check_unreserved, companion_key, is_reply_stream
from redstreamd.streams.publishing import Added, KeyReused, Publisher
from redstreamd.streams.scripts import load
from redstreamd.streams.tail_hub import TailHub, Watch
from redstreamd.streams.waiting import PASSING, Sight, look_until

_REPLY_STREAM = load("reply_stream")

#: Answers kept in a reply stream of ours: as many as calls may wait at a time by default.
MAX_REPLIES = 10_000
#: Answers that one reply of the server carries, and the size at which it ends early.
_PAGE, _PAGE_BYTES = 100, 1_048_576
#: A resumed wait looks through a long stream from so many milliseconds before its request on: the two
#: streams may lie on nodes of a cluster whose clocks differ.
_CLOCKS_DIFFER = 60_000


@attrs.frozen
class Request:
    """A question and how its answer will be known.

    Attributes:
        stream: Where it is added.
        members: Its content.
        principal: Who asks.
        correlation_id: What ties the answer to it; None: derived from the idempotency key, else random.
        reply_to: The reply stream; None: the principal's own beside the stream.
        idempotency_key: With the same key, or else the same correlation ID, nothing is added twice.
    """

    stream: str
    members: Mapping[str, Any]
    principal: str
    correlation_id: str | None = None
    reply_to: str | None = None
    idempotency_key: str | None = None


@attrs.frozen
class Requested:
    """What became of a request.

    Attributes:
        id: The request's entry ID.
        correlation_id: What ties the answer to it.
        reply_to: The reply stream.
        resumed: It had been added before; this call only waited.
        reply: The answer; None if it did not come in time.
        cursor: Up to where the reply stream was looked through: a later answer comes after it.
    """

    id: str
    correlation_id: str
    reply_to: str
    resumed: bool
    reply: RawEntry | None
    cursor: str


class Requests:
    """Asks over any stream."""

    def __init__(
        self,
        manager: Manager,
        commands: Commands,
        lister: Lister,
        pages: Pages,
        hub: TailHub,
        publisher: Publisher,
        *,
        keep_seconds: float,
    ) -> None:
        """Add through `publisher`, wait through `hub`; reply streams of ours live for `keep_seconds`."""
        self._manager = manager
        self._commands = commands
        self._lister = lister
        self._pages = pages
        self._hub = hub
        self._publisher = publisher
        self._keep_ms = milliseconds(keep_seconds)

    async def request(self, request: Request, *, timeout_seconds: float) -> Requested:
        """Add a request, unless it was added before, and wait for its answer.

        Raises:
            BusError: As `Publisher.add` and `Reader.wait`; INVALID_STREAM if no reply may be added to
                `reply_to`. If the connection breaks while the request is added, the error says how to
                go on without asking twice.

        Cancellation: what was sent is added all the same; the same key or correlation ID resumes.
        """
        deadline = trio.current_time() + timeout_seconds
        correlation_id = _correlation_id(request)
        reply_to = request.reply_to or companion_key(request.stream, Kind.REPLY, request.principal)
        check_unreserved(reply_to)
        # Before anything is added: a wait that is refused must not leave a question behind.
        with self._hub.watch((reply_to,)) as watch:
            at = await self.prepare(reply_to)
            added = await self._add(request, Stamp(request.principal, correlation_id, reply_to))
            (request_id,) = added.ids
            answer = Stamp(
                correlation_id=correlation_id, in_reply_to=request_name(request.stream, request_id)
            )
            there = (
                f"The request is there, as {request_id}; the same call with correlation_id "
                f"{correlation_id!r} goes on waiting."
            )
            with telling(lambda: there):
                if added.duplicate:
                    at = await self._resumed_at(reply_to, request_id)
                reply, at = await self._wait(watch, reply_to, answer, at, deadline)
        return Requested(request_id, correlation_id, reply_to, added.duplicate, reply, at)

    async def prepare(self, reply_to: str) -> str:
        """Make a reply stream of ours exist for a while longer; return where any reply stream ends."""
        async with explained(self._commands, reply_to):
            if is_reply_stream(reply_to):
                last = await self._manager.run_script(
                    _REPLY_STREAM, keys=[reply_to], args=[MAX_REPLIES, self._keep_ms], retry_safe=True
                )
                return str(last, "ascii")
        summary = await self._lister.position(reply_to)
        return entry_ids.ZERO if summary is None else summary.last_id

    async def _resumed_at(self, reply_to: str, request_id: str) -> str:
        """Return after which entry the answer to a request that was added before may lie.

        A stream that is not long is read whole: IDs of two streams cannot be compared, since those of a
        stream that got a greater ID once are ahead of the clock.
        """
        if not is_reply_stream(reply_to):
            summary = await self._lister.position(reply_to)
            if summary is not None and summary.length > MAX_REPLIES:
                asked, _ = entry_ids.parse(request_id) or (0, 0)
                return f"{max(0, asked - _CLOCKS_DIFFER)}-0"
        return entry_ids.ZERO

    async def _add(self, request: Request, stamp: Stamp) -> Added:
        key, space = request.idempotency_key, None
        if key is None:
            key, space = str(stamp.correlation_id), "request"
        try:
            return await self._publisher.add(
                request.stream, [request.members], stamp, idempotency_key=key, key_space=space
            )
        except KeyReused as error:
            raise _reused(request) from error
        except BusError as error:
            if error.code not in PASSING:
                raise
            raise BusError(
                error.code,
                f"It is not certain that the request was added: {error.message}.",
                cause=error.cause,
                next_step="Make the same call again, with correlation_id "
                f"{stamp.correlation_id!r}: it is not added twice.",
            ) from error

    async def _wait(
        self, watch: Watch, reply_to: str, answer: Stamp, at: str, deadline: float
    ) -> tuple[RawEntry | None, str]:
        reply: RawEntry | None = None

        async def look() -> Sight:
            nonlocal reply, at
            reply, at = await self._look(reply_to, answer, at)
            return Sight.NOTHING if reply is None else Sight.FOUND

        # The request is there; a look that failed is no reason to lose its answer.
        await look_until(deadline, look, hub=self._hub, watch=watch, first_may_fail=True)
        return reply, at

    async def _look(self, reply_to: str, answer: Stamp, at: str) -> tuple[RawEntry | None, str]:
        """Look through the reply stream after `at`; return the answer, if any, and the last ID seen."""
        while True:
            async with explained(self._commands, reply_to):
                page = await self._pages.read(reply_to, f"({at}", "+", most=_PAGE, most_bytes=_PAGE_BYTES)
            for entry in page.entries:
                at = entry.id
                if _answers(entry, answer):
                    return entry, at
            if not page.has_more:
                return None, at


def _correlation_id(request: Request) -> str:
    correlation_id, key = request.correlation_id, request.idempotency_key
    if correlation_id is None and key is not None:
        asked = f"{request.principal}\0{request.stream}\0{key}"
        correlation_id = hashlib.sha256(asked.encode()).hexdigest()[:32]
    return correlation_id or secrets.token_hex(16)


def _reused(request: Request) -> BusError:
    """Return the error for a key or correlation ID that stands for another request."""
    if request.idempotency_key is None:
        given, other = "correlation_id", "request"
        value = str(request.correlation_id)
    else:
        given, other = "idempotency_key", "entry, correlation_id or reply_to"
        value = request.idempotency_key
    return BusError(
        Code.INVALID_ARGUMENT,
        f"{given} {value[:80]!r} was used with another {other}.",
        cause=f"The same {given} means the same request of the same sender, to wait for its answer again.",
        next_step=f"Use another {given} for another request, or send exactly the first one.",
    )


def _answers(entry: RawEntry, answer: Stamp) -> bool:
    """Tell whether an entry answers the request that `answer` names."""
    decoded = decode(entry.fields)
    stamp = decoded.stamp
    # What asks for a reply is a request, which may lie in the very stream that takes its answer.
    if stamp.reply_to is not None:
        return False
    # A reply by hand does not name the request; one of work_done does, and may be to an older request
    # with the same correlation ID.
    if stamp.in_reply_to not in (None, answer.in_reply_to):
        return False
    correlation_id: object = stamp.correlation_id
    if correlation_id is None and stamp.sender is None:
        # Programs outside redstreamd stamp nothing; theirs is a field like any other.
        correlation_id = decoded.members.get("correlation_id")
    return correlation_id == answer.correlation_id
