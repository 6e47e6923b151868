"""The texts of the log: what each event means to an administrator.

Owns the severity and the sentence of every event, so that one line says what happened, why, and what to do.
The other packages report typed events without texts.
"""

from __future__ import annotations

import errno
import logging
from functools import singledispatch
from typing import Final

from redstreamd.errors.remedies import sentences, setting, shortened, unit_setting
from redstreamd.mcpio import connection_events as mcp
from redstreamd.mcpio.peers import peer_text
from redstreamd.redisio import reauth
from redstreamd.redisio import server_health as redis
from redstreamd.redisio.redis_errors import ROLE_NAMES, Problem, ProblemKind, role_names
from redstreamd.service import supervisor_events as service
from redstreamd.service.exceptions import unwrapped

_LOG = logging.getLogger("redstreamd")

Event = mcp.Event | redis.HealthEvent | reauth.LoginEvent | service.SupervisorEvent


def record(event: Event) -> None:
    """Write an event to the log."""
    level, text = words(event)
    error = getattr(event, "error", None) or getattr(event, "exception", None)
    # A traceback is for unexpected exceptions; those of this project explain themselves.
    unforeseen = (
        isinstance(error, BaseException)
        and level >= logging.ERROR
        and not type(unwrapped(error)).__module__.startswith("redstreamd.")
    )
    _LOG.log(level, "%s", text, exc_info=error if unforeseen else None)


def record_repeats(event: Event, times: int, seconds: float) -> None:
    """Write to the log that what `event` tells has happened `times` more since it was written."""
    level, text = words(event)
    _LOG.log(level, "%d more in %.0f s, the last one: %s", times, seconds, text)


@singledispatch
def words(event: object) -> tuple[int, str]:
    """Return the severity and the sentence of an event."""
    raise TypeError(f"{type(event).__name__} has no words")


# Redis


@words.register
def _(event: redis.Connected) -> tuple[int, str]:
    after = (
        f" after {event.down_seconds:.1f} s and {event.attempts} failed attempts" if event.attempts else ""
    )
    return logging.DEBUG, f"connected to {event.server} at {event.label} for {_role(event)}{after}"


@words.register
def _(event: redis.ConnectionLost) -> tuple[int, str]:
    return logging.DEBUG, (
        f"lost the connection to Redis at {event.label} for {_role(event)}: {_told(event.problem)}"
    )


@words.register
def _(event: redis.ConnectFailed) -> tuple[int, str]:
    return logging.DEBUG, f"cannot use Redis at {event.label} for {_role(event)}: {_told(event.problem)}"


@words.register
def _(event: redis.Degraded) -> tuple[int, str]:
    problem = event.problem
    if problem.kind is ProblemKind.WRITES_REFUSED:
        return logging.WARNING, f"Redis at {event.label} refuses writes: {_told(problem)}"
    return logging.WARNING, (
        f"cannot use Redis at {event.label} for {role_names(problem.roles)}: {_told(problem)}"
    )


@words.register
def _(event: redis.Usable) -> tuple[int, str]:
    connected = f"connected to {event.server} at {event.label} for {role_names(event.roles)}"
    if event.attempts:
        connected += f" after {event.down_seconds:.1f} s and {event.attempts} failed attempts"
    elif event.lost is not None:
        connected += f" again at once; before, {event.lost.cause.rstrip('.')}"
    return logging.INFO, connected


@words.register
def _(event: redis.KeepsEnding) -> tuple[int, str]:
    problem = event.problem
    return logging.WARNING, (
        f"connections to Redis at {event.label} keep ending (those for {role_names(problem.roles)}, "
        f"{event.times} times in a row): "
        + sentences(
            problem.cause,
            "They are made again at once, and that is recorded no more",
            problem.next_step,
        )
    )


@words.register
def _(event: redis.WritesAccepted) -> tuple[int, str]:
    return logging.INFO, f"Redis at {event.label} accepts writes again after {event.refused_seconds:.0f} s"


def _role(event: redis.RoleEvent | reauth.LoginRenewed) -> str:
    return ROLE_NAMES[event.role]


def _told(problem: Problem) -> str:
    return sentences(problem.cause, problem.next_step)


