"""Splits a byte stream into lines of limited length; knows nothing of their content.

MCP's stdio transport delimits messages by newlines and forbids newlines inside them; it recommends the same
for other byte streams. A carriage return before the newline is JSON whitespace and is not stripped.
"""

from __future__ import annotations


class LineSplitter:
    """A line splitter without I/O: `feed` takes bytes and adds to `lines`.

    Attributes:
        lines: The whole lines, without their newlines, the last first; to be taken from the end.
        overlong: Whether a line exceeded the limit. Lines before it can still be taken; the rest of the
            input is discarded.
    """

    __slots__ = ("_max_line_bytes", "_partial", "lines", "overlong")

    def __init__(self, max_line_bytes: int) -> None:
        """Accept lines of at most `max_line_bytes` bytes, newline not counted."""
        self._max_line_bytes = max_line_bytes
        # A list, because an empty one is small; a deque takes 700 bytes.
        self.lines: list[bytes] = []
        # Invariant: holds no newline, and at most max_line_bytes bytes; None if it would be empty.
        self._partial: bytearray | None = None
        self.overlong = False

    def feed(self, data: bytes) -> None:
        """Add bytes; linear in their number, however they are divided."""
        if self.overlong:
            return
        lines: list[bytes] = []
        begin = 0
        # To find a newline compares many bytes at a time, which to split does not.
        while (end := data.find(b"\n", begin)) >= 0:
            line = data[begin:end]
            begin = end + 1
            if self._partial is not None:
                self._partial += line
                line = bytes(self._partial)
                self._partial = None
            if len(line) > self._max_line_bytes:
                self.overlong = True
                break
            lines.append(line)
        lines.reverse()
        self.lines[:0] = lines
        if self.overlong or begin == len(data):
            return
        partial = bytearray() if self._partial is None else self._partial
        if len(partial) + len(data) - begin > self._max_line_bytes:
            self.overlong = True
            self._partial = None
            return
        partial += data[begin:] if begin else data
        self._partial = partial

    def take_rest(self) -> bytes:
        """Take the bytes after the last newline, at the end of the stream."""
        rest, self._partial = self._partial, None
        return b"" if rest is None else bytes(rest)

    def clear(self) -> None:
        """Drop all bytes that were not taken."""
        self.lines.clear()
        self._partial = None

    def unread(self) -> bytes:
        """Return all bytes that were not taken; a new splitter fed with them continues this one."""
        return b"".join([*(line + b"\n" for line in reversed(self.lines)), self._partial or b""])
