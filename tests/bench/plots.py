"""Results as drawings: small SVG files, made from the file of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import attrs

from tests.bench.report import SCALES, Run, cells

_WIDTH, _HEIGHT = 790, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 300, 40, 50
_COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5aa8", "#c77d1a", "#5c6770", "#14808c")

#: Values of one line by column; a second kind of line is dashed.
Lines = Mapping[str, Mapping[str, float]]


@attrs.frozen
class Scale:
    """A logarithmic axis over whole decades."""

    low: int
    high: int

    @classmethod
    def over(cls, values: Sequence[float]) -> Scale:
        """Return the decades that hold all values."""
        low = math.floor(math.log10(min(values)))
        return cls(low, max(math.ceil(math.log10(max(values))), low + 1))

    def height(self, value: float) -> float:
        """Return the coordinate of a value, downwards."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def chart(title: str, across: str, lines: Lines) -> str:
    """Draw lines over the columns that they have, on a logarithmic axis."""
    columns = list(dict.fromkeys(column for points in lines.values() for column in points))
    scale = Scale.over([value for points in lines.values() for value in points.values()])
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(columns) - 1)
    x = {column: _LEFT + place * step for place, column in enumerate(columns)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 22, title, size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, across, "middle"),
    ]
    for decade in range(scale.low, scale.high + 1):
        y = scale.height(10.0**decade)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(
            _text(_LEFT - 8, y + 4, f"{10**decade:,}" if decade >= 0 else f"{10.0**decade:g}", "end")
        )
    parts += [_text(x[column], _HEIGHT - _BOTTOM + 18, column, "middle") for column in columns]
    for place, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        dashed = ' stroke-dasharray="5 4"' if name.startswith("Redis") else ""
        corners = [(x[column], scale.height(value)) for column, value in points.items()]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in corners)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>' for across, down in corners
        ]
        y = _TOP + 10 + place * 22
        edge = _WIDTH - _RIGHT + 18
        parts.append(f'<path d="M{edge} {y - 4}h20" stroke="{colour}" stroke-width="2"{dashed}/>')
        parts.append(_text(edge + 26, y, name, size=11))
    return "\n".join([*parts, "</svg>", ""])


def _rates(run: Run, table: str) -> Lines:
    lines: dict[str, dict[str, float]] = {}
    for row, column, figures in cells(run, table):
        lines.setdefault(row, {})[column] = figures["rate"][0]
    return lines


def _costs(run: Run, table: str) -> Lines:
    lines: dict[str, dict[str, float]] = {}
    for who, figure in (("daemon", "server_us"), ("Redis", "redis_us")):
        for row, column, figures in cells(run, table):
            lines.setdefault(f"{who}: {row}", {})[column] = figures[figure][0]
    return lines


def drawings(run: Run) -> dict[str, str]:
    """Return each drawing by the name of its file."""
    calls = chart("Adding one entry: calls per second", "calls in flight", _rates(run, "add"))
    costs = {
        f"{table}.svg": chart("CPU time of a call, µs", across, _costs(run, table))
        for table, across in SCALES.items()
    }
    return {"calls.svg": calls} | costs
