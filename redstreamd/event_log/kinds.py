"""All kinds of events: whoever imports this has their declarations."""

from __future__ import annotations

from redstreamd.audit import audit_events
from redstreamd.event_log import (
    call_events,
    connection_texts,
    daemon_events,
    encryption_texts,
    ending_texts,
    figures_texts,
    log_events,
    metrics_texts,
    redis_texts,
    reload_texts,
    service_texts,
    supervisor_texts,
)
from redstreamd.event_log.declaration import Declaration, declarations
from redstreamd.mcpio import connection_events
from redstreamd.metrics.figures_events import FiguresEvent
from redstreamd.metrics.metrics_events import MetricsEvent
from redstreamd.service.memory_pressure import PressureEvent
from redstreamd.service.reload_events import ReloadEvent
from redstreamd.service.supervisor_events import SupervisorEvent

Event = (
    audit_events.Event
    | connection_events.Event
    | daemon_events.Event
    | encryption_texts.Event
    | FiguresEvent
    | log_events.Event
    | MetricsEvent
    | redis_texts.Event
    | service_texts.Event
    | SupervisorEvent
    | ReloadEvent
    | PressureEvent
)
"""What the parts report."""

DECLARING = (
    daemon_events,
    supervisor_texts,
    service_texts,
    reload_texts,
    encryption_texts,
    redis_texts,
    connection_texts,
    ending_texts,
    call_events,
    metrics_texts,
    figures_texts,
    log_events,
)
"""The modules that declare their kinds, in the order of docs/events.md."""


def all_kinds() -> tuple[Declaration, ...]:
    """Return what is declared in this package, in a fixed order."""
    return tuple(
        each for module in DECLARING for each in declarations() if each.sentence.__module__ == module.__name__
    )
