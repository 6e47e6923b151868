"""Checks whether the daemon may have the file descriptors that its connections need."""

from __future__ import annotations

import resource

from redstreamd.doctor.report import CheckResult, ok, skipped, warning
from redstreamd.doctor.service_environment import Service
from redstreamd.errors.remedies import setting, unit_setting
from redstreamd.settings import Settings
from redstreamd.startup.descriptors import connections_within, needed_for


def check_descriptors(settings: Settings, service: Service | None) -> CheckResult:
    """Check the limit of file descriptors that the daemon would have, against `limits.max_connections`.

    Args:
        settings: Name how many connections there may be.
        service: Has the limit; None for a daemon that is started from the caller's shell.
    """
    configured = settings.limits.max_connections
    if service is None:
        tried = "looking at the hard limit of file descriptors of this shell (`ulimit -Hn`)"
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    else:
        tried = "looking at LimitNOFILE= of the unit"
        shown = service.value("LimitNOFILE")
        if not shown.isdigit():
            return skipped("descriptors", tried, f"it is {shown or 'not known'}")
        limit = int(shown)
    room = connections_within(limit)
    if room >= configured:
        return ok("descriptors", tried, f"{limit}, enough for {configured} connections")
    seen, todo = too_few(configured, room)
    return warning("descriptors", tried, f"{limit}: {seen}", todo)


def too_few(configured: int, room: int) -> tuple[str, str]:
    """Return what is wrong and what to do where there is room for fewer connections than configured."""
    raised = f"{unit_setting('LimitNOFILE=')} to {needed_for(configured)}"
    todo = f"Raise {raised}, or lower {setting('limits.max_connections')}."
    return f"there is room for {room} of {configured} connections", todo
