"""Bytes to requests: llhttp (by httptools), strict, and what it leaves to its users; without I/O.

llhttp refuses by itself what is not HTTP/1.1: whitespace and control characters where they do not belong,
bare CR and LF, lengths and sizes of chunks that are no plain numbers. `request_rules` says what else a head
must be. Here are the bounds of everything that is read.

llhttp cannot be paused between two messages: it parses all that it is given. So it is given little at a time,
and nothing more while something parsed was not taken; the rest is kept as it came.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from redstreamd.errors.remedies import setting
from redstreamd.streamable_http.known_heads import KnownHead, first_head, known
from redstreamd.streamable_http.request_rules import (
    MAX_TARGET_BYTES,
    Fault,
    RequestFaultError,
    RequestStart,
    too_long,
    understood,
)

#: What llhttp is given at a time, unless it is known to be of one body: of clients that send many requests at
#: once so much is parsed ahead, a few dozen at most. Most requests are shorter.
_PIECE_BYTES: Final = 1024
#: Bytes of chunks that are no data: sizes, extensions, trailers. As much for each byte of data, and so many
#: beyond that; net/http of Go has such a bound since CVE-2023-39326.
_CHUNKING_PER_BYTE: Final = 8
_CHUNKING_BYTES: Final = 16 * 1024
#: Of the request line and of each header, beside the texts.
_LINE_BYTES: Final = 4

#: The first byte of TLS (RFC 8446, section 5.1).
_TLS: Final = b"\x16"

Parsed = RequestStart | bytes | Fault
"""The head of a request; after it its whole body, perhaps empty; or why nothing more is parsed."""


class HttpParser:
    """The parser of one connection.

    Behaviour:
        `feed` takes bytes, cut anywhere; `take` returns what was parsed, one thing at a time, in order. After
        a `Fault`, and after a request that ends the connection, nothing more comes.

    Attributes:
        is_begun: Whether a request has begun that is not complete.
    """

    __slots__ = (
        "_body",
        "_chunking",
        "_fields",
        "_first",
        "_has_ended",
        "_head_bytes",
        "_is_in_head",
        "_is_upgrade",
        "_known",
        "_llhttp",
        "_max_body_bytes",
        "_max_fields",
        "_max_head_bytes",
        "_missing",
        "_parsed",
        "_place",
        "_raw",
        "_received",
        "_rest",
        "_skips",
        "_start",
        "_target",
        "is_begun",
    )

    def __init__(self, *, max_head_bytes: int, max_fields: int, max_body_bytes: int) -> None:
        """Parse the first request.

        Args:
            max_head_bytes: Longest request line and headers together, from the next request on.
            max_fields: Most headers of a request, trailers included.
            max_body_bytes: Longest body.
        """
        # The head of the last request, if an equal one means the same.
        self._known: KnownHead | None = None
        self.reconfigure(max_head_bytes=max_head_bytes, max_fields=max_fields, max_body_bytes=max_body_bytes)
        self._parsed: list[Parsed] = []
        # What was fed and not given to llhttp, from a place on.
        self._rest = b""
        self._place = 0
        # Of a head that is not complete, with what was before it in the same piece.
        self._raw = b""
        self._has_ended = False
        self.is_begun = False
        # There while a request is parsed: it takes a kilobyte, and most connections wait.
        self._llhttp: httptools.HttpRequestParser | None = None
        self._reset()

    def _reset(self) -> None:
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_in_head = False
        self._is_upgrade = False
        self._start: RequestStart | None = None
        # The first part of the body, and all if there are several: most come in one.
        self._first = b""
        self._body: bytearray | None = None
        self._received = 0
        # Of a body of known length.
        self._missing = 0
        # Of one in chunks: how many bytes were no data, beyond what is allowed.
        self._chunking = 0
        self._skips = False

    def reconfigure(self, *, max_head_bytes: int, max_fields: int, max_body_bytes: int) -> None:
        """Apply other limits from the next request on."""
        self._known = None
        self._max_head_bytes = max_head_bytes
        self._max_fields = max_fields
        self._max_body_bytes = max_body_bytes

    @property
    def held(self) -> int:
        """How many bytes are kept of a body that is not complete, and of what was not parsed."""
        return len(self._rest) - self._place + (len(self._first) if self._body is None else len(self._body))

    @property
    def unparsed(self) -> int:
        """How many bytes were fed that belong to later requests, or are to be parsed by `take`."""
        return len(self._rest) - self._place

    @property
    def has_more(self) -> bool:
        """Whether `take` may return something before more is fed."""
        return bool(self._parsed) or (self._place < len(self._rest) and not self._has_ended)

    def forget_head(self) -> None:
        """Keep nothing of the last request."""
        self._known = None

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._rest = data if self._place == len(self._rest) else self._rest[self._place :] + data
        self._place = 0

    def skip_body(self) -> None:
        """Keep nothing of the body of the request whose head was taken; it comes empty, if not parsed yet."""
        # What is there is that body; another request may have begun behind it.
        if not self._parsed:
            self._skips = True
            self._first, self._body = b"", None

    def drop(self) -> None:
        """Parse nothing more, and drop what is there."""
        self._end()
        self._parsed.clear()

    def stop(self) -> None:
        """As `drop`, and let go of everything; to be called last."""
        self.drop()
        # It holds this one.
        self._llhttp = None

    def take(self) -> Parsed | None:
        """Return what comes next; None if more has to be fed first."""
        parsed = self._parsed
        while not parsed:
            rest, begin = self._rest, self._place
            if begin == len(rest) or self._has_ended:
                return None
            head = None
            if not self.is_begun:
                if self._known is not None and self._take_known(self._known):
                    break
                head = first_head(rest, begin)
            end = min(begin + max(_PIECE_BYTES, self._missing), len(rest))
            piece = rest if end - begin == len(rest) else rest[begin:end]
            if end == len(rest):
                self._rest, self._place = b"", 0
            else:
                self._place = end
            try:
                self._parse(piece)
            except RequestFaultError as refused:
                self._end()
                parsed.append(refused.fault)
            if not self.is_begun:
                self._llhttp = None
            if head is not None:
                first = parsed[0] if parsed else None
                self._known = known(head, first) if isinstance(first, RequestStart) else None
        return parsed.pop(0)

    def _take_known(self, head: KnownHead) -> bool:
        """Take the next request without llhttp, if all of it is there and its head equals the last one."""
        rest, max_body_bytes = self._rest, self._max_body_bytes
        found = head.recognise(rest, self._place, max_body_bytes)
        if found is None:
            return False
        start, place = found
        end = place + (start.content_length or 0)
        if end > len(rest):
            return False
        self._parsed += start, rest[place:end]
        self._rest, self._place = (b"", 0) if end == len(rest) else (rest, end)
        return True

    def _parse(self, piece: bytes) -> None:
        was_in_head, start = self._is_in_head, self._start
        if start is None:
            self._raw = self._raw + piece if self._raw else piece
        received = self._received
        llhttp = self._llhttp
        if llhttp is None:
            llhttp = self._llhttp = httptools.HttpRequestParser(self)
        try:
            llhttp.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._pass_over_upgrade(piece[upgrade.args[0] :])
            return
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, RequestFaultError):
                raise error.__context__ from None
            if isinstance(error.__context__, _EndedError):
                return
            raise
        except httptools.HttpParserInvalidMethodError:
            raise _begins_wrong(piece) from None
        except httptools.HttpParserError as error:
            if self._has_ended:
                # Bytes after the last request of a connection.
                return
            why = str(error)
            if "HTTP version" in why or "HTTP/2" in why or "PRI/Upgrade" in why:
                raise RequestFaultError(505, "this version of HTTP is not supported; use HTTP/1.1") from None
            raise RequestFaultError(400, f"this is not HTTP/1.1: {why}") from None
        if not self._is_in_head:
            self._raw = b""
        elif was_in_head:
            # Of a header that is not complete llhttp says nothing.
            self._head_bytes += len(piece)
            self._check_head(self._head_bytes)
        if start is not None and start is self._start and start.content_length is None:
            data = self._received - received
            self._chunking += len(piece) - (_CHUNKING_PER_BYTE + 1) * data
            if self._chunking > _CHUNKING_BYTES:
                raise RequestFaultError(
                    400, "the chunks of the body have more extensions or trailers than data"
                )

    def _check_head(self, size: int) -> None:
        if size > self._max_head_bytes:
            bound = f"{self._max_head_bytes} bytes ({setting('http.max_head_bytes')})"
            raise RequestFaultError(431, f"the head of the request has more than {bound}")

    def _check_protocol(self, method: bytes) -> None:
        """Refuse a request line of RTSP or ICE, which llhttp reads as one of HTTP and says nothing about."""
        line = rb"(?:\A|\n)%b +%b +(?:RTSP|ICE)/" % (re.escape(method), re.escape(self._target))
        if re.search(line, self._raw) is not None:
            raise RequestFaultError(400, "this is not HTTP/1.1: another protocol")

    def _pass_over_upgrade(self, rest: bytes) -> None:
        """Go on after a head with ``Upgrade``, which is ignored as RFC 9110, section 7.8, allows.

        llhttp stops there, and would take the body for the protocol that is asked for. Another one reads on
        that has seen a head with the same body.
        """
        llhttp = self._llhttp = httptools.HttpRequestParser(self)
        length = self._start.content_length  # type: ignore[union-attr] # the head was just parsed
        framing = b"Transfer-Encoding: chunked" if length is None else b"Content-Length: %d" % length
        llhttp.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")
        if rest and not self._has_ended:
            self._rest, self._place = rest + self._rest[self._place :], 0

    # Called by httptools, in this order; what they raise comes out of `feed_data`. While `_is_upgrade`, they
    # are called for what is passed over.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._is_upgrade:
            return
        if self._has_ended:
            raise _EndedError
        self._reset()
        self._is_in_head = self.is_begun = True

    def on_url(self, target: bytes) -> None:
        """Take a part of the target."""
        if self._is_upgrade:
            return
        self._target += target
        if len(self._target) > MAX_TARGET_BYTES:
            raise RequestFaultError(414, f"the target of the request has more than {MAX_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which is dropped."""
        if self._is_upgrade:
            return
        self._fields.append((name, value))
        if len(self._fields) > self._max_fields:
            bound = f"{self._max_fields} headers ({setting('http.max_fields')})"
            raise RequestFaultError(431, f"the request has more than {bound}")

    def on_headers_complete(self) -> None:
        """Look at the head as a whole."""
        llhttp, fields = self._llhttp, self._fields
        if self._is_upgrade or llhttp is None:
            self._is_upgrade = False
            return
        self._is_in_head = False
        if b" RTSP/" in self._raw or b" ICE/" in self._raw:
            self._check_protocol(llhttp.get_method())
        if self._head_bytes + 2 * _PIECE_BYTES > self._max_head_bytes:
            size = len(self._target) + _LINE_BYTES * (len(fields) + 1)
            self._check_head(size + sum(len(name) + len(value) for name, value in fields))
        start = understood(
            llhttp.get_method(),
            self._target,
            llhttp.get_http_version(),
            fields,
            may_keep_alive=llhttp.should_keep_alive(),
            max_body_bytes=self._max_body_bytes,
        )
        self._start = start
        self._missing = start.content_length or 0
        self._is_upgrade = "upgrade" in start.head.fields and llhttp.should_upgrade()
        self._parsed.append(start)

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._received += len(data)
        if self._missing:
            self._missing -= len(data)
        elif self._received > self._max_body_bytes:
            raise RequestFaultError(413, too_long(self._max_body_bytes))
        if self._skips:
            return
        if self._body is not None:
            self._body += data
        elif self._first:
            self._body = bytearray(self._first)
            self._body += data
            self._first = b""
        else:
            self._first = data

    def on_message_complete(self) -> None:
        """End a request."""
        start, llhttp = self._start, self._llhttp
        if self._is_upgrade or start is None or llhttp is None:
            return
        if start.keeps_alive and not llhttp.should_keep_alive():
            # By now its response could not say so, and llhttp would read no other request.
            raise RequestFaultError(400, "a trailer of the request is about the connection")
        self._parsed.append(self._first if self._body is None else bytes(self._body))
        # Nothing of it is kept while the next one does not come.
        self._target = self._first = b""
        self._fields, self._body, self._start = [], None, None
        self.is_begun = False
        if not start.keeps_alive:
            self._end()

    def _end(self) -> None:
        self._has_ended = True
        self._known = None
        self.is_begun = False
        self._rest, self._place = b"", 0
        self._first, self._body = b"", None


def _begins_wrong(piece: bytes) -> RequestFaultError:
    if piece[:1] == _TLS:
        return RequestFaultError(400, "this is TLS, and this listener speaks plain HTTP")
    if piece[:1] == b"{":
        return RequestFaultError(400, "this listener speaks HTTP, and no lines of JSON: send them by POST")
    return RequestFaultError(501, "this method is not known")


class _EndedError(Exception):
    """Raised where something follows that is not to be parsed."""
