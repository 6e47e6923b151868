"""Checks the service and socket units, and says why systemd could not start the service."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.doctor.service_environment import UNIT, Service, ask_systemctl
from redstreamd.doctor.unit_text import properties
from redstreamd.settings import ListenAddress

SOCKET: Final = "redstreamd.socket"
HTTP_SOCKET: Final = "redstreamd-http.socket"

_PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "NeedDaemonReload", "Listen"),
    "StatusText",
)

#: Seconds to wait for the result of a start. systemd repeats a failing start ten times a second; in between
#: it does not look like a failure.
_START_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.05

#: How the unit's status text begins while a process answers clients because it cannot start.
_CANNOT_START: Final = "redstreamd cannot start: "

#: Cause and remedy of a failed start by exit status. 200 to 243 are systemd's own, from before our program
#: ran (systemd.exec(5), "Process Exit Codes").
EXIT_STATUSES: Final[Mapping[str, tuple[str, str]]] = {
    "75": (
        "the daemon could not start now",
        "The journal says what is in the way: an address or a state directory in use, most often.",
    ),
    "78": ("a setting is not valid", "The check `settings` or the journal names it; correct it."),
    "203": (
        "systemd could not execute the program",
        "Install it again (`sudo make install`), or go back to the version before.",
    ),
    "217": ("the user does not exist", "Remove the drop-in that sets User=, or create that user."),
    "226": (
        "systemd could not set up the confinement",
        "The journal names the path of a drop-in that does not exist (BindPaths=, ReadWritePaths=).",
    ),
    "238": (
        "systemd could not make the state directory",
        "Check the file system of /var/lib: is it full, or mounted read-only?",
    ),
    "243": (
        "systemd could not set up the credentials",
        "The check `credentials` names what is missing.",
    ),
}

#: The same by the unit's result, if the exit status does not tell.
UNIT_RESULTS: Final[Mapping[str, tuple[str, str]]] = {
    "oom-kill": ("the kernel ran out of memory", "Raise MemoryMax=, or find out what uses the memory."),
    "start-limit-hit": ("systemd gave up after too many starts", "Find the cause of the first failure."),
    "timeout": ("it took too long", "The journal says what it waited for."),
    "watchdog": ("its event loop hung", "The journal holds the stacks of all tasks; report them."),
}


@attrs.frozen
class Unit:
    """The state of one unit.

    Attributes:
        name: The name of the unit.
        values: Its properties: name -> values.
    """

    name: str
    values: Mapping[str, Sequence[str]]

    def __getitem__(self, key: str) -> str:
        return next(reversed(self.values.get(key, ())), "")

    @property
    def is_failing(self) -> bool:
        """Whether it failed, or waits for a restart after a failure."""
        return self["ActiveState"] == "failed" or (
            self["SubState"] == "auto-restart" and self["Result"] not in ("", "success")
        )

    def sockets(self) -> list[str]:
        """Return the Unix sockets on which systemd listens."""
        return [place for place in self.listens() if place.startswith("/")]

    def listens(self) -> list[str]:
        """Return the paths and addresses at which systemd accepts connections."""
        listened = (line.rpartition(" (") for line in self.values.get("Listen", ()))
        return [place for place, _, kind in listened if kind == "Stream)"]


async def check_units(*, booted: bool, manager: Sequence[str] = ("systemctl",)) -> CheckResult:
    """Check the service and its socket.

    Args:
        booted: Whether this host was booted with systemd.
        manager: The systemctl command.
    """
    tried = f"systemctl show {UNIT} {SOCKET}"
    if not booted:
        return skipped("unit", tried, "this host was not booted with systemd")
    units = await _settled_units(manager)
    if units is None:
        return skipped("unit", tried, "systemctl failed")
    service, socket = units
    if service["LoadState"] == socket["LoadState"] == "not-found":
        return skipped("unit", tried, "redstreamd is not installed as a service")
    seen = ", ".join(f"{unit.name} {unit['ActiveState'] or 'unknown'}" for unit in units)
    if service.is_failing:
        return _failed(service, tried, seen)
    if service["ActiveState"] == "activating" and service["StatusText"].startswith(_CANNOT_START):
        todo = "Correct what it names; the next client, or `systemctl restart redstreamd`, starts it again."
        return error("unit", tried, f"{seen}: {service['StatusText']}", todo)
    if socket["ActiveState"] == "failed":
        todo = f"Read why: `journalctl -u {SOCKET}`; then `systemctl restart {SOCKET}`."
        return error("unit", tried, f"{seen} (Result={socket['Result']})", todo)
    if "active" not in (service["ActiveState"], socket["ActiveState"]):
        return warning("unit", tried, seen, f"Start it: `systemctl enable --now {SOCKET}`.")
    gone = (
        [path for path in socket.sockets() if not _is_socket(path)]
        if socket["ActiveState"] == "active"
        else []
    )
    if gone:
        return error(
            "unit",
            tried,
            f"{seen}, but {', '.join(gone)} was removed: systemd listens where no client can find it",
            f"Create it again: `systemctl restart {SOCKET}`, which also restarts the service. Find out what "
            "removes files below /run.",
        )
    if "yes" in (service["NeedDaemonReload"], socket["NeedDaemonReload"]):
        todo = f"`systemctl daemon-reload && systemctl restart {UNIT}`."
        return warning("unit", tried, f"{seen}; a unit file or drop-in changed since systemd read it", todo)
    return ok("unit", tried, seen)


def check_credentials(service: Service) -> CheckResult:
    """Check that the files of the unit's credentials exist."""
    tried = "looking for the credentials that the unit asks for"
    if not service.credentials:
        return skipped("credentials", tried, "the unit asks for none")
    missing = service.missing_credentials()
    if not missing:
        return ok("credentials", tried, ", ".join(dict.fromkeys(each.name for each in service.credentials)))
    return error(
        "credentials",
        tried,
        "; ".join(
            f"{each.name}: {each.source} does not exist (asked for in {each.origin})" for each in missing
        )
        + ". The service does not start without it (status 243)",
        "Put the file there, mode 0600, or remove the line LoadCredential= of what is not needed and run "
        f"`systemctl daemon-reload`; then `systemctl restart {UNIT}`.",
    )


