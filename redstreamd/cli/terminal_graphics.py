"""Bars, sparklines and folded lines for a terminal: pure functions from values to text.

Knows neither the report of the daemon nor the terminal itself. Everything can be read without colour, and
without characters beyond ASCII where the locale has none.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

#: Terminals whose fonts lack the characters of sparklines.
_PLAIN_TERMINALS: Final = frozenset({"", "dumb", "linux"})


class Glyphs(NamedTuple):
    """The characters of bars and sparklines.

    Attributes:
        full: A filled cell of a bar.
        empty: An empty one.
        levels: The levels of a sparkline, the lowest first.
    """

    full: str
    empty: str
    levels: str


UNICODE: Final = Glyphs("█", "░", "▁▂▃▄▅▆▇█")
ASCII: Final = Glyphs("#", ".", "_.-:=+*#")


def glyphs(environ: Mapping[str, str], encoding: str, *, is_terminal: bool) -> Glyphs:
    """Return the characters that an output can show.

    Args:
        environ: As the process was started with it. Python's own encoding does not tell: in the C locale it
            takes UTF-8 (PEP 538, PEP 540), and may set LC_CTYPE itself.
        encoding: Of the output.
        is_terminal: Whether it is a terminal; then `environ` says which.
    """
    locale = next(filter(None, (environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    shows = all("utf8" in text.lower().replace("-", "") for text in (locale, encoding))
    if is_terminal and environ.get("TERM", "") in _PLAIN_TERMINALS:
        shows = False
    return UNICODE if shows else ASCII


def first_environ() -> Mapping[str, str]:
    """Return the environment that the process was started with; what it is now if that cannot be read."""
    try:
        with open("/proc/self/environ", "rb") as block:  # noqa: PTH123 - pathlib is slow to import
            pairs = block.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return os.environ
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def bar(share: float, cells: int, using: Glyphs) -> str:
    """Return a bar of `cells` cells; none of it is filled for 0 only, and all of it for 1 or more only."""
    filled = min(cells, max(math.floor(share * cells), 1 if share > 0 else 0))
    return using.full * filled + using.empty * (cells - filled)


def sparkline(values: Sequence[float | None], cells: int, using: Glyphs, *, lowest: float = 0.0) -> str:
    """Return a sparkline of at most `cells` cells, padded to as many on the left.

    Args:
        values: The oldest first; None for what is not known, which is a space. If there are more than
            cells, a cell shows the largest of its values.
        cells: Its width.
        using: The characters.
        lowest: The value of the lowest level.
    """
    per_cell = max(1, math.ceil(len(values) / cells))
    # From the end, so that the last cell is complete, and shows the present.
    parts = [values[max(0, end - per_cell) : end] for end in range(len(values), 0, -per_cell)][::-1]
    highest = [max((value for value in part if value is not None), default=None) for part in parts]
    span = max((value for value in highest if value is not None), default=lowest) - lowest
    shown = (" " if value is None else _level(value - lowest, span, using.levels) for value in highest)
    return "".join(shown).rjust(cells)


def _level(value: float, span: float, levels: str) -> str:
    if span <= 0 or value <= 0:
        return levels[0]
    return levels[min(len(levels) - 1, math.floor(value / span * len(levels)))]


def cells_of(text: str) -> int:
    """Return how many cells a text takes on a terminal, by the widths of Unicode (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in text
    )


def folded(text: str, first: int, rest: int) -> Iterator[str]:
    """Yield a text in lines of at most so many cells, broken at spaces, or anywhere in a longer word.

    Args:
        text: One line.
        first: Cells of the first line; at least 2.
        rest: Cells of the others; at least 2.
    """
    room = first
    while cells_of(text) > room:
        end = taken = 0
        while taken + (width := cells_of(text[end])) <= room:
            taken += width
            end += 1
        space = text.rfind(" ", 1, end + 1)
        line, text = (text[:space], text[space + 1 :]) if space > 0 else (text[:end], text[end:])
        yield line.rstrip()
        text = text.lstrip()
        room = rest
    yield text
