"""Events of the daemon as a process: it starts, cannot start, and stops."""

from __future__ import annotations

from typing import Final

import msgspec

from redstreamd.event_log.declaration import declared
from redstreamd.service.log_record import Severity

_NONE: Final = "None."


class Listening(msgspec.Struct, frozen=True):
    """The daemon serves clients.

    Attributes:
        version: Its version.
        addresses: Where it listens.
    """

    version: str
    addresses: tuple[str, ...]


class Stopping(msgspec.Struct, frozen=True):
    """A signal stops the daemon."""


class StoppingAtOnce(msgspec.Struct, frozen=True):
    """A second signal stops it without waiting for calls in flight."""


class CannotStart(msgspec.Struct, frozen=True):
    """An address or the state directory is in use.

    Attributes:
        cause: Which, and by whom.
    """

    cause: str


class CannotLoad(msgspec.Struct, frozen=True):
    """A module cannot be imported.

    Attributes:
        cause: Which.
        error: What was raised; None if that is not known.
    """

    cause: str
    error: BaseException | None


Event = Listening | Stopping | StoppingAtOnce | CannotStart | CannotLoad


@declared(
    Listening,
    "001a244f39c94753a8405a354b60f63c",
    Severity.INFO,
    cause="The daemon has started and serves clients.",
    remedy=_NONE,
)
def daemon_listening(event: Listening) -> str:
    return f"redstreamd {event.version} listens on {', '.join(event.addresses)}"


@declared(
    Stopping,
    "78156cdbba94458a9baf1739ce696d05",
    Severity.INFO,
    cause="A signal stops the daemon. It answers what is in flight; waits return at once with their cursor. "
    "Clients of a bridge stay connected, and others wait in the socket's queue until it is back.",
    remedy=_NONE,
)
def daemon_stopping(_event: Stopping) -> str:
    return "stopping: answering what is in flight"


@declared(
    StoppingAtOnce,
    "1686700b67ef4faaa67b029fc677a613",
    Severity.WARNING,
    cause="A second signal came while the daemon answered what was in flight. That is given up; its callers "
    "do not know whether their calls had an effect.",
    remedy=_NONE,
)
def daemon_stopping_at_once(_event: StoppingAtOnce) -> str:
    return "stopping at once"


@declared(
    CannotStart,
    "598555efbc6e41e7912f9a068a21b6b7",
    Severity.CRITICAL,
    cause="An address or the state directory is in use, usually by another redstreamd. The daemon ends with "
    "status 75.",
    remedy="Do what the record says. `ss -lxp` and `ss -ltp` show who listens where, and `systemctl status "
    "redstreamd` whether the service runs already.",
)
def daemon_cannot_start(event: CannotStart) -> str:
    return event.cause


@declared(
    CannotLoad,
    "51fb88d6609444b5b096ae3186e75fdf",
    Severity.CRITICAL,
    cause="A package that redstreamd needs is not installed, or was changed. The daemon ends with status 70.",
    remedy="Install redstreamd again; the traceback of the record names the package.",
)
def daemon_cannot_load(event: CannotLoad) -> str:
    return (
        f"cannot load the daemon: {event.cause.rstrip('.')}; the installation is incomplete or was changed, "
        "install it again"
    )
