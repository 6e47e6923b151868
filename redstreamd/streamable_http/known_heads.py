"""Recognises the head of a request that is equal to the one before it on the connection; without I/O.

A client sends the same headers with every request that asks for the same, but for the length of the body. To
parse and check them again takes longer than anything else that HTTP adds to a call. Equal bytes mean the
same, so what was understood of them before counts.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from redstreamd.streamable_http.request_rules import RequestStart

#: The length of a body, in a head without line folding: llhttp has refused others.
_LENGTH: Final = re.compile(rb"\r\n(?i:content-length):[ \t]*([0-9]+)(?=[ \t]*\r\n)")
#: A longer length is parsed, so that it is refused if it is no number that counts.
_MOST_DIGITS: Final = 9
_END: Final = b"\r\n\r\n"
_ZERO: Final = ord("0")


class KnownHead(msgspec.Struct, frozen=True):
    """A head that was understood.

    Attributes:
        before: What of it is before the length of the body.
        after: What is behind that, with the empty line.
        start: What it means.
    """

    before: bytes
    after: bytes
    start: RequestStart

    def recognise(self, data: bytes, begin: int, max_body_bytes: int) -> tuple[RequestStart, int] | None:
        """Return what an equal head means that begins there, and where it ends; None if there is none.

        Args:
            data: What was received.
            begin: Where a request begins.
            max_body_bytes: The longest body.
        """
        if not data.startswith(self.before, begin):
            return None
        digits = begin + len(self.before)
        end = data.find(b"\r", digits, digits + _MOST_DIGITS + 1)
        text = data[digits:end]
        # `int` takes signs, spaces and underscores, too; and what is written otherwise is another text.
        if end < 0 or not text.isdigit() or (text[0] == _ZERO and len(text) > 1):
            return None
        if not data.startswith(self.after, end):
            return None
        length, start = int(text), self.start
        if length > max_body_bytes:
            return None
        if length != start.content_length:
            fields = {**start.head.fields, "content-length": text.decode("ascii")}
            head = msgspec.structs.replace(start.head, fields=fields)
            start = msgspec.structs.replace(start, head=head, content_length=length)
        return start, end + len(self.after)


def first_head(data: bytes, begin: int) -> bytes | None:
    """Return the bytes of the head that begins there; None if it is not whole, or something is before it."""
    # llhttp passes over empty lines before a request.
    if not data[begin : begin + 1].isalpha():
        return None
    end = data.find(_END, begin)
    return None if end < 0 else data[begin : end + len(_END)]


def known(head: bytes, start: RequestStart) -> KnownHead | None:
    """Return a head to recognise an equal one by; None if another request may mean something else by it.

    Args:
        head: Its bytes.
        start: What it was understood as.
    """
    if not start.keeps_alive or start.expects_continue or "upgrade" in start.head.fields:
        return None
    length = _LENGTH.search(head)
    if start.content_length is None or length is None:
        return None
    return KnownHead(head[: length.start(1)], head[length.end(1) :], start)
