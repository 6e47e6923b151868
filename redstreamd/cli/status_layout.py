"""How a report becomes lines of text for one output: its width, its characters, its colours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from redstreamd.cli.terminal_graphics import ASCII, Glyphs, cells_of, first_environ, folded, glyphs
from redstreamd.visible_text import visible

#: Cells of the names on the left: "redstreamd" and a version.
NAME_CELLS: Final = 18
#: Narrower terminals get lines of this width, which they break where they like.
_LEAST_WIDTH: Final = 40
#: Select Graphic Rendition (ECMA-48).
_TONES: Final = {"good": "32", "warning": "33", "alarm": "1;31", "heading": "1"}


class Line(NamedTuple):
    """A line of the report.

    Attributes:
        name: What it is about, on the left; empty for a further line about the same.
        text: What is said.
        tone: A key of `_TONES`, or empty. It repeats what the text says.
    """

    name: str
    text: str
    tone: str = ""


class Layout(NamedTuple):
    """What an output shows.

    Attributes:
        glyphs: Its characters.
        width: Cells in which lines are folded; None to leave them as they are, for programs that read them.
        colour: Whether it takes colours.
    """

    glyphs: Glyphs = ASCII
    width: int | None = None
    colour: bool = False


def layout_of_stdout() -> Layout:
    """Return the layout for standard output, as it is now."""
    environ = first_environ()
    is_terminal = sys.stdout.isatty()
    shown = glyphs(environ, sys.stdout.encoding, is_terminal=is_terminal)
    if not is_terminal:
        return Layout(shown)
    # https://no-color.org
    colour = not environ.get("NO_COLOR") and environ.get("TERM", "") not in ("", "dumb")
    return Layout(shown, terminal_size().columns, colour)


def terminal_size() -> os.terminal_size:
    """Return the size of the terminal at standard output; 80 columns and 24 lines if it tells none."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        size = os.terminal_size((0, 0))
    return os.terminal_size((size.columns or 80, size.lines or 24))


def arranged(lines: Iterable[Line], layout: Layout) -> Iterator[str]:
    """Yield the lines as text, with hidden characters of the names and texts of others made visible."""
    for line in lines:
        # A long name moves its text, not the others'.
        name = visible(line.name)
        name += " " * max(NAME_CELLS - cells_of(name), 1 if name else 0)
        text = visible(line.text)
        if layout.width is None:
            yield f"{name}{text}".rstrip()
            continue
        rest = max(layout.width, _LEAST_WIDTH) - NAME_CELLS
        first = max(2, rest - cells_of(name) + NAME_CELLS)
        for number, part in enumerate(folded(text, first, rest)):
            before = " " * NAME_CELLS if number else name
            yield _coloured(before, part, line.tone) if layout.colour else f"{before}{part}".rstrip()


def _coloured(name: str, text: str, tone: str) -> str:
    named = f"\x1b[1m{name.rstrip()}\x1b[m{' ' * (len(name) - len(name.rstrip()))}" if name.strip() else name
    return f"{named}\x1b[{_TONES[tone]}m{text}\x1b[m" if tone else f"{named}{text}".rstrip()
