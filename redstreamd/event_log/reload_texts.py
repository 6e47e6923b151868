"""What the events of a reload and of memory pressure mean to an administrator."""

from __future__ import annotations

from redstreamd.errors.remedies import setting, unit_setting
from redstreamd.event_log.declaration import declared
from redstreamd.service.log_record import Severity
from redstreamd.service.memory_pressure import MemoryPressed, PressureNotWatched
from redstreamd.service.reload_events import ReloadRefused, SettingsReloaded


@declared(
    SettingsReloaded,
    "64942092a0be41cc939f13aa29c3dea7",
    Severity.WARNING,
    when=lambda event: bool(event.restart or event.findings),
    cause="The settings were read again, and those that can be changed now apply. Others differ from those "
    "that the daemon was started with, or rules of the policy have no effect.",
    remedy="Restart the daemon to apply what the record names: clients reconnect, waits are answered. "
    "Correct the rules that have no effect; `redstreamd policy explain` says what decides.",
)
def settings_reloaded_in_part(event: SettingsReloaded) -> str:
    text = settings_reloaded(event)
    if event.restart:
        text += f"; restart to apply: {', '.join(event.restart)}"
    return "; ".join((text, *event.findings))


@declared(
    SettingsReloaded,
    "154df68b74d64a3bb0c73139730c1120",
    Severity.NOTICE,
    cause="The settings were read again, because of SIGHUP or `systemctl reload`, and apply now.",
    remedy="None.",
)
def settings_reloaded(event: SettingsReloaded) -> str:
    return f"settings reloaded; changed: {', '.join(event.changed) or 'nothing'}"


@declared(
    ReloadRefused,
    "b16737fd73b54784bc0fd5ecf711d686",
    Severity.ERROR,
    cause="The settings were read again, because of SIGHUP or `systemctl reload`, and are not valid. Nothing "
    "was changed: the daemon serves with those that it had.",
    remedy="Correct what the record names, see that `redstreamd check-config` finds nothing, and reload "
    "again. A restart would fail.",
)
def settings_not_reloaded(event: ReloadRefused) -> str:
    return f"settings not reloaded, those before stay in force; correct this and reload again: {event.reason}"


@declared(
    MemoryPressed,
    "c435c733dbcb40208ebc57cbbc3bad91",
    Severity.WARNING,
    cause="The kernel or the service manager says that the service waits for memory. The daemon has given "
    "back what it only keeps to save time, and refuses new waits for a while.",
    remedy="See what uses the memory (`systemd-cgtop -m`). An embedded server's data counts, too. Raise "
    f"{unit_setting('MemoryHigh=')}, or lower "
    f"{setting('limits.max_memory_bytes', 'limits.max_connections')}.",
    summed_by=lambda event: None,
)
def memory_is_short(event: MemoryPressed) -> str:
    return (
        f"memory is short; gave back {event.freed / 2**20:.1f} of {event.resident / 2**20:.1f} MiB, and "
        f"refuses new waits for {event.shed_seconds:.0f} s"
    )


@declared(
    PressureNotWatched,
    "5399af7a0c634d60b5f121a1d11dc34e",
    Severity.WARNING,
    cause="The service manager asks the daemon to watch for a shortage of memory ($MEMORY_PRESSURE_WATCH), "
    "and what it names cannot be watched.",
    remedy="Set MemoryPressureWatch=off for the service, or let it write what the record names.",
)
def memory_pressure_not_watched(event: PressureNotWatched) -> str:
    return f"cannot watch {event.path} for a shortage of memory: {event.reason}"
