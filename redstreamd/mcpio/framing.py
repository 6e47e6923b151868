"""Cuts a byte stream into lines, within a length limit; knows nothing of what the lines say.

The MCP specification's stdio transport delimits messages by newlines and forbids newlines inside
them; it recommends the same framing for other byte streams. A carriage return before the newline
is JSON whitespace, so nothing here strips it.
"""

from __future__ import annotations

from collections import deque


class LineSplitter:
    """A sans-io line splitter: bytes go in by `feed`, lines come out of `next_line`.

    Lines that were fed but not taken are kept, and `unread` gives them back as bytes: a connection
    that is handed over to another process in the middle of a message loses nothing.

    Attributes:
        overlong: Whether a line passed the limit. Lines before it can still be taken; what follows it is
            lost, because the rest of an overlong line cannot be told from the next message until its
            newline comes.
    """

    def __init__(self, max_line_bytes: int) -> None:
        """Accept lines of at most `max_line_bytes` bytes, newline not counted."""
        self._max_line_bytes = max_line_bytes
        self._lines: deque[bytes] = deque()
        # Invariant: holds no newline, and at most max_line_bytes bytes.
        self._partial = bytearray()
        self.overlong = False

    def feed(self, data: bytes) -> None:
        """Take in bytes as they were read; amortised linear, however they were cut."""
        if self.overlong:
            return
        head, *rest = data.split(b"\n")
        if rest:
            *whole, tail = rest
            if self._partial:
                self._partial += head
                head = bytes(self._partial)
                self._partial.clear()
            for line in (head, *whole):
                if len(line) > self._max_line_bytes:
                    self.overlong = True
                    return
                self._lines.append(line)
        else:
            tail = head
        if len(self._partial) + len(tail) > self._max_line_bytes:
            self.overlong = True
            self._partial.clear()
        else:
            self._partial += tail

    def next_line(self) -> bytes | None:
        """Take the next whole line, without its newline, or None until more is fed."""
        return self._lines.popleft() if self._lines else None

    def take_rest(self) -> bytes:
        """Take what is left after the last newline, for use at the end of the stream."""
        rest = bytes(self._partial)
        self._partial.clear()
        return rest

    def clear(self) -> None:
        """Drop what was fed and not taken."""
        self._lines.clear()
        self._partial.clear()

    def unread(self) -> bytes:
        """Return what was fed and not taken, as it came; a splitter that is fed it continues this one."""
        return b"".join([*(line + b"\n" for line in self._lines), bytes(self._partial)])