@words.register
def _(event: reauth.LoginRenewed) -> tuple[int, str]:
    return logging.DEBUG, f"the login at {event.label} for {_role(event)} is renewed"


@words.register
def _(event: reauth.RenewalFailed) -> tuple[int, str]:
    return logging.WARNING, (
        f"cannot renew the login at {event.label}: "
        + sentences(event.cause, "Connections go on with the old one for as long as Redis lets them")
    )


# Connections


@words.register
def _(event: mcp.ConnectionOpened) -> tuple[int, str]:
    return logging.DEBUG, f"connection {event.connection_id} opened for {event.principal.name}"


@words.register
def _(event: mcp.ConnectionClosed) -> tuple[int, str]:
    # That a client closes its connection is normal; that the daemon has to is a warning.
    match event.ending:
        case mcp.Ending.TLS | mcp.Ending.REDIS | mcp.Ending.BINARY:
            return logging.WARNING, (
                f"closed a connection of {_client(event)}, which {_SPOKE[event.ending]}; find out whether a "
                "client is set up wrongly, or a program searches for open ports"
            )
        case mcp.Ending.HTTP:
            return logging.WARNING, (
                f"closed a connection of {_client(event)}, which spoke HTTP; find out whether a client "
                "is set up wrongly, or a web page tries to reach the bus through somebody's browser"
            )
        case mcp.Ending.OVERFLOW:
            return logging.WARNING, (
                f"closed a connection of {_client(event)}, which did not read its answers until over "
                f"{event.limit_bytes} bytes waited; the client hangs or is too slow, find out which it is"
            )
        case mcp.Ending.UNREAD:
            return logging.WARNING, (
                f"closed a connection of {_client(event)}, which read nothing for too long "
                f"({setting('limits.unread_seconds')}) while {event.unread_bytes} bytes of answers waited; "
                "the client hangs, find out why"
            )
        case mcp.Ending.MEMORY:
            return logging.WARNING, (
                f"closed a connection of {_client(event)}, which left {event.unread_bytes} bytes of answers "
                f"unread: all clients together hold more than {event.limit_bytes} bytes, and it held most; "
                f"the client hangs or is too slow, or raise {setting('limits.max_memory_bytes')}"
            )
        case mcp.Ending.GAVE_WAY:
            return logging.WARNING, (
                f"closed a connection of {_client(event)} for another client, because as many are open as "
                "there may be, and nobody has more; find out why it opens so many, or raise "
                f"{setting('limits.max_connections')}, and what each principal may have with it"
            )
    return logging.DEBUG, (
        f"connection {event.connection_id} of {event.principal.name} closed ({event.ending}) after "
        f"{event.open_seconds:.1f} s and {event.requests} requests, {event.cut_off} of them cut off"
    )


_SPOKE: Final = {
    mcp.Ending.TLS: "spoke TLS, which this socket does not",
    mcp.Ending.REDIS: "spoke the protocol of Redis",
    mcp.Ending.BINARY: "sent something that is not text",
}


@words.register
def _(event: mcp.MessageTooLong) -> tuple[int, str]:
    return logging.WARNING, (
        f"skipped a message of {_client(event)} over {event.limit_bytes} bytes; send large content in "
        f"parts, or raise {setting('limits.max_message_bytes')}"
    )


@words.register
def _(event: mcp.MemoryExceeded) -> tuple[int, str]:
    return logging.WARNING, (
        f"refused a message of {_client(event)}: all clients together hold more than {event.limit_bytes} "
        f"bytes, and this one holds most ({event.held_bytes} bytes on this connection); find out what it "
        f"does, or raise {setting('limits.max_memory_bytes')}"
    )


@words.register
def _(event: mcp.RequestFailed) -> tuple[int, str]:
    return logging.ERROR, (
        f"{shortened(event.method)} failed unexpectedly on connection {event.connection_id} of "
        f"{event.principal.name}; the client was told of an internal error"
    )


@words.register
def _(event: mcp.ConnectionCrashed) -> tuple[int, str]:
    return logging.ERROR, (
        f"connection {event.connection_id} of {event.principal.name} ended by a defect of ours; "
        "no other connection was touched"
    )


