"""All kinds of events: whoever imports this has their declarations."""

from __future__ import annotations

from redstreamd.event_log import connection_texts, ending_texts, redis_texts, supervisor_texts
from redstreamd.event_log.declaration import Declaration, declarations
from redstreamd.mcpio import connection_events
from redstreamd.service.supervisor_events import SupervisorEvent

Event = connection_events.Event | redis_texts.Event | SupervisorEvent
"""What the parts report."""

DECLARING = (connection_texts, ending_texts, redis_texts, supervisor_texts)
"""The modules that declare their kinds."""


def all_kinds() -> tuple[Declaration, ...]:
    """Return what is declared in this package, in a fixed order."""
    modules = {module.__name__ for module in DECLARING}
    return tuple(each for each in declarations() if each.sentence.__module__ in modules)
