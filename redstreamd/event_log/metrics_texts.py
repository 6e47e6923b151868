"""What events of the metrics mean to an administrator."""

from __future__ import annotations

from redstreamd.event_log.declaration import declared
from redstreamd.metrics.metrics_events import MetricsFailed
from redstreamd.service.log_record import Severity


@declared(
    MetricsFailed,
    "7bc37e3247fb4e10a555f7c0250e155a",
    Severity.ERROR,
    cause="A defect of redstreamd kept a page of metrics from being collected or sent. Clients are served as "
    "before, and the next request for metrics is tried anew.",
    remedy="Report the traceback of the record. Nothing needs to be restarted.",
    summed_by=lambda event: type(event.exception).__name__,
)
def metrics_failed(event: MetricsFailed) -> str:
    return (
        f"the metrics could not be collected or sent, by a defect ({type(event.exception).__name__}); "
        "clients are served on"
    )
