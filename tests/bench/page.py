"""docs/performance.md: what it holds between its markers is made from the file of a run."""

from __future__ import annotations

from tests.bench import goals, report, steps
from tests.bench.report import Run

#: What stands around each part that is made.
MARKER = "<!-- {}, made from performance.json: {} -->"

_PARTS = {"goals": goals.table, "steps": steps.table, "results": report.tables}


def of_run(page: str, run: Run) -> str:
    """Return the page with the parts made from a run."""
    for name, make in _PARTS.items():
        begin, end = (MARKER.format(name, place) for place in ("begin", "end"))
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}\n\n{make(run)}\n\n{end}{after}"
    return page
