"""How large the text of a page is at most, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
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


def rows_bytes(rows: Mapping[str, float | Histogram], labels: tuple[str, ...]) -> int:
    """Return how much the lines of rows of several metrics take at most, all with the same labels."""
    if not rows:
        return 0
    rest = _VALUE_BYTES + _labels_bytes(BY_NAME[next(iter(rows))], labels)
    size = 0
    for name, value in rows.items():
        lines = len(value.counts) + 2 if isinstance(value, Histogram) else 1
        size += lines * (len(name) + rest + _BUCKET_BYTES * (lines > 1))
    return size


def _labels_bytes(metric: Metric, labels: tuple[str, ...]) -> int:
    # Each is name="value" and a comma or a brace; three characters are escaped.
    return 1 + sum(
        len(label) + 4 + len(value.encode("utf-8", "backslashreplace")) + sum(map(value.count, '\\"\n'))
        for label, value in zip(metric.labels, labels, strict=True)
    )