@words.register
def _(event: mcp.ConnectionRejected) -> tuple[int, str]:
    if event.bound is mcp.Bound.DESCRIPTORS:
        cause = f"{event.limit} connections are open, with no file descriptors for more"
        remedy = unit_setting("LimitNOFILE=")
    elif event.bound is mcp.Bound.PRINCIPAL:
        cause = f"{event.limit} connections of {event.principal.name} are open"
        remedy = setting("limits.max_connections_per_principal")
    else:
        cause = f"{event.limit} connections are open"
        remedy = setting("limits.max_connections")
    holders = ", ".join(f"{peer_text(peer)} has {count}" for peer, count in event.holders)
    return logging.WARNING, (
        f"{cause}, and a client ({event.principal.name}) was rejected; raise {remedy}, or find out who opens "
        f"so many{f' (most: {holders})' if holders else ''}"
    )


@words.register
def _(event: mcp.ClientRefused) -> tuple[int, str]:
    return logging.WARNING, f"refused a client of {_client(event)}: {event.why}"


@words.register
def _(event: mcp.CredentialsNotRenewed) -> tuple[int, str]:
    return logging.ERROR, (
        f"cannot use changed certificates or tokens, and goes on with the former: {event.cause}"
    )


@words.register
def _(event: mcp.UsersHidden) -> tuple[int, str]:
    return logging.WARNING, (
        "cannot tell users apart: a user namespace hides their uids, so most clients are uid:unknown; "
        f"install the drop-in peer-identity.conf, or turn off {setting('listeners.peer_uids')}"
    )


@words.register
def _(event: mcp.FewDescriptors) -> tuple[int, str]:
    return logging.WARNING, (
        f"there is room for {event.connections} of {event.max_connections} connections, because this process "
        f"may have {event.descriptors} file descriptors; "
        f"raise {unit_setting('LimitNOFILE=')} to {event.needed}, or lower "
        f"{setting('limits.max_connections')}"
    )


@words.register
def _(event: mcp.AcceptPaused) -> tuple[int, str]:
    remedy = {
        errno.EMFILE: f"raise {unit_setting('LimitNOFILE=')}",
        errno.ENFILE: "find out which process of this host has so many files open, or raise fs.file-max "
        "(sysctl)",
    }.get(event.exception.errno or 0, "find out what this host lacks")
    return logging.WARNING, (
        f"cannot accept connections for {event.principal.name}: {event.exception.strerror}; trying again. If "
        f"this lasts, {remedy}"
    )


@words.register
def _(event: mcp.AcceptResumed) -> tuple[int, str]:
    return logging.INFO, (
        f"accepting connections for {event.principal.name} again after {event.paused_seconds:.1f} s"
    )


def _client(
    event: mcp.ConnectionClosed | mcp.MessageTooLong | mcp.MemoryExceeded | mcp.ClientRefused,
) -> str:
    name = event.principal.name
    return name if event.peer is None else f"{name} ({peer_text(event.peer)})"


# Supervision


@words.register
def _(event: service.ChildStarted) -> tuple[int, str]:
    again = f" (start {event.starts})" if event.starts > 1 else ""
    return logging.INFO if event.starts > 1 else logging.DEBUG, f"{event.child} started{again}"


@words.register
def _(event: service.ChildFailed) -> tuple[int, str]:
    if event.restart_in_seconds is None:
        return logging.ERROR, f"{event.child} failed and is not started again: {event.error}"
    return logging.ERROR, (
        f"{event.child} failed ({event.failures:.1f} recent failures) and is started again in "
        f"{event.restart_in_seconds:.1f} s: {event.error}"
    )


@words.register
def _(event: service.ChildFinished) -> tuple[int, str]:
    return logging.DEBUG, f"{event.child} finished{': ' + event.reason if event.reason else ''}"


@words.register
def _(event: service.ChildStopped) -> tuple[int, str]:
    return logging.DEBUG, f"{event.child} stopped in {event.stop_seconds:.2f} s"


@words.register
def _(event: service.ChildHung) -> tuple[int, str]:
    return logging.CRITICAL, (
        f"{event.child} did not stop within {event.waited_seconds:.1f} s; it stands at:\n{event.task_tree}"
    )


@words.register
def _(event: service.SupervisorFailed) -> tuple[int, str]:
    return logging.CRITICAL, f"the daemon ends: {event.error}"