async def client_sockets(manager: Sequence[str]) -> list[str]:
    """Return the paths on which the socket unit listens; empty if it is not installed."""
    units = await _units(manager)
    return [] if units is None else units[1].sockets()


async def http_sockets(manager: Sequence[str]) -> list[ListenAddress]:
    """Return where systemd listens for Streamable HTTP; empty if it does not."""
    shown = await ask_systemctl([*manager, "show", f"--property={','.join(_PROPERTIES)}", HTTP_SOCKET])
    unit = Unit(HTTP_SOCKET, {} if shown is None else properties(shown))
    places = unit.listens() if unit["ActiveState"] == "active" else []
    return [ListenAddress.parse(f"http:{place}") for place in places]


async def _settled_units(manager: Sequence[str]) -> tuple[Unit, Unit] | None:
    """Return the units; waits a moment for a start in progress to end or to set its status text."""
    deadline = trio.current_time() + _START_SECONDS
    while True:
        units = await _units(manager)
        is_starting = units is not None and units[0]["SubState"] == "start" and not units[0]["StatusText"]
        if not is_starting or trio.current_time() >= deadline:
            return units
        await trio.sleep(_POLL_SECONDS)


async def _units(manager: Sequence[str]) -> tuple[Unit, Unit] | None:
    found = []
    for name in (UNIT, SOCKET):
        shown = await ask_systemctl([*manager, "show", f"--property={','.join(_PROPERTIES)}", name])
        if shown is None:
            return None
        found.append(Unit(name, properties(shown)))
    return found[0], found[1]


def _failed(service: Unit, tried: str, seen: str) -> CheckResult:
    result, status = service["Result"], service["ExecMainStatus"]
    explanation = UNIT_RESULTS.get(result) or (EXIT_STATUSES.get(status) if result == "exit-code" else None)
    cause, remedy = explanation or ("", "")
    shown = f"{seen} (Result={result}" + (f", status {status})" if result == "exit-code" else ")")
    return error(
        "unit",
        tried,
        f"{shown}: {cause}" if cause else shown,
        f"{remedy} Read `journalctl -u {UNIT}`; once it is corrected: `systemctl restart {SOCKET}`.".lstrip(),
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except PermissionError:
        return True  # this user may not see it
    except OSError:
        return False
