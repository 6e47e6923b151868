"""Streams of events: their form, the comments that keep them open, and what is kept of them.

Knows nothing of requests and sessions. One ticker attends to all streams, and to the responses that are to
become one, instead of a timer for each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Responder

Fields = tuple[tuple[str, str], ...]

#: How often the ticker looks at streams and responses.
TICK_SECONDS: Final = 0.5
#: After so many ticks without an answer a response becomes a stream; the first may come at once.
_PATIENCE_TICKS: Final = 3
#: How often it is asked whether the clients of streams may still read, in ticks.
_CHECK_TICKS: Final = 4
#: What is done between two checkpoints: under TLS each write costs some 40 µs.
_WRITES_AT_ONCE: Final = 32
_CHECKS_AT_ONCE: Final = 256
#: When a client that lost a stream should come back.
RETRY_MS: Final = 1_000
#: What an event costs to be kept, beside its bytes.
_EVENT_BYTES: Final = 120
#: Characters of the name of an event.
_LONGEST_NAME: Final = 40

#: Of a response of events: proxies pass on each at once.
EVENT_FIELDS: Final[Fields] = (("X-Accel-Buffering", "no"),)
_COMMENT: Final = b":\n\n"


class Slow(Protocol):
    """A response that becomes a stream if its answer takes long."""

    def become_stream(self) -> None:
        """Begin a response of events, if that is possible."""
        ...


class EventTicker:
    """Attends to what is not over: makes streams of slow responses, and keeps streams open."""

    def __init__(self, limits: HttpLimits) -> None:
        """Keep streams open as `limits` say, which may change."""
        self._limits = limits
        self._ticks = 0
        # Responses whose answer is awaited, the oldest first, with the tick in which they began.
        self._waiting: dict[Slow, int] = {}
        # Open streams of events, with the tick in which something was sent last.
        self._streams: dict[EventStream, int] = {}
        # Responses that will certainly become a stream.
        self._places: set[Slow] = set()
        self._idle = trio.lowlevel.ParkingLot()

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def is_full(self) -> bool:
        """Whether there are as many streams as may be."""
        return len(self._streams) + len(self._places) >= self._limits.max_event_streams

    def take_place(self, response: Slow) -> bool:
        """Keep a place for a response until it becomes a stream or is `answered`; False if there is none."""
        if self.is_full:
            return False
        self._places.add(response)
        return True

    def has_place(self, response: Slow) -> bool:
        """Return whether a response may become a stream."""
        return response in self._places or not self.is_full

    def await_answer(self, response: Slow) -> None:
        """Have a response become a stream, unless it is `answered` within about a second."""
        self._waiting[response] = self._ticks
        if self._idle:
            self._idle.unpark_all()

    def answered(self, response: Slow) -> None:
        """Leave a response alone. Idempotent."""
        self._waiting.pop(response, None)
        if self._places:
            self._places.discard(response)

    def keep(self, stream: EventStream) -> None:
        """Keep a stream open, by which something is sent now, until `ended`."""
        self._streams[stream] = self._ticks
        if self._idle:
            self._idle.unpark_all()

    def ended(self, stream: EventStream) -> None:
        """Leave a stream alone. Idempotent."""
        self._streams.pop(stream, None)

    async def run(self) -> None:
        """Attend to all until cancelled."""
        while True:
            if not self._waiting and not self._streams:
                await self._idle.park()
            await trio.sleep(TICK_SECONDS)
            self._ticks += 1
            await self._begin_streams()
            if self._ticks % _CHECK_TICKS == 0:
                await self._check_all()
            await self._comment()

    async def _begin_streams(self) -> None:
        """Make streams of responses whose answers take long."""
        done = 0
        while self._waiting:
            response, since = next(iter(self._waiting.items()))
            if self._ticks - since < _PATIENCE_TICKS:
                break
            del self._waiting[response]
            response.become_stream()
            done += 1
            if done % _WRITES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def _check_all(self) -> None:
        """End the streams of clients whose credentials are not valid any more."""
        for done, stream in enumerate(list(self._streams), 1):
            stream.check()
            if done % _CHECKS_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()

    async def _comment(self) -> None:
        """Send comments where nothing was sent for long."""
        silent = self._ticks - self._limits.event_pause_seconds / TICK_SECONDS
        due = [stream for stream, sent in self._streams.items() if sent <= silent]
        for done, stream in enumerate(due, 1):
            # One that has ended meanwhile sends nothing.
            stream.comment()
            if done % _WRITES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()


class EventStream:
    """A stream of events; over one response after the other, if its client may come back for it.

    Attributes:
        number: Of the stream in its session, the first part of its events' names, if they have any.
        last: How many events it has had.
        kept: How many of them are kept, the last ones.
        is_ended: Whether it has all events that belong to it.
    """

    __slots__ = (
        "_is_valid",
        "_log",
        "_on_gone",
        "_responder",
        "_sent",
        "_ticker",
        "is_ended",
        "kept",
        "last",
        "number",
    )

    def __init__(
        self, ticker: EventTicker, log: EventLog | None = None, on_gone: Callable[[], None] | None = None
    ) -> None:
        """Begin without a response.

        Args:
            ticker: Keeps its responses open.
            log: Keeps its events; None: no client comes back for them.
            on_gone: Called when the client has gone from a response.
        """
        self._ticker = ticker
        self._log = log
        self._on_gone = on_gone
        self._responder: Responder | None = None
        self._is_valid: Callable[[], bool] | None = None
        self.number = 0 if log is None else log.begin(self)
        # Of the events, how many a response has had.
        self.last = self.kept = self._sent = 0
        self.is_ended = False

    @property
    def is_attached(self) -> bool:
        """Whether there is a response that events go to."""
        return self._responder is not None and not self._responder.is_over

    def attach(
        self,
        responder: Responder,
        fields: Fields = (),
        *,
        after: int | None = None,
        primes: bool = False,
        is_valid: Callable[[], bool] | None = None,
    ) -> None:
        """Send by this response from now on, instead of the one before, which ends.

        Args:
            responder: The response; it has not begun.
            fields: Headers that it has beside those of each stream of events.
            after: The event after which the client goes on; None: after those that a response has had.
            primes: Whether the client understands an event without data, which tells it where it is.
            is_valid: Tells whether the client may still read; the response ends if not. None: it may.
        """
        self.close()
        self._responder = responder
        self._is_valid = is_valid
        responder.on_gone = self._has_gone
        responder.begin_events((*EVENT_FIELDS, *fields))
        start = self._sent if after is None else after
        if primes and self._log is not None:
            responder.send_events(b"id: %d-%d\nretry: %d\ndata:\n\n" % (self.number, start, RETRY_MS))
        if self._log is not None:
            for event in self._log.events(self, start):
                responder.send_events(event)
        self._sent = self.last
        if self.is_ended:
            self.close()
        else:
            self._ticker.keep(self)

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Send a message, and keep it if the stream has a log."""
        self.last += 1
        if self._log is None:
            event = b"event: message\ndata: %b\n" % line
        else:
            event = b"event: message\nid: %d-%d\ndata: %b\n" % (self.number, self.last, line)
            self._log.keep(self, event)
        responder = self._open_responder()
        if responder is not None:
            self._sent = self.last
            responder.send_events(event, is_last=is_last)
            self._ticker.keep(self)

    def check(self) -> bool:
        """Return whether the client may still read; if not, it is as if it had gone."""
        if self._is_valid is None or self._is_valid():
            return True
        self.close()
        if self._on_gone is not None:
            self._on_gone()
        return False

    def comment(self) -> None:
        """Send a comment, so that nobody takes the stream for dead; nothing if it has no response."""
        responder = self._open_responder()
        if responder is not None:
            responder.send_events(_COMMENT)
            self._ticker.keep(self)

    def end(self) -> None:
        """End it: it has all events that belong to it."""
        self.is_ended = True
        self.close()
        if self._log is not None:
            self._log.ended(self)

    def close(self) -> None:
        """End its response; the client may come back. Idempotent."""
        responder, self._responder = self._responder, None
        self._ticker.ended(self)
        if responder is not None:
            responder.on_gone = None
            if not responder.is_over:
                responder.end_events()

    def _open_responder(self) -> Responder | None:
        responder = self._responder
        if responder is None or responder.is_over:
            return None
        return responder if self.check() else None

    def _has_gone(self) -> None:
        self._responder = None
        self._ticker.ended(self)
        if self._on_gone is not None:
            self._on_gone()


