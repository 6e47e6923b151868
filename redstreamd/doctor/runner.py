"""Runs the checks in order, and skips those whose prerequisite failed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import attrs

from redstreamd.doctor.cluster_checks import check_cluster
from redstreamd.doctor.daemon_checks import check_socket, runs_systemd
from redstreamd.doctor.descriptor_checks import check_descriptors
from redstreamd.doctor.encryption_checks import check_encryption
from redstreamd.doctor.file_checks import check_confinement, check_secrets
from redstreamd.doctor.http_listener_checks import check_http
from redstreamd.doctor.listener_checks import check_listeners
from redstreamd.doctor.member_checks import CONNECTIVITY, check_members, skipped_members
from redstreamd.doctor.members import Found, Member
from redstreamd.doctor.policy_checks import check_policy
from redstreamd.doctor.report import CheckResult, Severity, invalid_settings, ok
from redstreamd.doctor.sentinel_checks import check_sentinels
from redstreamd.doctor.service_environment import UNIT, Service
from redstreamd.doctor.unit_checks import check_credentials, check_units, client_sockets, http_sockets
from redstreamd.errors import SettingsError
from redstreamd.redisio.configured_target import deployment_for
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.settings import Loaded, Settings


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
    deployment = _deployment(loaded.settings, in_service)
    found = await _find_members(deployment)
    results += found.results
    servers = (
        await check_members(found.members, deployment.kind)
        if found.members
        else skipped_members(deployment.kind, "no server is known")
    )
    results += [_with_embedded_todo(each) for each in servers] if loaded.settings.daemon.embedded else servers
    if service is not None:
        results.append(await check_confinement(loaded, service, _reached(deployment, found)))
    results.append(check_secrets(loaded, service))
    booted, manager = runs_systemd(), ("systemctl",) if service is None else service.manager
    activated = await client_sockets(manager) if booted else []
    # Where there are several servers, the daemon's report tells what they are at the moment.
    server = deployment.target.label if deployment.kind is TopologyKind.STANDALONE else None
    results.append(await check_socket(loaded.settings, environ, server=server, activated=activated))
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


def _deployment(settings: Settings, environ: Mapping[str, str]) -> Deployment:
    if settings.daemon.embedded:
        return Deployment(EmbeddedServer(settings.daemon.state_directory).target())
    return deployment_for(settings.redis, environ=environ)


async def _find_members(deployment: Deployment) -> Found:
    match deployment.kind:
        case TopologyKind.SENTINEL:
            return await check_sentinels(deployment)
        case TopologyKind.CLUSTER:
            return await check_cluster(deployment)
        case _:
            return Found([], (Member(deployment.target),))


def _reached(deployment: Deployment, found: Found) -> list[Target]:
    """Return every server and sentinel that the daemon connects to."""
    named = deployment.sentinel_at if deployment.kind is TopologyKind.SENTINEL else deployment.target_at
    targets = [*(named(*place) for place in deployment.nodes), *(member.target for member in found.members)]
    return list({target.label: target for target in targets}.values())


def _with_embedded_todo(result: CheckResult) -> CheckResult:
    """Replace what to do where nothing listens by what to do about the embedded server."""
    if result.severity is not Severity.ERROR or result.check not in CONNECTIVITY:
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
