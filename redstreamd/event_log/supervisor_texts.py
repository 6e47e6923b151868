"""What the events of supervision mean to an administrator."""

from __future__ import annotations

from typing import Final

from redstreamd.event_log.declaration import declared
from redstreamd.service import supervisor_events as service
from redstreamd.service.log_record import Severity

_NONE: Final = "None."


@declared(
    service.ChildStarted,
    "c513757e82b4462fb9d59a7fe1b0bf24",
    Severity.INFO,
    when=lambda event: event.starts > 1,
    cause="A part of the daemon that had failed was started again.",
    remedy="See the record of its failure. If this happens over and over, report it.",
)
def part_restarted(event: service.ChildStarted) -> str:
    return f"{event.child} started (start {event.starts})"


@declared(
    service.ChildStarted,
    "1aefec4b8b844021aff66a43d8f31112",
    Severity.DEBUG,
    cause="A part of the daemon started.",
    remedy=_NONE,
)
def part_started(event: service.ChildStarted) -> str:
    return f"{event.child} started"


@declared(
    service.ChildFailed,
    "a6c822ff5d234aa981d650eb2bbd1c31",
    Severity.ERROR,
    when=lambda event: event.restart_in_seconds is None,
    cause="A part of the daemon failed and is not started again: the daemon stops, or goes on without it if "
    "it can.",
    remedy="Do what the record names. If it has a traceback, report it.",
)
def part_gave_up(event: service.ChildFailed) -> str:
    return f"{event.child} failed and is not started again: {event.error}"


@declared(
    service.ChildFailed,
    "4f5500d712ad44749773e9b3170d63ae",
    Severity.ERROR,
    cause="A part of the daemon failed. It is started again after a pause; the other parts go on. After too "
    "many failures the daemon ends, and systemd starts it anew.",
    remedy="Do what the record names. If it has a traceback, report it.",
)
def part_failed(event: service.ChildFailed) -> str:
    return (
        f"{event.child} failed ({event.failures:.1f} recent failures) and is started again in "
        f"{event.restart_in_seconds:.1f} s: {event.error}"
    )


@declared(
    service.ChildFinished,
    "a96a15ab9f1c46e1b14f1adfa7c6de5e",
    Severity.DEBUG,
    cause="A part of the daemon has done its work.",
    remedy=_NONE,
)
def part_finished(event: service.ChildFinished) -> str:
    return f"{event.child} finished{': ' + event.reason if event.reason else ''}"


@declared(
    service.ChildStopped,
    "a95a5f04b42f4d27af943c31523f0c37",
    Severity.DEBUG,
    cause="A part of the daemon stopped, because the daemon does.",
    remedy=_NONE,
)
def part_stopped(event: service.ChildStopped) -> str:
    return f"{event.child} stopped in {event.stop_seconds:.2f} s"


@declared(
    service.ChildHung,
    "d14e28444ab14acd97df10c8bdcfea7b",
    Severity.CRITICAL,
    cause="A part of the daemon did not stop when it was told to. The daemon ends without it.",
    remedy="Report the record: it shows where the part stands. systemd starts the daemon again.",
)
def part_hung(event: service.ChildHung) -> str:
    return f"{event.child} did not stop within {event.waited_seconds:.1f} s; it stands at:\n{event.task_tree}"


@declared(
    service.SupervisorFailed,
    "e1884caaef7d4cb3b87e5e51ce886412",
    Severity.CRITICAL,
    cause="A part failed that the daemon cannot do without, or parts failed too often. The daemon ends with "
    "status 70, and systemd starts it again; streams and leases are kept in Redis.",
    remedy="Do what this and the records before it name. `redstreamd doctor` looks for usual causes.",
)
def daemon_failed(event: service.SupervisorFailed) -> str:
    return f"the daemon ends: {event.error}"
