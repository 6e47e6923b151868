"""Checks whether the daemon answers on its socket, and which Redis and version it uses."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from redstreamd.addresses.address_syntax import parse_daemon_address, unquoted, without_login
from redstreamd.addresses.default_paths import SOCKET_VARIABLE, candidates_for_clients
from redstreamd.client.discovery import connect_to
from redstreamd.client.single_request import exchange, health_request
from redstreamd.doctor.descriptor_checks import too_few
from redstreamd.doctor.report import CheckResult, error, ok, warning
from redstreamd.errors.remedies import setting
from redstreamd.settings import Kind, Settings
from redstreamd.startup.installed_version import replaced
from redstreamd.startup.unexpanded_variables import placeholder_in

#: Seconds for the response. A daemon that is started by its socket needs about one.
_ANSWER_SECONDS: Final = 10.0


class _NoAnswerError(Exception):
    """A connection was accepted, and the response did not come in time."""


class _NotADaemonError(Exception):
    """The response is not that of a daemon, or the connection was closed without one."""


class _RefusedError(Exception):
    """The response is an error: the daemon could not start, or has too many clients."""


async def check_socket(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    server: str | None,
    activated: Sequence[str] = (),
    answer_seconds: float = _ANSWER_SECONDS,
) -> CheckResult:
    """Request the daemon's health at each address that a client would try, until one answers.

    Args:
        settings: Name the addresses on which it may listen.
        environ: The environment of its clients.
        server: The address of the Redis that the other checks used, since the daemon may use another; None if
            there are several.
        activated: Sockets on which systemd listens for it.
        answer_seconds: How long to wait at one address.
    """
    listens = [address.path for address in settings.daemon.listen if address.kind is Kind.UNIX]
    named = unquoted(environ.get(SOCKET_VARIABLE, ""))
    if named and placeholder_in(named):
        todo = f"Give {SOCKET_VARIABLE} the path of the daemon's socket, or leave it out."
        return error(
            "socket",
            f"reading {SOCKET_VARIABLE}",
            f"{placeholder_in(named)} is a placeholder that was not expanded",
            todo,
        )
    usual = candidates_for_clients(environ)
    places = list(dict.fromkeys([*listens, *activated, *([named] if named else []), *usual]))
    tried = f"asking the daemon for its health over {', '.join(map(without_login, places))}"
    refusals: dict[str, OSError] = {}
    for place in places:
        try:
            with trio.fail_after(answer_seconds):
                report = await trio.to_thread.run_sync(
                    _request_health, place, answer_seconds, abandon_on_cancel=True
                )
        except OSError as refusal:
            refusals[place] = refusal
        except (_NoAnswerError, trio.TooSlowError):
            todo = (
                "Read `journalctl -u redstreamd`; `systemctl kill -s QUIT redstreamd` ends it and adds its "
                "stacks."
            )
            return error("socket", tried, f"{place} accepts, but does not answer", todo)
        except _RefusedError as refused:
            todo = (
                "Correct what it names; the next client, or `systemctl restart redstreamd`, starts it again. "
                "`journalctl -u redstreamd` has the records."
            )
            return error("socket", tried, f"{place} answers: {refused}", todo)
        except _NotADaemonError:
            todo = f"Find out what listens at {place}; if the daemon refused the client, its journal says so."
            seen = f"something else than a daemon answers at {place}, or the daemon refuses the client"
            return error("socket", tried, seen, todo)
        else:
            seen = f"a daemon answers at {place}"
            differences = [*_other_redis(report, server), *filter(None, [replaced(report)]), *_bounds(report)]
            if not differences:
                return ok("socket", tried, seen)
            seen = "; ".join([seen, *(what for what, _ in differences)])
            return warning("socket", tried, seen, " ".join(todo for _, todo in differences))
    seen = "; ".join(
        f"{without_login(place)}: {refusal.strerror or refusal}" for place, refusal in refusals.items()
    )
    todo = "Start it: `systemctl start redstreamd.socket`, or `redstreamd serve`."
    if any(isinstance(refusal, PermissionError) for refusal in refusals.values()):
        todo = "Become a member of the socket's group: `gpasswd -a <user> redstreamd-clients`."
    return warning("socket", tried, f"no daemon answers ({seen})", todo)


def _other_redis(report: Mapping[str, Any], server: str | None) -> list[tuple[str, str]]:
    """Return what is wrong and what to do, if the daemon uses another Redis than the checks."""
    redis = report.get("redis")
    used = redis.get("address") if isinstance(redis, Mapping) else None
    if used is None or server is None or _is_same(str(used), server):
        return []
    todo = f"To check that one, give doctor the daemon's settings ({_settings_of(str(used))})."
    return [(f"it uses another Redis, at {used}", todo)]


def _bounds(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong and what to do, if the daemon rejects clients, or has too few descriptors."""
    clients = report.get("clients")
    if not isinstance(clients, Mapping) or "limit" not in clients:
        return []
    found = []
    limit, configured = int(clients["limit"]), int(clients["max_connections"])
    if limit < configured:
        found.append(too_few(configured, limit))
    if clients.get("full") is not None:
        todo = "Find out who opens so many: `redstreamd status` names those who hold most."
        if limit >= configured:
            todo += f" Or raise {setting('limits.max_connections')}."
        many = f"it has as many connections as can be ({clients['connections']})"
        found.append((f"{many}: newcomers displace whoever holds most, or are rejected", todo))
    return found


def _request_health(place: str, answer_seconds: float) -> Mapping[str, Any]:
    """Return the daemon's health; empty if the response has none. Blocking, for a thread.

    Raises:
        OSError: Nobody listens there, or it is not an address.
        _NoAnswerError: No response in time.
        _NotADaemonError: The response is not that of a daemon.
        _RefusedError: The daemon says why it does not serve.
    """
    try:
        address = parse_daemon_address(place)
    except ValueError as invalid:
        raise OSError(f"it takes a path, unix:PATH or tcp:HOST:PORT: {invalid}") from None
    with connect_to(address) as connection:
        connection.settimeout(answer_seconds)
        try:
            response = exchange(connection, health_request("redstreamd-doctor"))
        except TimeoutError:
            raise _NoAnswerError from None
        except OSError:
            raise _NotADaemonError from None
    if isinstance(refusal := response.get("error"), dict):
        raise _RefusedError(str(refusal.get("message", "an error without a message")))
    if "result" not in response:
        raise _NotADaemonError
    try:
        report = json.loads(response["result"]["contents"][0]["text"])
    except (LookupError, TypeError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def _is_same(used: str, server: str) -> bool:
    """Whether two addresses are the same; with `DynamicUser=` a state directory has two paths."""
    return used == server or (server.startswith("/") and os.path.realpath(used) == os.path.realpath(server))


def _settings_of(address: str) -> str:
    """Return the options with which doctor checks the Redis at `address`."""
    state, embedded, _ = address.rpartition("/embedded/")
    if embedded:
        return f"--embedded --set {shlex.quote(f'daemon.state_directory={state}')}"
    return "--config, REDIS_..."


def runs_systemd() -> bool:
    """Whether this host was booted with systemd; see sd_booted(3)."""
    return Path("/run/systemd/system").exists()
