"""What the events of the watchdog and of the embedded server mean to an administrator."""

from __future__ import annotations

from typing import Final

from redstreamd.event_log.declaration import declared
from redstreamd.service.embedded import embedded_events as embedded
from redstreamd.service.log_record import Severity
from redstreamd.service.watchdog import PingsResumed, PingsWithheld, WatchdogEvent

Event = WatchdogEvent | embedded.EmbeddedEvent

_NONE: Final = "None."


@declared(
    PingsWithheld,
    "b30553697eb147f29f19344fbd9754ac",
    Severity.ERROR,
    cause="A part of the daemon shows no progress. If it lasts for the unit's WatchdogSec=, systemd ends the "
    "daemon, which writes its stacks to the journal, and starts it again.",
    remedy="Report this record and the stacks.",
)
def watchdog_pings_withheld(event: PingsWithheld) -> str:
    return f"watchdog pings are withheld: {'; '.join(map(str, event.stale))}"


@declared(
    PingsResumed,
    "d68910949b764bf48adea8383831528d",
    Severity.WARNING,
    cause="Every part of the daemon shows progress again, before systemd ended it.",
    remedy="Find out what held it up: a host without memory or processor time, or a defect to report.",
)
def watchdog_pings_resumed(_event: PingsResumed) -> str:
    return "watchdog pings are sent again: every part shows progress"


@declared(
    embedded.SpaceMissing,
    "caf44bc8ea9a4c82bb2c8be4568d7d8e",
    Severity.ERROR,
    cause="The disk of the embedded server is full. The daemon runs and answers calls with CONNECTION_ERROR; "
    "the server starts by itself as soon as there is space. Nothing that was acknowledged is lost.",
    remedy="Free space on the disk that the record names.",
)
def embedded_server_waits_for_space(event: embedded.SpaceMissing) -> str:
    return f"the embedded server waits for space: {event.cause}"


@declared(
    embedded.SpaceFreed,
    "12f33cc818994256bbd8833d5e809502",
    Severity.WARNING,
    cause="The disk of the embedded server has space again, and the server starts.",
    remedy="See that it does not fill up again: trim streams, or give it a larger disk.",
)
def embedded_server_has_space(_event: embedded.SpaceFreed) -> str:
    return "there is space for the embedded server again"


@declared(
    embedded.DataLoaded,
    "c014e0590614489eb6a7e541c7466c90",
    Severity.INFO,
    cause="The embedded server has read its data into memory and serves.",
    remedy=_NONE,
)
def embedded_server_loaded(event: embedded.DataLoaded) -> str:
    return f"the embedded server has loaded its data in {event.seconds:.1f} s"
