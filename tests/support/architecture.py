"""Draws the packages and their imports, docs/architecture.svg; `make generate` writes it.

A row is a layer: each box stands one row above the highest of those that it imports. Arrows that a longer way
implies are left out. Long arrows pass each row between the boxes, through a place of their own.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable
from html import escape

import attrs

from tests.test_imports import MODULES, PACKAGE, imported_parts, part_of

_MARGIN, _GAP, _BETWEEN_ROWS, _LINE, _PADDING = 24, 18, 56, 15, 10
_CHARACTERS = 30  # of a line of description
_WIDTH = 224  # of a box
_PASSING = 10  # of the place where an arrow passes a row
_STYLE = """<style>
.paper { fill: #ffffff }
.box { fill: #ddf4ff; stroke: #0969da }
.name { font-size: 14px; font-weight: bold; fill: #1f2328 }
.about { font-size: 12px; fill: #57606a }
.arrow { fill: none; stroke: #57606a; stroke-width: 1.2; marker-end: url(#tip) }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#57606a"/></marker></defs>"""


def imports() -> dict[str, set[str]]:
    """Return what each part imports of the others."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        part = part_of(path.relative_to(PACKAGE).with_suffix("").parts)
        found.setdefault(part, set()).update(imported_parts(path) - {part})
    del found["__init__"], found["__main__"]  # the entry to the command line is no part
    return found


@attrs.define(eq=False)
class Node:
    """A box, or (without a name) the place where a long arrow passes a row.

    Attributes:
        name: The part.
        lines: Its description, wrapped.
        above, below: The nodes of the next rows that an arrow comes from or goes to.
        x, y: The middle of its upper side, in pixels.
    """

    name: str
    lines: list[str]
    above: list[Node] = attrs.field(factory=list)
    below: list[Node] = attrs.field(factory=list)
    x: float = 0
    y: float = 0

    @property
    def width(self) -> int:
        return _WIDTH if self.name else _PASSING

    @property
    def height(self) -> int:
        return _LINE * (len(self.lines) + 1) + 2 * _PADDING


def rows_of(found: dict[str, set[str]]) -> list[list[Node]]:
    """Return the nodes of each row, the lowest row first."""
    level: dict[str, int] = {}
    while len(level) < len(found):
        ready = {part for part, below in found.items() if part not in level and below <= level.keys()}
        assert ready, "imports in a circle"
        level |= {part: max((level[each] + 1 for each in found[part]), default=0) for part in ready}
    boxes = {part: Node(part, _description(part)) for part in sorted(found)}
    rows: list[list[Node]] = [[] for _ in range(max(level.values()) + 1)]
    for part, box in boxes.items():
        rows[level[part]].append(box)
    for part, below in found.items():
        for other in sorted(below - {far for near in below for far in _reached(found, near)}):
            upper = boxes[part]
            for number in range(level[part] - 1, level[other], -1):
                passing = Node("", [])
                rows[number].append(passing)
                upper = _joined(upper, passing)
            _joined(upper, boxes[other])
    return rows


def _joined(upper: Node, lower: Node) -> Node:
    upper.below.append(lower)
    lower.above.append(upper)
    return lower


def _reached(found: dict[str, set[str]], part: str) -> set[str]:
    return found[part].union(*(_reached(found, each) for each in found[part]))


def _description(part: str) -> list[str]:
    package = PACKAGE.joinpath(*part.split("."))
    path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    sentence = re.split(r"[.;](?:\s|$)", text, maxsplit=1)[0]
    return textwrap.wrap(sentence, _CHARACTERS, max_lines=3, placeholder=" …")


def _place(rows: list[list[Node]]) -> None:
    """Give each node its position: sorted by the middle of its neighbours, a few times down and up."""
    for row in rows:
        _spread(row)
    for turn in range(40):
        for row in rows if turn % 2 else reversed(rows):
            towards = {node: _middle(node.below if turn % 2 else node.above, node.x) for node in row}
            row.sort(key=lambda node: (towards[node], node.name))
            _spread(row)
    for _ in range(60):  # keep the order, and come as near to the neighbours as the others allow
        for row in rows:
            for index, node in enumerate(row):
                wanted = _middle(node.above + node.below, node.x)
                least = row[index - 1].x + _distance(row[index - 1], node) if index else -1e9
                most = row[index + 1].x - _distance(node, row[index + 1]) if index + 1 < len(row) else 1e9
                node.x = min(max(wanted, least), most)


def _middle(nodes: Iterable[Node], otherwise: float) -> float:
    places = [node.x for node in nodes]
    return sum(places) / len(places) if places else otherwise


def _distance(left: Node, right: Node) -> float:
    return (left.width + right.width) / 2 + _GAP


def _spread(row: list[Node]) -> None:
    x = 0.0
    for index, node in enumerate(row):
        x += _distance(row[index - 1], node) if index else 0
        node.x = x
    for node in row:
        node.x -= x / 2


def drawing() -> str:
    """Return the picture as SVG."""
    rows = rows_of(imports())
    _place(rows)
    nodes = [node for row in rows for node in row]
    shift = _MARGIN - min(node.x - node.width / 2 for node in nodes)
    y = float(_MARGIN)
    for row in reversed(rows):
        height = max(node.height for node in row if node.name)
        for node in row:
            node.x, node.y = round(node.x + shift), y + (height - node.height if node.name else 0)
            node.lines = node.lines or [""] * round((height - 2 * _PADDING) / _LINE - 1)
        y += height + _BETWEEN_ROWS
    width, height = max(node.x + node.width / 2 for node in nodes) + _MARGIN, y - _BETWEEN_ROWS + _MARGIN
    size = f"{width:g} {height:g}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif">',
            _STYLE,
            '<rect class="paper" width="100%" height="100%"/>',
            *(line for node in nodes if node.name for line in _arrows(node)),
            *(line for node in nodes if node.name for line in _box(node)),
            "</svg>\n",
        ]
    )


def _arrows(box: Node) -> Iterable[str]:
    for index, node in enumerate(sorted(box.below, key=lambda each: each.x)):
        x = box.x + (index + 1) / (len(box.below) + 1) * box.width * 0.8 - box.width * 0.4
        y = box.y + box.height
        path = f"M{x:.0f} {y:g}"
        while True:
            end = _entry(node, x)
            half = (node.y - y) / 2
            path += f" C{x:.0f} {y + half:g} {end:.0f} {node.y - half:g} {end:.0f} {node.y:g}"
            if node.name:
                break
            x, y = end, node.y + node.height
            path += f" L{x:.0f} {y:g}"
            node = node.below[0]
        yield f'<path class="arrow" d="{path}"/>'


def _entry(node: Node, x: float) -> float:
    """Return where an arrow from `x` ends at the upper side of a node."""
    return node.x if not node.name else min(max(x, node.x - node.width * 0.4), node.x + node.width * 0.4)


def _box(node: Node) -> Iterable[str]:
    left, y = node.x - node.width / 2, node.y + _PADDING + 11
    size = f'width="{node.width}" height="{node.height}" rx="6"'
    yield f'<rect class="box" x="{left:g}" y="{node.y:g}" {size}/>'
    yield f'<text class="name" x="{left + 10:g}" y="{y:g}">{escape(node.name)}</text>'
    for number, line in enumerate(node.lines, 1):
        yield f'<text class="about" x="{left + 10:g}" y="{y + number * _LINE:g}">{escape(line)}</text>'
