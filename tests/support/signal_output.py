"""What a handler of a signal writes.

A handler runs between any two instructions of the main thread, also while that writes to `sys.stderr`. To
write to the same stream then raises RuntimeError, a "reentrant call"; so it writes to the descriptor.
"""

from __future__ import annotations

import os


def write_line(*words: object) -> None:
    """Write words as one line to standard error."""
    data = " ".join(map(str, words)).encode("utf-8", "backslashreplace") + b"\n"
    while data:
        data = data[os.write(2, data) :]
