"""Puts lines together from the pieces in which they are read."""

from __future__ import annotations


class LineAssembly:
    """Whole lines of a byte stream, each with its newline.

    Attributes:
        rest: What follows on the last newline.
    """

    def __init__(self) -> None:
        """Begin with the first byte of a stream."""
        self.rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes and return the lines that are whole now; linear in their number."""
        end = data.find(b"\n") + 1
        if end == len(data) and not self.rest:
            return [data] if data else []
        lines = []
        begin = 0
        while end:
            line = data[begin:end]
            if self.rest:
                self.rest += line
                line = bytes(self.rest)
                self.rest.clear()
            lines.append(line)
            begin = end
            end = data.find(b"\n", begin) + 1
        self.rest += data[begin:]
        return lines

    def take_rest(self) -> bytes:
        """Take what follows on the last newline."""
        rest = bytes(self.rest)
        self.rest.clear()
        return rest
