"""Generates contrib/grafana/redstreamd.json from the definitions of the metrics: a panel for each of them.

The dashboard follows Grafana's schema of version 11, in which the later ones read it, too. `make generate`
writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from redstreamd.metrics.metric_definitions import METRICS, Metric, MetricType, Subject

_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: Which daemons are shown.
_CHOSEN: Final = 'job=~"$job", instance=~"$instance"'
#: Series of one panel; those of streams and groups are many.
_MOST_SERIES: Final = 10
_UNITS: Final = {"seconds": "s", "bytes": "bytes", "": "short"}
_RATE_UNITS: Final = {"seconds": "percentunit", "bytes": "Bps", "": "cps"}
#: What is no figure to be drawn.
_LEFT_OUT: Final = frozenset({"redstreamd_build_info"})

#: The first row: title, unit, expression, whether 1 is good and 0 is not.
_GLANCE: Final = (
    ("Daemons that answer", "short", f"sum(up{{{_CHOSEN}}})", False),
    ("Redis usable", "bool_yes_no", f"min(redstreamd_redis_usable{{{_CHOSEN}}})", True),
    (
        "Calls",
        "cps",
        f"sum(rate(redstreamd_tool_call_duration_seconds_count{{{_CHOSEN}}}[$__rate_interval]))",
        False,
    ),
    ("Connections", "short", f"sum(redstreamd_connections{{{_CHOSEN}}})", False),
    ("Most pending entries of a group", "short", f"max(redstreamd_group_pending{{{_CHOSEN}}})", False),
    ("Dead letters", "short", f"sum(redstreamd_group_dead_letters{{{_CHOSEN}}})", False),
)


def as_json() -> str:
    """Return the dashboard."""
    return json.dumps(_dashboard(), indent=1) + "\n"


def _dashboard() -> dict[str, Any]:
    panels = list(_panels())
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "redstreamd",
        "title": "redstreamd",
        "description": "Redis Streams for AI agents: the daemon, its clients, Redis, streams and groups.",
        "tags": ["redstreamd", "redis"],
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 41,
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": panels,
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus"}
    for name, metric in (
        ("job", "redstreamd_build_info"),
        ("instance", 'redstreamd_build_info{job=~"$job"}'),
    ):
        query = f"label_values({metric}, {name})"
        yield {
            "type": "query",
            "name": name,
            "label": name.capitalize(),
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            # When the range of time changes, because daemons come and go.
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    yield _row("At a glance", 0)
    width = 24 // len(_GLANCE)
    for number, (title, unit, expression, is_verdict) in enumerate(_GLANCE):
        place = {"x": number * width, "y": 1, "w": width, "h": 4}
        yield _stat(title, unit, expression, place, is_verdict=is_verdict)
    top = 5
    for subject in Subject:
        shown = [each for each in METRICS if each.subject is subject and each.name not in _LEFT_OUT]
        yield _row(subject.value, top)
        top += 1
        for number, metric in enumerate(shown):
            row, column = divmod(number, _COLUMNS)
            place = {"x": column * _WIDTH, "y": top + row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            yield _graph(metric, place)
        top += _HEIGHT * -(-len(shown) // _COLUMNS)


def _row(title: str, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": 24, "h": 1}
    return {"type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}


def _stat(
    title: str, unit: str, expression: str, place: dict[str, int], *, is_verdict: bool
) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"value": None, "color": "red" if is_verdict else "text"}]
    if is_verdict:
        steps.append({"value": 1, "color": "green"})
    return {
        "type": "stat",
        "title": title,
        "gridPos": place,
        "datasource": _DATASOURCE,
        "targets": [_target("A", expression, title)],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
        },
    }


def _graph(metric: Metric, place: dict[str, int]) -> dict[str, Any]:
    unit, queries = _queries(metric)
    return {
        "type": "timeseries",
        "title": _title(metric),
        "description": f"{metric.help}. {metric.name}",
        "gridPos": place,
        "datasource": _DATASOURCE,
        "targets": [_target(chr(ord("A") + number), *each) for number, each in enumerate(queries)],
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def _queries(metric: Metric) -> tuple[str, list[tuple[str, str]]]:
    """Return the unit of a metric's graph, and its expressions with their legends."""
    labels = ("instance", *metric.labels)
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels) or "{{instance}}"
    name = metric.name
    if metric.type is MetricType.HISTOGRAM:
        # Of the first label, so that a panel has no line for each outcome.
        by = metric.labels[:1]
        grouped = f"sum by ({', '.join(('le', *by))}) (rate({name}_bucket{{{_CHOSEN}}}[$__rate_interval]))"
        named = "".join(f" {{{{{label}}}}}" for label in by)
        quantiles = [
            (f"topk({_MOST_SERIES}, histogram_quantile({share}, {grouped}))", f"{word}{named}")
            for share, word in ((0.5, "p50"), (0.99, "p99"))
        ]
        return _UNITS[metric.unit], quantiles
    if metric.type is MetricType.COUNTER:
        rate = f"sum by ({', '.join(labels)}) (rate({name}{{{_CHOSEN}}}[$__rate_interval]))"
        return _RATE_UNITS[metric.unit], [(_bounded(metric, rate), legend)]
    if name.endswith("_start_time_seconds"):
        return "s", [(f"time() - {name}{{{_CHOSEN}}}", legend)]
    return _UNITS[metric.unit], [(_bounded(metric, f"{name}{{{_CHOSEN}}}"), legend)]


def _bounded(metric: Metric, expression: str) -> str:
    return f"topk({_MOST_SERIES}, {expression})" if metric.labels else expression


def _target(letter: str, expression: str, legend: str) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": expression,
        "legendFormat": legend,
        "range": True,
    }


def _title(metric: Metric) -> str:
    base = metric.family.removeprefix("redstreamd_")
    if base == "start_time_seconds":
        return "Up since"
    words = base.removesuffix(f"_{metric.unit}") if metric.unit else base
    return words.replace("_", " ").capitalize()
