"""What happens to those who collect metrics, and is worth a record."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class MetricsFailed(msgspec.Struct, frozen=True):
    """A defect kept a page of metrics from being made or sent.

    Attributes:
        exception: What was raised.
    """

    exception: Exception


MetricsEvent = MetricsFailed
MetricsEventHook = Callable[[MetricsEvent], None]
