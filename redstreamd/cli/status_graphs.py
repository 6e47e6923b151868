"""The parts of the report that are drawn, and what needs attention: limits, the last minutes, groups."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from redstreamd.cli.status_layout import Line
from redstreamd.cli.status_units import duration, latency, mebibytes, number, rate
from redstreamd.cli.terminal_graphics import Glyphs, bar, sparkline

#: So that the text beside a graph fits into 80 columns with it.
_BAR_CELLS: Final = 20
_SPARK_CELLS: Final = 30
#: Shares of a limit from which a line is a warning, and an alarm.
_HIGH, _FULL = 0.8, 0.95

_LIMITS: Final[Mapping[str, tuple[str, Callable[[float], str]]]] = {
    "connections": ("connections", number),
    "memory_bytes": ("clients' memory", mebibytes),
    "descriptors": ("descriptors", number),
    "waits": ("waits", number),
    "subscriptions": ("subscriptions", number),
}
_SERIES: Final[Mapping[str, tuple[str, Callable[[float], str]]]] = {
    "calls_per_second": ("calls", rate),
    "errors_per_second": ("failed calls", rate),
    "p50_seconds": ("latency, p50", latency),
    "p99_seconds": ("latency, p99", latency),
    "memory_bytes": ("memory", mebibytes),
    "ping_seconds": ("Redis PING", latency),
    "loop_lag_seconds": ("loop lag", latency),
}
#: What never comes near 0 is drawn from its least to its greatest value.
_FROM_LEAST: Final = frozenset({"memory_bytes"})


def limit_lines(limits: Mapping[str, Mapping[str, float]], glyphs: Glyphs) -> Iterator[Line]:
    """Yield a bar for each limit."""
    shown = [(*_LIMITS[key], use) for key, use in limits.items() if key in _LIMITS and use["limit"] > 0]
    if shown:
        yield Line("limits", "", "heading")
    for name, unit, use in shown:
        share = use["used"] / use["limit"]
        tone = "alarm" if share >= _FULL else "warning" if share >= _HIGH else ""
        figures = f"{share:4.0%}  {unit(use['used'])} of {unit(use['limit'])}"
        yield Line(f"  {name}", f"{bar(share, _BAR_CELLS, glyphs)} {figures}", tone)


def history_lines(history: Mapping[str, Any], glyphs: Glyphs) -> Iterator[Line]:
    """Yield a sparkline for each series of the last minutes; for those of which nothing is known, none."""
    series: Mapping[str, Sequence[float | None]] = history.get("series", {})
    shown = [(key, *_SERIES[key], values) for key, values in series.items() if key in _SERIES]
    shown = [each for each in shown if any(value is not None for value in each[3])]
    if not shown:
        return
    seconds = history["sample_seconds"] * max(len(values) for *_, values in shown)
    yield Line(f"last {duration(seconds)}", "", "heading")
    for key, name, unit, values in shown:
        known = [value for value in values if value is not None]
        least = min(known) if key in _FROM_LEAST else 0.0
        drawn = sparkline(values, _SPARK_CELLS, glyphs, lowest=least)
        now = "-" if values[-1] is None else unit(values[-1])
        yield Line(f"  {name}", f"{drawn} {now} now, {unit(max(known))} at most")


def attention_lines(attention: Mapping[str, Any]) -> Iterator[Line]:
    """Yield the groups that need attention, the worst first."""
    groups = attention.get("groups", [])
    for position, group in enumerate(groups):
        said = _group_text(group)
        yield Line(
            "" if position else "attention", f"{group['stream']} / {group['group']}: {said}", "warning"
        )
    if groups:
        arguments = json.dumps({"stream": groups[0]["stream"]}, ensure_ascii=False)
        yield Line("", f"-> redstreamd call stream_health {shlex.quote(arguments)}")
    if more := attention.get("more"):
        yield Line("" if groups else "attention", f"{more} more groups need attention")
    if left_out := attention.get("streams_left_out"):
        yield Line("", f"{number(left_out)} streams are beyond those that are looked at")


def _group_text(group: Mapping[str, Any]) -> str:
    said = []
    if not group["consumers"]:
        said.append("no consumer")
    if pending := group["pending"]:
        oldest = group.get("oldest_pending_seconds")
        since = "" if oldest is None else f" (the oldest added {duration(oldest)} ago)"
        said.append(f"{number(pending)} pending{since}")
    if lag := group.get("lag"):
        said.append(f"{number(lag)} undelivered")
    if letters := group.get("dead_letters"):
        said.append(f"{number(letters)} dead letters")
    return ", ".join(said)
