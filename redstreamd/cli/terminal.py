"""Output to a terminal, on which nothing of others is interpreted or hidden."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from redstreamd.visible_text import visible


def print_lines(lines: Iterable[str]) -> None:
    """Print lines to stdout, with hidden characters of each made visible."""
    print("\n".join(map(visible, lines)))


def print_error(*lines: str) -> None:
    """Print a message of one or more lines to stderr, after the program's name."""
    print(
        _priority() + "redstreamd: " + "\n  ".join(map(visible, lines)),
        file=sys.stderr,
        flush=True,
    )


def _priority() -> str:
    """Return the prefix of an error if the journal reads stderr (sd-daemon(3)), else nothing."""
    try:
        status = os.fstat(2)
    except OSError:
        return ""
    return "<3>" if os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}" else ""
