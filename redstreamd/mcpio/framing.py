"""Splits a byte stream into lines of limited length; knows nothing of their content.

MCP's stdio transport delimits messages by newlines and forbids newlines inside them; it recommends the same
for other byte streams. A carriage return before the newline is JSON whitespace and is not stripped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from redstreamd.admission.memory import STEP_BYTES, Share

#: What is kept of a line that is too long: clients write the id of a message at its beginning.
BEGINNING_BYTES: Final = 4_096
# Lines are split together if the first of them is shorter than that: a client's are alike.
_SHORT_BYTES: Final = 384
# Of so many lines, whose mean is so short that they can hardly be messages, the blank ones are left out.
_MANY_LINES: Final = 256
_NO_MESSAGE_BYTES: Final = 16
_BLANK_LINES: Final = re.compile(rb"\n[ \t\r\n]*\n")


class LongLine(bytes):
    """Stands for a line that was too long. Empty, so that it cannot be taken for a message.

    Attributes:
        beginning: Its first bytes, at most `BEGINNING_BYTES`.
    """

    beginning: bytes

    @classmethod
    def of(cls, beginning: bytes | bytearray) -> LongLine:
        """Return what stands for the line that begins with these bytes."""
        line = cls()
        line.beginning = bytes(beginning[:BEGINNING_BYTES])
        return line


class LineSplitter:
    """A line splitter without I/O: `feed` takes bytes and adds to `lines`.

    A line that is too long is in `lines` as a `LongLine`, as soon as it has exceeded the limit. The rest of
    it is dropped, up to its newline. Where blank lines are many, most of them are left out: to ignore each
    takes as long as to read a message.

    Attributes:
        lines: The whole lines, without their newlines, the last first; to be taken from the end.
        held: How many bytes are counted. While there are any, `took` is to be called with each line that was
            taken.
    """

    __slots__ = ("_is_skipping", "_max_line_bytes", "_partial", "_share", "_size", "held", "lines")

    def __init__(self, max_line_bytes: int, share: Share | None = None) -> None:
        """Accept lines of at most `max_line_bytes` bytes, newline not counted.

        Args:
            max_line_bytes: The limit.
            share: Where it is counted what is kept here, once that is much; it may call `give_up`.
        """
        self._max_line_bytes = max_line_bytes
        self._share = share
        self.held = 0
        # How much is kept, with the newlines. Invariant: true while `held`.
        self._size = 0
        # A list, because an empty one is small; a deque takes 700 bytes.
        self.lines: list[bytes] = []
        # Invariant: holds no newline, and at most max_line_bytes bytes; None if it would be empty.
        self._partial: bytearray | None = None
        # Whether what comes next, up to a newline, belongs to a line that was too long.
        self._is_skipping = False

    def reconfigure(self, max_line_bytes: int) -> None:
        """Apply another limit from the next bytes on."""
        self._max_line_bytes = max_line_bytes

    def feed(self, data: bytes, *, keep_blank: bool = False) -> None:
        """Add bytes; linear in their number, however they are divided.

        Args:
            data: The bytes.
            keep_blank: Whether all blank lines are kept, because lines are counted.
        """
        if self._is_skipping:
            begin = data.find(b"\n") + 1
            if not begin:
                return
            self._is_skipping = False
            data = data[begin:]
        most, partial = self._max_line_bytes, self._partial
        # To split compares byte by byte, which to find does not.
        if 0 <= (end := data.find(b"\n")) < _SHORT_BYTES:
            lines = data.split(b"\n")
        else:
            lines, begin = [], 0
            while end >= 0 and len(lines) < _MANY_LINES:
                lines.append(data[begin:end])
                begin = end + 1
                end = data.find(b"\n", begin)
            left = data[begin:] if begin else data
            lines += (left,) if end < 0 else left.split(b"\n")
        is_of_blanks = len(lines) > _MANY_LINES and len(lines) > len(data) // _NO_MESSAGE_BYTES
        if is_of_blanks and not keep_blank:
            # One of them that is too long is no loss, either.
            lines = _BLANK_LINES.sub(b"\n", data).split(b"\n")
        rest = lines.pop()
        if lines:
            if partial is not None:
                lines[0] = b"".join((partial, lines[0]))
                self._partial = partial = None
            if len(data) > most or len(lines[0]) > most:
                lines = [line if len(line) <= most else LongLine.of(line) for line in lines]
        if rest:
            partial = bytearray() if partial is None else partial
            if len(partial) + len(rest) > most:
                self._is_skipping = True
                self._partial = None
                lines.append(LongLine.of(partial[:BEGINNING_BYTES] + rest[:BEGINNING_BYTES]))
            else:
                partial += rest
                self._partial = partial
        lines.reverse()
        self.lines[:0] = lines
        if self.held or len(data) >= STEP_BYTES or len(self._partial or b"") >= STEP_BYTES:
            self.count()

    def count(self) -> None:
        """Count what is kept."""
        self._size = sum(map(len, self.lines)) + len(self.lines) + len(self._partial or b"")
        self._hold()

    def took(self, line: bytes) -> None:
        """Take note that a line was taken from `lines`, which are not looked at."""
        self._size -= len(line) + 1
        if self.held - self._size >= STEP_BYTES or not self.lines:
            self._hold()

    def _hold(self) -> None:
        size = self._size if self._size >= STEP_BYTES else 0
        if self._share is not None and size != self.held:
            more, self.held = size - self.held, size
            self._share.hold(more)

    def put_back(self, line: bytes) -> None:
        """Put a line back that was taken last."""
        self.lines.append(line)
        if self.held or len(line) >= STEP_BYTES:
            self.count()

    def give_up(self) -> bytes | None:
        """Drop the longest line, whole or not, and return its beginning; None if there is none.

        What is to come of it is dropped, too.
        """
        longest = max(range(len(self.lines)), key=lambda place: len(self.lines[place]), default=None)
        partial = self._partial
        if partial is not None and (longest is None or len(partial) >= len(self.lines[longest])):
            self._partial, self._is_skipping = None, True
            line: bytes | bytearray = partial
        elif longest is not None:
            line = self.lines.pop(longest)
        else:
            return None
        self.count()
        return bytes(line[:BEGINNING_BYTES])

    def first(self) -> tuple[bytes | bytearray, bool]:
        """Return the first line, or what there is of it, and whether it is whole; nothing is taken.

        Of a line that was too long it is the beginning.
        """
        if self.lines:
            line = self.lines[-1]
            return line.beginning if isinstance(line, LongLine) else line, True
        return b"" if self._partial is None else self._partial, False

    def drop(self, count: int) -> None:
        """Drop so many bytes at the beginning of the first line."""
        if not self.lines:
            del self._partial[:count]  # type: ignore[union-attr]
            self._partial = self._partial or None
        elif isinstance(line := self.lines[-1], LongLine):
            line.beginning = line.beginning[count:]
        else:
            self.lines[-1] = line[count:]

    def end(self) -> None:
        """Take what is after the last newline as a line, at the end of the stream."""
        if self._partial is not None:
            self.lines.insert(0, bytes(self._partial))
            self._partial = None

    def clear(self) -> None:
        """Drop all bytes that were not taken."""
        self.lines.clear()
        self._partial = None
        self.count()

    def unread(self) -> bytes:
        """Return all bytes that were not taken, of lines that were too long only the beginning.

        With `long_lines`, a new splitter that is given both by `resume` continues this one.
        """
        lines = (line.beginning if isinstance(line, LongLine) else line for line in reversed(self.lines))
        return b"".join([*(line + b"\n" for line in lines), self._partial or b""])

    def long_lines(self) -> tuple[int, ...]:
        """Return which lines of `unread` were too long, as places counted from its end.

        1 is the last line that ends with a newline. 0 says that what is to come, up to a newline, belongs to
        a line that was too long.
        """
        places = [place for place, line in enumerate(self.lines, 1) if isinstance(line, LongLine)]
        return (0, *places) if self._is_skipping else tuple(places)

    def resume(self, unread: bytes, long_lines: Iterable[int]) -> None:
        """Continue another splitter, from its `unread` and `long_lines`; this one is new."""
        self.feed(unread, keep_blank=True)
        for place in long_lines:
            if place == 0:
                self._is_skipping = True
            elif 0 < place <= len(self.lines) and not isinstance(self.lines[place - 1], LongLine):
                self.lines[place - 1] = LongLine.of(self.lines[place - 1])
