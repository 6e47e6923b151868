"""Descriptors held in reserve, so that a client can be told that there are no more.

Without one, accept(2) fails with EMFILE, and the client waits in the backlog for nobody knows how long. libuv
and libev keep one for the same purpose.
"""

from __future__ import annotations

import os
from typing import Final

#: So many clients can be told at a time.
SPARE_DESCRIPTORS: Final = 16


class SpareDescriptors:
    """Open descriptors without a use, held in a `with` block."""

    def __init__(self, number: int = SPARE_DESCRIPTORS) -> None:
        """Hold none before the block, and `number` in it."""
        self._number = number
        self._wanted = 0
        self._held: list[int] = []

    def __enter__(self) -> None:
        """Hold them, as far as there are descriptors."""
        self._wanted = self._number
        self.restore()

    def __exit__(self, *_exc: object) -> None:
        """Close them all."""
        self._wanted = 0
        while self.release():
            pass

    def release(self) -> bool:
        """Close one, so that another descriptor can be opened; False if none is held."""
        if not self._held:
            return False
        os.close(self._held.pop())
        return True

    def restore(self) -> bool:
        """Hold the full number again; False if there are too few descriptors, when some may be held."""
        try:
            while len(self._held) < self._wanted:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False
        return True
