"""Turns the bytes that a connection receives into whole RESP3 replies.

Owns the parser's options and the limit on a reply's size. Which request a reply belongs to is
decided in ``pipeline``. The parsing itself is hiredis's.
"""

from __future__ import annotations

from typing import Any, Final

import hiredis

from redstreamd.redisio.error_replies import reply_error

#: Bytes of one reply. Redis itself limits a single value to this (proto-max-bulk-len).
MAX_REPLY_BYTES: Final = 512 * 1024 * 1024

# hiredis's default for "no whole reply yet" is False, which is a RESP3 value as well.
_INCOMPLETE: Final = object()

#: Bytes of a reply from which on its buffer is freed after use.
_LARGE_BYTES: Final = 1024 * 1024


class UnreadableError(Exception):
    """The bytes are not RESP3; nothing after them can be trusted."""


class OversizedError(Exception):
    """A reply has grown beyond the limit and is still not whole."""


def _reader() -> hiredis.Reader:
    return hiredis.Reader(replyError=reply_error, notEnoughData=_INCOMPLETE)


class Decoder:
    """Parses the replies of one connection. Strings stay bytes; error replies become exceptions."""

    def __init__(self) -> None:
        """Begin at the first byte of a connection."""
        self._reader = _reader()
        # Bytes of the reply that is not whole yet, less what came with the reply before it.
        self._partial_bytes = 0

    def feed(self, data: bytes) -> list[Any]:
        """Return the replies that `data` completes, in order, push notifications among them.

        All of them are parsed before any is returned, because a wrong length shows only in the bytes that
        follow it.

        Raises:
            UnreadableError: The bytes are not RESP3. Discard this object and the connection.
            OversizedError: A reply is larger than `MAX_REPLY_BYTES`. Discard both, too.
        """
        reader = self._reader
        try:
            reader.feed(data)
            replies = (
                list(iter(reader.gets, _INCOMPLETE)) if self._partial_bytes <= _LARGE_BYTES else self._end()
            )
        except (hiredis.HiredisError, TypeError, ValueError) as error:
            # hiredis makes a dict of a map, whatever its keys, and a number of the text of one.
            raise UnreadableError(str(error)) from None
        if replies:
            self._partial_bytes = 0
        else:
            self._partial_bytes += len(data)
            if self._partial_bytes > MAX_REPLY_BYTES:
                raise OversizedError
        return replies

    def _end(self) -> list[Any]:
        """Return the replies where the first one is large, and free its buffer if nothing follows them."""
        gets, more_bytes = self._reader.gets, self._reader.has_data
        replies = []
        between_replies = False
        while not between_replies and (reply := gets()) is not _INCOMPLETE:
            replies.append(reply)
            # Must be asked here: once `gets` has begun the next reply, the bytes that it took are no longer
            # counted by `has_data`.
            between_replies = not more_bytes()
        if between_replies:
            # hiredis keeps its buffer, as large as it became, until more bytes come.
            self._reader = _reader()
        return replies
