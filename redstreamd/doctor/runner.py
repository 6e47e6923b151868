"""Runs the checks in order, and skips those whose prerequisite failed."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from redstreamd.doctor.connectivity_checks import check_connectivity
from redstreamd.doctor.daemon_checks import check_socket, runs_systemd
from redstreamd.doctor.descriptor_checks import check_descriptors
from redstreamd.doctor.encryption_checks import check_encryption
from redstreamd.doctor.file_checks import check_confinement, check_secrets
from redstreamd.doctor.http_listener_checks import check_http
from redstreamd.doctor.listener_checks import check_listeners
from redstreamd.doctor.permission_checks import check_permissions
from redstreamd.doctor.policy_checks import check_policy
from redstreamd.doctor.probe import Probe
from redstreamd.doctor.report import CheckResult, Severity, error, invalid_settings, ok, skipped
from redstreamd.doctor.server_checks import (
    check_clock,
    check_health,
    check_scripts,
    check_tracking,
    check_version,
)
from redstreamd.doctor.service_environment import UNIT, Service
from redstreamd.doctor.stream_checks import check_streams
from redstreamd.doctor.unit_checks import check_credentials, check_units, client_sockets, http_sockets
from redstreamd.errors import SettingsError
from redstreamd.redisio.configured_target import target_for
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.redis_errors import ConnectionEnded
from redstreamd.redisio.target import Target
from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.settings import Loaded, Settings

_SERVER_CHECKS: Final[
    tuple[tuple[tuple[str, ...], Callable[[Probe], Awaitable[CheckResult | list[CheckResult]]]], ...]
] = (
    (("permissions",), check_permissions),
    (("version",), check_version),
    (("tracking",), check_tracking),
    (("scripts",), check_scripts),
    (("persistence", "memory", "replication"), check_health),
    (("clock",), check_clock),
    (("streams",), check_streams),
)


async def run_checks(
    loaded: Loaded,
    *,
    without_effect: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    service: Service | None = None,
) -> list[CheckResult]:
    """Run every check, in order.

    Args:
        loaded: The settings.
        without_effect: A sentence for each of their rules and quotas that has no effect.
        environ: The environment, for credentials and sockets.
        service: The service whose settings these are; None for those of the caller's shell.

    Raises:
        SettingsError: The settings cannot work here.

    If cancelled, the running check is cancelled; a key that it created expires.
    """
    results = [_settings_result(loaded, service)]
    if service is not None:
        results.append(check_credentials(service))
    results.append(check_descriptors(loaded.settings, service))
    in_service = environ if service is None else service.environ
    results.append(check_listeners(loaded.settings, in_service, service))
    results.append(check_policy(loaded.settings, without_effect))
    results.append(check_encryption(loaded.settings, in_service))
    target = _target(loaded.settings, in_service)
    connectivity = await check_connectivity(target)
    if loaded.settings.daemon.embedded:
        connectivity = [_with_embedded_todo(result) for result in connectivity]
    results += connectivity
    if service is not None:
        results.append(await check_confinement(loaded, service, target))
    if any(result.severity is Severity.ERROR for result in connectivity):
        results.append(skipped("login", _login_tried(target), "the server cannot be reached"))
        results += _skipped_from(0, "there is no login")
    else:
        results += await _check_server(target)
    results.append(check_secrets(loaded, service))
    booted, manager = runs_systemd(), ("systemctl",) if service is None else service.manager
    activated = await client_sockets(manager) if booted else []
    results.append(await check_socket(loaded.settings, environ, server=target.label, activated=activated))
    over_http = await http_sockets(manager) if booted else []
    results.append(await check_http(loaded.settings, in_service, activated=over_http))
    results.append(await check_units(booted=booted, manager=manager))
    return results if service is None else [_with_service_paths(service, result) for result in results]


def results_without_settings(invalid: SettingsError, service: Service | None) -> list[CheckResult]:
    """Return the report when the settings are not valid: that, and missing credentials as a possible cause.

    Args:
        invalid: The error.
        service: The service whose settings they are; None for those of the caller's shell.
    """
    if service is None:
        return invalid_settings(invalid)
    # The settings file may be a credential.
    credentials = check_credentials(service)
    results = invalid_settings(invalid, of=UNIT)
    if credentials.severity is Severity.ERROR:
        results.append(credentials)
    return [_with_service_paths(service, result) for result in results]


def _with_service_paths(service: Service, result: CheckResult) -> CheckResult:
    """Name the service's directory of credentials instead of doctor's copy."""
    copy = service.environ.get("CREDENTIALS_DIRECTORY")
    if copy is None:
        return result
    own = service.credentials_directory
    tried, seen, todo = (text.replace(copy, own) for text in (result.tried, result.seen, result.todo))
    return attrs.evolve(result, tried=tried, seen=seen, todo=todo)


def _target(settings: Settings, environ: Mapping[str, str]) -> Target:
    if settings.daemon.embedded:
        return EmbeddedServer(settings.daemon.state_directory).target()
    return target_for(settings.redis, environ=environ)


def _with_embedded_todo(result: CheckResult) -> CheckResult:
    """Replace what to do about an error by what to do about the embedded server."""
    if result.severity is not Severity.ERROR:
        return result
    todo = (
        "The embedded server runs while its daemon does: start that (`redstreamd serve --embedded`), or name "
        "its state directory (--set daemon.state_directory=PATH; `sudo redstreamd doctor` knows it)."
    )
    return attrs.evolve(result, todo=todo)


def _settings_result(loaded: Loaded, service: Service | None) -> CheckResult:
    given = {str(source): None for source in loaded.sources.values() if source.precedence > 0}
    seen = f"valid, from {', '.join(given)}" if given else "valid, all of them defaults"
    if service is None:
        return ok("settings", "reading the settings file, the environment and the command line", seen)
    tried = f"reading the settings file, environment, credentials and command line of {UNIT}"
    return ok("settings", tried, f"those of {UNIT} are {seen}")


def _login_tried(target: Target) -> str:
    user = "as the default user" if target.username is None else f"as user {target.username!r}"
    if target.credentials is not None:
        return f"logging in {user} with a password from a file"
    return f"logging in {user} with{'out' if target.password is None else ' the configured'} password"


async def _check_server(target: Target) -> list[CheckResult]:
    """Log in and run the checks that need it, on one connection."""
    results: list[CheckResult] = []
    invalidated = trio.Event()

    def on_push(_message: list[Any]) -> None:
        invalidated.set()

    connection = Connection(target, role="doctor", on_push=on_push)
    tried = _login_tried(target)

    async def run(*, task_status: trio.TaskStatus[str]) -> None:
        """Run the connection; started with the reason if it could not be opened, else an empty text."""
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
                results.append(error("login", tried, ended.problem.cause, ended.problem.next_step))
                task_status.started("there is no login")

    async with trio.open_nursery() as nursery:
        refused = await nursery.start(run)
        if refused:
            results += _skipped_from(0, refused)
        else:
            results.append(ok("login", tried, f"accepted by {connection.server}"))
            results += await _run_server_checks(Probe(connection, target, invalidated))
        nursery.cancel_scope.cancel()
    return results


async def _run_server_checks(probe: Probe) -> list[CheckResult]:
    results: list[CheckResult] = []
    for number, (names, check) in enumerate(_SERVER_CHECKS):
        try:
            found = await check(probe)
        except ConnectionEnded as ended:
            problem = ended.problem
            results.append(error(names[0], "asking the server", problem.cause, problem.next_step))
            results += _skipped_from(number + 1, "the connection ended before")
            break
        results += found if isinstance(found, list) else [found]
    return results


def _skipped_from(number: int, reason: str) -> list[CheckResult]:
    return [
        skipped(name, "asking the server", reason) for names, _ in _SERVER_CHECKS[number:] for name in names
    ]
