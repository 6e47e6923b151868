"""Splits a byte stream into lines of limited length; knows nothing of their content.

MCP's stdio transport delimits messages by newlines and forbids newlines inside them; it recommends the same
for other byte streams. A carriage return before the newline is JSON whitespace and is not stripped.
"""

from __future__ import annotations

from collections import deque


class LineSplitter:
    """A line splitter without I/O: `feed` takes bytes and appends to `lines`.

    Attributes:
        lines: The whole lines, without their newlines, to be taken from the left.
        overlong: Whether a line exceeded the limit. Lines before it can still be taken; the rest of the
            input is discarded.
    """

    def __init__(self, max_line_bytes: int) -> None:
        """Accept lines of at most `max_line_bytes` bytes, newline not counted."""
        self._max_line_bytes = max_line_bytes
        self.lines: deque[bytes] = deque()
        # Invariant: holds no newline, and at most max_line_bytes bytes.
        self._partial = bytearray()
        self.overlong = False

    def feed(self, data: bytes) -> None:
        """Add bytes; linear in their number, however they are divided."""
        if self.overlong:
            return
        begin = 0
        # To find a newline compares many bytes at a time, which to split does not.
        while (end := data.find(b"\n", begin)) >= 0:
            line = data[begin:end]
            begin = end + 1
            if self._partial:
                self._partial += line
                line = bytes(self._partial)
                self._partial.clear()
            if len(line) > self._max_line_bytes:
                self.overlong = True
                return
            self.lines.append(line)
        if len(self._partial) + len(data) - begin > self._max_line_bytes:
            self.overlong = True
            self._partial.clear()
        else:
            self._partial += data[begin:] if begin else data

    def take_rest(self) -> bytes:
        """Take the bytes after the last newline, at the end of the stream."""
        rest = bytes(self._partial)
        self._partial.clear()
        return rest

    def clear(self) -> None:
        """Drop all bytes that were not taken."""
        self.lines.clear()
        self._partial.clear()

    def unread(self) -> bytes:
        """Return all bytes that were not taken; a new splitter fed with them continues this one."""
        return b"".join([*(line + b"\n" for line in self.lines), bytes(self._partial)])
