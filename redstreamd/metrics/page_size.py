"""How large the text of a page is at most, before it is written."""

from __future__ import annotations

from typing import Final

from redstreamd.histogram import Histogram
from redstreamd.metrics.metric_definitions import BY_NAME, METRICS, Metric

#: The largest page.
MAX_PAGE_BYTES: Final = 200 * 1024
#: The longest text of a number, with the space before it and the line's end.
_VALUE_BYTES: Final = 26
#: ``_bucket`` and ``,le="0.00025"``, the longest of what the lines of a histogram add.
_BUCKET_BYTES: Final = 22
#: HELP, TYPE and UNIT of a family, without its name, which is in each, and without its help.
_HEAD_BYTES: Final = 50


def heads_bytes() -> int:
    """Return how much the lines before the values take, of all metrics."""
    return sum(3 * len(metric.name) + len(metric.help) + _HEAD_BYTES for metric in METRICS)


def row_bytes(name: str, labels: tuple[str, ...], value: float | Histogram) -> int:
    """Return how much the lines of one row take at most."""
    metric = BY_NAME[name]
    line = len(name) + _labels_bytes(metric, labels) + _VALUE_BYTES
    if isinstance(value, Histogram):
        return (len(value.counts) + 2) * (line + _BUCKET_BYTES)
    return line


def _labels_bytes(metric: Metric, labels: tuple[str, ...]) -> int:
    # Each is name="value" and a comma or a brace; three characters are escaped.
    return 1 + sum(
        len(label) + 4 + len(value.encode("utf-8", "backslashreplace")) + sum(map(value.count, '\\"\n'))
        for label, value in zip(metric.labels, labels, strict=True)
    )