class EventLog:
    """What is kept of the events of a session, for a client that comes back; the oldest go first.

    Attributes:
        size: What is kept, in bytes.
    """

    __slots__ = ("_events", "_limits", "_numbers", "_on_size", "_streams", "size")

    def __init__(self, limits: HttpLimits, on_size: Callable[[], None]) -> None:
        """Keep as much as `limits` say, which may change; `on_size` is called when the size has changed."""
        self._limits = limits
        # None once it is closed.
        self._on_size: Callable[[], None] | None = on_size
        self._streams: dict[int, EventStream] = {}
        # An empty deque takes 760 bytes, and most sessions have no events.
        self._events: deque[tuple[EventStream, int, bytes]] | None = None
        self._numbers = 0
        self.size = 0

    def begin(self, stream: EventStream) -> int:
        """Return the number of a new stream."""
        number = self._numbers
        self._numbers += 1
        self._streams[number] = stream
        return number

    def keep(self, stream: EventStream, event: bytes) -> None:
        """Keep the newest event of a stream."""
        if self._on_size is None:
            return
        if self._events is None:
            self._events = deque()
        self._events.append((stream, stream.last, event))
        stream.kept += 1
        self.size += len(event) + _EVENT_BYTES
        while self.size > self._limits.replay_bytes:
            self._drop_oldest(self._events)
        self._on_size()

    def ended(self, stream: EventStream) -> None:
        """Take note that a stream has ended; it is forgotten with the last of its events."""
        if not stream.kept:
            self._streams.pop(stream.number, None)

    def find(self, name: str) -> tuple[EventStream, int] | None:
        """Return the stream and the number of an event; None if what came after it is not kept any more."""
        number, _, event = name.partition("-")
        if len(name) > _LONGEST_NAME or not all(
            each.isascii() and each.isdigit() for each in (number, event)
        ):
            return None
        stream, after = self._streams.get(int(number)), int(event)
        if stream is None or not stream.last - stream.kept <= after <= stream.last:
            return None
        return stream, after

    def events(self, stream: EventStream, after: int) -> list[bytes]:
        """Return the events of a stream that came after one of them, as far as they are kept."""
        if self._events is None or stream.last <= after:
            return []
        return [event for of, number, event in self._events if of is stream and number > after]

    def clear(self) -> bool:
        """Drop all that is kept; return whether that was anything."""
        had_any = bool(self._events)
        while self._events:
            self._drop_oldest(self._events)
        self._events = None
        if self._on_size is not None:
            self._on_size()
        return had_any

    def close(self) -> None:
        """End all streams, and keep nothing."""
        for stream in list(self._streams.values()):
            stream.end()
        self.clear()
        self._on_size = None

    def _drop_oldest(self, events: deque[tuple[EventStream, int, bytes]]) -> None:
        stream, _, event = events.popleft()
        stream.kept -= 1
        self.size -= len(event) + _EVENT_BYTES
        if stream.is_ended:
            self.ended(stream)
