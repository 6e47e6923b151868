"""Takes bytes as they come and gives whole RESP3 replies.

Owns the parser's options and the limit on a reply's size. Which request a reply belongs to is
``pipeline``'s affair. The parsing itself is hiredis's.
"""

from __future__ import annotations

from typing import Any, Final

import hiredis

from redstreamd.redisio.error_replies import reply_error

#: Bytes of one reply. Redis itself limits a single value to this (proto-max-bulk-len).
MAX_REPLY_BYTES: Final = 512 * 1024 * 1024

# RESP3 has a false of its own, which hiredis's default for "no whole reply yet" cannot be told from.
_INCOMPLETE: Final = object()

#: Bytes of a reply whose buffer is worth giving back.
_LARGE_BYTES: Final = 1024 * 1024


class UnreadableError(Exception):
    """The bytes are no RESP3; nothing after them can be trusted."""


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

        All of them are parsed before any is returned: that a length was wrong shows only in what
        follows it.

        Raises:
            UnreadableError: To be discarded, with the connection.
            OversizedError: Likewise.
        """
        gets, more_bytes = self._reader.gets, self._reader.has_data
        replies = []
        between_replies = False
        try:
            self._reader.feed(data)
            while not between_replies and (reply := gets()) is not _INCOMPLETE:
                replies.append(reply)
                # To be asked here: once `gets` has begun with the next reply, what it took of it is no
                # longer among the bytes that are left.
                between_replies = not more_bytes()
        except hiredis.HiredisError as error:
            raise UnreadableError(str(error)) from None
        if replies:
            if self._partial_bytes > _LARGE_BYTES and between_replies:
                # hiredis keeps its buffer, as large as it became, until more bytes come.
                self._reader = _reader()
            self._partial_bytes = 0
        else:
            self._partial_bytes += len(data)
            if self._partial_bytes > MAX_REPLY_BYTES:
                raise OversizedError
        return replies
