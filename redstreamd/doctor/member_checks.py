"""Runs the checks of each server of a topology: connection, login, and what is asked after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

import attrs
import trio

from redstreamd.doctor.connectivity_checks import check_connectivity
from redstreamd.doctor.members import Member, merged
from redstreamd.doctor.permission_checks import check_permissions
from redstreamd.doctor.probe import Probe, with_probe
from redstreamd.doctor.report import CheckResult, Severity, error, ok, skipped
from redstreamd.doctor.server_checks import (
    check_clock,
    check_health,
    check_scripts,
    check_tracking,
    check_version,
)
from redstreamd.doctor.stream_checks import check_streams
from redstreamd.doctor.topology_checks import check_primary, check_single_server
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem
from redstreamd.redisio.target import Target, TopologyKind


@attrs.frozen
class _ServerCheck:
    """A check that needs a login.

    Attributes:
        names: The names of its results.
        run: What makes it.
        on_replicas: Whether it is made on replicas, too, which serve after a failover.
    """

    names: tuple[str, ...]
    run: Callable[[Probe], Awaitable[CheckResult | list[CheckResult]]]
    on_replicas: bool = False


_TOPOLOGY: Final = ("topology",)
_HEALTH: Final = ("persistence", "memory", "replication")
_CHECKS: Final = (
    _ServerCheck(("permissions",), check_permissions, on_replicas=True),
    _ServerCheck(("version",), check_version, on_replicas=True),
    _ServerCheck(("tracking",), check_tracking),
    _ServerCheck(("scripts",), check_scripts),
    _ServerCheck(_HEALTH, check_health),
    _ServerCheck(("clock",), check_clock),
    _ServerCheck(("streams",), check_streams),
)

#: The same where a replica takes the place of a primary.
_FAILING_OVER: Final = tuple(
    attrs.evolve(check, run=partial(check_health, needs_replica=True)) if check.names == _HEALTH else check
    for check in _CHECKS
)
#: What is asked first, if it is not known from others: if that is an error, another server is meant.
_SINGLE: Final = (_ServerCheck(_TOPOLOGY, check_single_server), *_CHECKS)
_SENTINEL: Final = (_ServerCheck(_TOPOLOGY, check_primary), *_FAILING_OVER)

#: The names of what is checked before the login.
CONNECTIVITY: Final = ("name_resolution", "connect", "tls")


async def check_members(members: Sequence[Member], kind: TopologyKind) -> list[CheckResult]:
    """Make every check on every server, on all servers at the same time; one result for each check."""
    results: list[list[tuple[Member, CheckResult]]] = [[] for _ in members]

    async def check(number: int, member: Member) -> None:
        found = await _check_member(member, _checks_of(member, kind))
        results[number] = [(member, result) for result in found]

    async with trio.open_nursery() as nursery:
        for number, member in enumerate(members):
            nursery.start_soon(check, number, member)
    return list(merged(results))


def skipped_members(kind: TopologyKind, reason: str) -> list[CheckResult]:
    """Return the results where no server is known."""
    names = (*CONNECTIVITY, "login", *_names(_checks_of(None, kind)))
    return [skipped(name, "asking the servers", reason) for name in names]


def _checks_of(member: Member | None, kind: TopologyKind) -> tuple[_ServerCheck, ...]:
    if member is not None and member.is_replica:
        return tuple(check for check in _CHECKS if check.on_replicas)
    if kind is TopologyKind.STANDALONE:
        return _SINGLE
    return _SENTINEL if kind is TopologyKind.SENTINEL else _FAILING_OVER


async def _check_member(member: Member, checks: Sequence[_ServerCheck]) -> list[CheckResult]:
    results = await check_connectivity(member.target)
    tried = _login_tried(member.target)
    if any(result.severity is Severity.ERROR for result in results):
        results.append(skipped("login", tried, "the server cannot be reached"))
        return results + _skipped(checks, "there is no login")

    async def use(probe: Probe) -> list[CheckResult]:
        return [ok("login", tried, f"accepted by {probe.connection.server}"), *await _ask(probe, checks)]

    found = await with_probe(member.target, use, tag=member.tag)
    if isinstance(found, Problem):
        results.append(error("login", tried, found.cause, found.next_step))
        return results + _skipped(checks, "there is no login")
    return results + found


async def _ask(probe: Probe, checks: Sequence[_ServerCheck]) -> list[CheckResult]:
    results: list[CheckResult] = []
    for number, check in enumerate(checks):
        try:
            found = await check.run(probe)
        except ConnectionEnded as ended:
            results.append(
                error(check.names[0], "asking the server", ended.problem.cause, ended.problem.next_step)
            )
            return results + _skipped(checks[number + 1 :], "the connection ended before")
        results += found if isinstance(found, list) else [found]
        if check.names == _TOPOLOGY and results[-1].severity is Severity.ERROR:
            return results + _skipped(checks[number + 1 :], "it is not the server that is meant")
    return results


def _skipped(checks: Iterable[_ServerCheck], reason: str) -> list[CheckResult]:
    return [skipped(name, "asking the server", reason) for name in _names(checks)]


def _names(checks: Iterable[_ServerCheck]) -> list[str]:
    return [name for check in checks for name in check.names]


def _login_tried(target: Target) -> str:
    user = "as the default user" if target.username is None else f"as user {target.username!r}"
    if target.credentials is not None:
        return f"logging in {user} with a password from a file"
    return f"logging in {user} with{'out' if target.password is None else ' the configured'} password"
