"""The order of the checks, and which of them need which.

Owns the composition: the way to the server, the login, what is asked of the server on that one
connection, and the daemon, which is looked at in any case.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import attrs
import trio

from redstreamd.doctor.connectivity import reach
from redstreamd.doctor.daemon_checks import check_socket, runs_systemd
from redstreamd.doctor.file_checks import check_confinement, check_secrets
from redstreamd.doctor.permission_checks import check_permissions
from redstreamd.doctor.probe import Probe
from redstreamd.doctor.report import Check, Severity, error, invalid_settings, ok, skipped
from redstreamd.doctor.server_checks import (
    check_clock,
    check_health,
    check_scripts,
    check_tracking,
    check_version,
)
from redstreamd.doctor.service_environment import UNIT, Service
from redstreamd.doctor.stream_checks import check_streams
from redstreamd.doctor.unit_checks import check_credentials, check_units, client_sockets
from redstreamd.errors import SettingsError
from redstreamd.redisio.configured_target import target_for
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.redis_errors import ConnectionEnded
from redstreamd.redisio.target import Target
from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.settings import Loaded, Settings

_SERVER_CHECKS: Final[
    tuple[tuple[tuple[str, ...], Callable[[Probe], Awaitable[Check | list[Check]]]], ...]
] = (
    (("permissions",), check_permissions),
    (("version",), check_version),
    (("tracking",), check_tracking),
    (("scripts",), check_scripts),
    (("persistence", "memory", "replication"), check_health),
    (("clock",), check_clock),
    (("streams",), check_streams),
)


async def examine(
    loaded: Loaded, *, environ: Mapping[str, str] = os.environ, service: Service | None = None
) -> list[Check]:
    """Make every check, in order.

    Args:
        loaded: The settings.
        environ: Where credentials and sockets are looked up.
        service: The service whose settings these are, if they are not those of the caller's shell.

    Raises:
        SettingsError: The settings cannot work here.

    If cancelled, what was begun is given up; a key that was made expires.
    """
    checks = [_settings(loaded, service)]
    if service is not None:
        checks.append(check_credentials(service))
    target = _target(loaded.settings, environ if service is None else service.environ)
    way = await reach(target)
    if loaded.settings.daemon.embedded:
        way = [_of_embedded(check) for check in way]
    checks += way
    if service is not None:
        checks.append(await check_confinement(loaded, service, target))
    if any(check.severity is Severity.ERROR for check in way):
        checks.append(skipped("login", _login_tried(target), "the server cannot be reached"))
        checks += _skipped_from(0, "there is no login")
    else:
        checks += await _examine_server(target)
    checks.append(check_secrets(loaded, service))
    booted, manager = runs_systemd(), ("systemctl",) if service is None else service.manager
    activated = await client_sockets(manager) if booted else []
    checks.append(await check_socket(loaded.settings, environ, server=target.label, activated=activated))
    checks.append(await check_units(booted=booted, manager=manager))
    return checks if service is None else [_in_words_of(service, check) for check in checks]


def without_settings(invalid: SettingsError, service: Service | None) -> list[Check]:
    """Return the report when the settings are not valid: nothing but what may be the cause can be asked.

    Args:
        invalid: What is wrong with them.
        service: The service whose settings they are, if they are not those of the caller's shell.
    """
    if service is None:
        return invalid_settings(invalid)
    # A settings file may be a credential itself.
    handed_over = check_credentials(service)
    found = invalid_settings(invalid, of=UNIT)
    if handed_over.severity is Severity.ERROR:
        found.append(handed_over)
    return [_in_words_of(service, check) for check in found]


def _in_words_of(service: Service, check: Check) -> Check:
    """Return a check that names the service's directory of credentials, not the caller's copy of it."""
    copy = service.environ.get("CREDENTIALS_DIRECTORY")
    if copy is None:
        return check
    own = service.credentials_directory
    tried, seen, todo = (text.replace(copy, own) for text in (check.tried, check.seen, check.todo))
    return attrs.evolve(check, tried=tried, seen=seen, todo=todo)


def _target(settings: Settings, environ: Mapping[str, str]) -> Target:
    if settings.daemon.embedded:
        return EmbeddedServer(settings.daemon.state_directory).target()
    return target_for(settings.redis, environ=environ)


def _of_embedded(check: Check) -> Check:
    """Return a step of the way to the embedded server, with what can be done about that one."""
    if check.severity is not Severity.ERROR:
        return check
    todo = (
        "The embedded server runs while its daemon does: start that (`redstreamd serve --embedded`), or name "
        "its state directory (--set daemon.state_directory=PATH; `sudo redstreamd doctor` knows it)."
    )
    return attrs.evolve(check, todo=todo)


def _settings(loaded: Loaded, service: Service | None) -> Check:
    given = {str(source): None for source in loaded.sources.values() if source.precedence > 0}
    seen = f"valid, from {', '.join(given)}" if given else "valid, all of them defaults"
    if service is None:
        return ok("settings", "reading the settings file, the environment and the command line", seen)
    tried = f"reading what {UNIT} is started with: settings file, environment, credentials and command line"
    return ok("settings", tried, f"those of {UNIT} are {seen}")


def _login_tried(target: Target) -> str:
    who = "as the default user" if target.username is None else f"as user {target.username!r}"
    if target.credentials is not None:
        return f"logging in {who} with a password from a file"
    return f"logging in {who} with{'out' if target.password is None else ' the configured'} password"


async def _examine_server(target: Target) -> list[Check]:
    """Log in and make the checks that need it, on one connection."""
    checks: list[Check] = []
    pushed = trio.Event()

    def on_push(_message: list[Any]) -> None:
        pushed.set()

    connection = Connection(target, role="doctor", on_push=on_push)
    tried = _login_tried(target)

    async def run(*, task_status: trio.TaskStatus[str]) -> None:
        """Run the connection; started with why it could not be opened, or nothing."""
        opened = False

        class Opened(trio.TaskStatus[None]):
            def started(self, value: None = None) -> None:
                nonlocal opened
                opened = True
                task_status.started("")

        try:
            await connection.run(task_status=Opened())
        except ConnectionEnded as ended:
            if not opened:
                checks.append(error("login", tried, ended.problem.cause, ended.problem.next_step))
                task_status.started("there is no login")

    async with trio.open_nursery() as nursery:
        refused = await nursery.start(run)
        if refused:
            checks += _skipped_from(0, refused)
        else:
            checks.append(ok("login", tried, f"accepted by {connection.server}"))
            checks += await _ask(Probe(connection, target, pushed))
        nursery.cancel_scope.cancel()
    return checks


async def _ask(probe: Probe) -> list[Check]:
    checks: list[Check] = []
    for number, (names, check) in enumerate(_SERVER_CHECKS):
        try:
            found = await check(probe)
        except ConnectionEnded as ended:
            problem = ended.problem
            checks.append(error(names[0], "asking the server", problem.cause, problem.next_step))
            checks += _skipped_from(number + 1, "the connection ended before")
            break
        checks += found if isinstance(found, list) else [found]
    return checks


def _skipped_from(number: int, reason: str) -> list[Check]:
    return [
        skipped(name, "asking the server", reason) for names, _ in _SERVER_CHECKS[number:] for name in names
    ]
