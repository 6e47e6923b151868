"""Writes a page in the formats of Prometheus, through prometheus_client's own writers.

Only a daemon with a listener for metrics imports this. There is no registry: each page is a value.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final

import trio
from prometheus_client import exposition as text_format
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from redstreamd.histogram import Histogram
from redstreamd.metrics.metric_definitions import METRICS, Metric, MetricType
from redstreamd.metrics.page_figures import Page, Row

_OPENMETRICS: Final = "application/openmetrics-text"
_TEXT_TYPE: Final = text_format.CONTENT_TYPE_PLAIN_0_0_4
_END: Final = b"# EOF\n"
#: A page is given again for so long, so that nobody makes the daemon write pages all the time.
_FRESH_SECONDS: Final = 1.0
#: Rows written in one turn, and histograms, which have 15 lines each: a millisecond.
_ROWS_AT_ONCE: Final = 64
_HISTOGRAMS_AT_ONCE: Final = 4


class _One(Collector):
    """A collector of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterator[Family]:
        yield self._family


class PageWriter:
    """Writes pages for whoever asks; those who ask within a second get the same."""

    def __init__(self, figures: Callable[[], Awaitable[Page]]) -> None:
        """Write the pages that `figures` returns."""
        self._figures = figures
        self._writing = trio.Lock()
        # Of each format, with the time when it was written.
        self._written: dict[bool, tuple[float, bytes]] = {}

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Return the text of a page and its content type.

        Args:
            accept: The header Accept of whoever asks; OpenMetrics if it names that, else Prometheus's text.
        """
        is_openmetrics = _wants_openmetrics(accept)
        async with self._writing:
            at, text = self._written.get(is_openmetrics, (-math.inf, b""))
            if trio.current_time() >= at + _FRESH_SECONDS:
                text = await written(await self._figures(), is_openmetrics=is_openmetrics)
                self._written[is_openmetrics] = trio.current_time(), text
        return text, openmetrics.CONTENT_TYPE_LATEST if is_openmetrics else _TEXT_TYPE


async def written(page: Page, *, is_openmetrics: bool) -> bytes:
    """Return the text of a page, written in turns."""
    # All names are plain, so there is nothing to escape in them; to look for it would take most of the time.
    write = partial(
        openmetrics.generate_latest if is_openmetrics else text_format.generate_latest,
        escaping=openmetrics.ALLOWUTF8,
    )
    parts: list[bytes] = []
    for metric in METRICS:
        rows = page.rows.get(metric.name, [])
        at_once = _HISTOGRAMS_AT_ONCE if metric.type is MetricType.HISTOGRAM else _ROWS_AT_ONCE
        for at in range(0, len(rows), at_once):
            text = write(_One(_family(metric, rows[at : at + at_once]))).removesuffix(_END)
            parts.append(text if at == 0 else _without_head(text))
            if len(rows) > 1:
                await trio.lowlevel.checkpoint()
    return b"".join((*parts, _END if is_openmetrics else b""))


def _wants_openmetrics(accept: str) -> bool:
    for each in accept.lower().split(","):
        media, *parameters = (part.strip() for part in each.split(";"))
        if media == _OPENMETRICS:
            return not any(part.replace(" ", "") in ("q=0", "q=0.0") for part in parameters)
    return False


def _without_head(text: bytes) -> bytes:
    """Return the lines of a family without HELP, TYPE and UNIT, which were written with the first rows."""
    while text.startswith(b"# "):
        text = text[text.index(b"\n") + 1 :]
    return text


def _family(metric: Metric, rows: Sequence[Row]) -> Family:
    if metric.type is MetricType.HISTOGRAM:
        histograms = HistogramMetricFamily(
            metric.family, f"{metric.help}.", labels=metric.labels, unit=metric.unit
        )
        for labels, value in rows:
            if isinstance(value, Histogram):
                bounds = [*map(str, value.bounds), "+Inf"]
                histograms.add_metric(
                    _safe(labels), list(zip(bounds, value.cumulative(), strict=True)), value.total
                )
        return histograms
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    family = kind(metric.family, f"{metric.help}.", labels=metric.labels, unit=metric.unit)
    for labels, value in rows:
        if not isinstance(value, Histogram):
            family.add_metric(_safe(labels), value)
    return family


def _safe(labels: Sequence[str]) -> list[str]:
    """Return labels as text that can be encoded."""
    return [label.encode("utf-8", "backslashreplace").decode() for label in labels]
