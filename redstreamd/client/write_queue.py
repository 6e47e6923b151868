"""Lines that wait to be written to a descriptor that takes no more at present."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

#: Lines that are written together, and from how many bytes on one is written alone.
_GATHERED: Final = 64
_ALONE_BYTES: Final = 65536


class WriteQueue:
    """Lines, and how much of the first was written.

    Attributes:
        size: Bytes that wait.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._lines: deque[bytes] = deque()
        self._written = 0
        self.size = 0

    def __len__(self) -> int:
        """Return how many lines wait."""
        return len(self._lines)

    def add(self, lines: list[bytes], written: int = 0) -> None:
        """Take the lines away from a list; of the first ones so much was written, if nothing waits yet."""
        self._lines += lines
        self.size += sum(map(len, lines))
        lines.clear()
        self._advance(written)

    def write(self, write: Callable[[bytes | memoryview], int]) -> None:
        """Write until nothing is left, or no more is taken.

        Raises:
            OSError: From `write`.
        """
        lines = self._lines
        while lines:
            if len(lines) == 1 or self._written or len(lines[0]) >= _ALONE_BYTES:
                data: bytes | memoryview = (
                    memoryview(lines[0])[self._written :] if self._written else lines[0]
                )
            else:
                data = b"".join([lines[each] for each in range(min(len(lines), _GATHERED))])
            written = write(data)
            if not written:
                return
            self._advance(written)

    def _advance(self, written: int) -> None:
        lines = self._lines
        self.size -= written
        written += self._written
        while lines and written >= len(lines[0]):
            written -= len(lines.popleft())
        self._written = written

    def take(self) -> list[bytes]:
        """Take away what was not written as a whole."""
        lines = list(self._lines)
        self._lines.clear()
        self._written = self.size = 0
        return lines
