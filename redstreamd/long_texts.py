"""Takes a long text out of a JSON text and decodes it by itself; a mark stands for it in the rest.

A message is decoded, then its arguments are, and then the colons of both are counted. Nearly all of a long
message is one text. Once it is taken out, its characters are looked at once, and the rest is a short message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

#: Stands for the text, which is the only one that has it.
MARK: Final = "\x7flong text\x7f"
_MARK: Final = MARK.encode()
_MARKED: Final = b'"%b"' % _MARK
#: What is before a long text is no longer than this, nor what is behind it.
_MOST_BESIDE: Final = 2_048
#: More of them in a row are no usual text; the guess may be wrong then.
_MOST_BACKSLASHES: Final = 64
_BACKSLASH: Final = ord("\\")
_decode: Final = msgspec.json.Decoder(str).decode


class LongText(msgspec.Struct, frozen=True, gc=False):
    """A text that was taken out.

    Attributes:
        text: The text.
        written: As it was written, with its quotes; a part of what it was in.
    """

    text: str
    written: memoryview


def place(data: bytes) -> tuple[int, int] | None:
    """Return where a text probably begins and ends, at its quotes, that is nearly all of a long JSON text.

    It is one if `text_at` decodes it, and what `marked` returns is a JSON text: up to its beginning both are
    read alike, and it ends where it ends by itself.

    Args:
        data: Longer than twice `_MOST_BESIDE`.
    """
    cut = len(data) - _MOST_BESIDE
    if data[cut - 1] == _BACKSLASH:
        # Not between an escaped character and what escapes it.
        before = data[cut - _MOST_BACKSLASHES : cut]
        cut -= len(before) - len(before.rstrip(b"\\"))
    head, tail = data[:_MOST_BESIDE], data[cut:]
    # Without escaped characters each quote begins or ends a text.
    if _BACKSLASH in head:
        head = head.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if _BACKSLASH in tail:
        tail = tail.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    begin, end = head.rfind(b'"'), tail.find(b'"')
    if begin < 0 or end < 0 or head.count(b'"', 0, begin) % 2:
        return None
    end += cut
    following = data.find(b'"', begin + 1)
    # Else there are many texts.
    return (begin, end) if following == end or data[following - 1] == _BACKSLASH else None


def marked(data: bytes, begin: int, end: int) -> bytes | None:
    """Return a JSON text with the mark in the place of a text; None if it has the mark already."""
    before, after = data[:begin], data[end + 1 :]
    return None if _MARK in before or _MARK in after else b"".join((before, _MARKED, after))


def has_mark(data: bytes) -> bool:
    """Return whether the mark is in a JSON text that `marked` returned, or in a part of it."""
    return _MARK in data


def text_at(data: bytes, begin: int, end: int) -> LongText:
    """Return the text that begins and ends at these quotes.

    Raises:
        msgspec.MsgspecError: It is none.
        UnicodeDecodeError: It is not UTF-8.
    """
    written = memoryview(data)[begin : end + 1]
    return LongText(_decode(written), written)


def put_in(values: Iterable[Any], text: str) -> bool:
    """Put a text into the place of its mark, a value in the objects and arrays among `values`.

    Returns:
        Whether it was there; as the name of a member it is not.
    """
    stack = [value for value in values if type(value) is dict or type(value) is list]
    while stack:
        value = stack.pop()
        for key, member in value.items() if type(value) is dict else enumerate(value):
            if type(member) is dict or type(member) is list:
                stack.append(member)
            elif member == MARK:
                value[key] = text
                return True
    return False


def put_back(data: bytes, text: LongText) -> bytes:
    """Return a JSON text, which `marked` returned or which is a part of that, with the text in its place."""
    return data.replace(_MARKED, text.written)
