"""Output to a terminal, with control characters escaped."""

from __future__ import annotations

import os
import re
import sys

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def escaped(text: str) -> str:
    r"""Return `text` with control characters as ``\u00xx``.

    Names and values are written by others; a terminal must not interpret them. The notation is JSON's, so
    JSON with DEL or C1 controls in strings keeps its meaning.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_error(*lines: str) -> None:
    """Print a message of one or more lines to stderr, after the program's name."""
    print(
        _priority() + "redstreamd: " + "\n  ".join(escaped(line) for line in lines),
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
