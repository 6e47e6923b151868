"""Checks the expressions of PromQL in contrib against the definitions of the metrics.

promtool parses them; this looks up their names only.
"""

from __future__ import annotations

import re

from redstreamd.metrics.metric_definitions import BY_NAME, Metric, MetricType

#: What Prometheus itself adds to each series, and its own metric.
SCRAPED = {"job", "instance"}
OWN = {"up"}


def metric_of(series: str) -> Metric:
    """Return the metric that has a series of this name; fails if there is none."""
    if (found := BY_NAME.get(series)) is not None:
        assert found.type is not MetricType.HISTOGRAM, f"{series} is a histogram: it has buckets"
        return found
    base, _, part = series.rpartition("_")
    found = BY_NAME.get(base)
    assert found is not None, f"there is no metric {series}"
    assert found.type is MetricType.HISTOGRAM, f"there is no metric {series}"
    assert part in {"bucket", "count", "sum"}, f"there is no metric {series}"
    return found


def check_expression(expression: str) -> None:
    """Fail if an expression names a metric or a label that is not defined."""
    plain = re.sub(r'"[^"]*"', '""', expression)
    series = re.findall(r"\b(redstreamd_\w+|up\b)", plain)
    assert series, f"{expression} asks for nothing of redstreamd"
    known = set(SCRAPED)
    for name in set(series) - OWN:
        metric = metric_of(name)
        known |= set(metric.labels) | ({"le"} if metric.type is MetricType.HISTOGRAM else set())
    matched = {
        label for inside in re.findall(r"{([^}]*)}", plain) for label in re.findall(r"(\w+)\s*[=!]", inside)
    }
    grouped = {
        label
        for inside in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", plain)
        for label in re.findall(r"\w+", inside)
    }
    assert matched | grouped <= known, f"{expression}: {(matched | grouped) - known} are no labels"
