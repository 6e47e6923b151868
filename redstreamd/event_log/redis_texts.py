"""What the events of Redis mean to an administrator."""

from __future__ import annotations

from typing import Final

from redstreamd.errors.remedies import sentences, setting
from redstreamd.event_log.declaration import declared
from redstreamd.redisio import cluster_events as cluster
from redstreamd.redisio import reauth
from redstreamd.redisio import sentinel_events as sentinels
from redstreamd.redisio import server_health as redis
from redstreamd.redisio.redis_errors import ROLE_NAMES, Problem, ProblemKind, role_names
from redstreamd.service.log_record import Severity

Event = redis.HealthEvent | reauth.LoginEvent | cluster.ClusterEvent | sentinels.SentinelEvent

_DOCTOR: Final = "`redstreamd doctor` checks each step on the way to Redis."
_NONE: Final = "None."


@declared(
    redis.Connected,
    "72e54e5f1bd94d4890b701bb076c726a",
    Severity.DEBUG,
    cause="One of the daemon's connections to Redis is usable.",
    remedy=_NONE,
)
def redis_connection_opened(event: redis.Connected) -> str:
    after = (
        f" after {event.down_seconds:.1f} s and {event.attempts} failed attempts" if event.attempts else ""
    )
    return f"connected to {event.server} at {event.label} for {_role(event)}{after}"


@declared(
    redis.ConnectionLost,
    "10bc751c026a49c1b62277432f76ab13",
    Severity.DEBUG,
    cause="One of the daemon's connections to Redis ended. Another is made at once.",
    remedy="None, unless it happens over and over; then see what the record names as the cause.",
)
def redis_connection_lost(event: redis.ConnectionLost) -> str:
    return f"lost the connection to Redis at {event.label} for {_role(event)}: {_told(event.problem)}"


@declared(
    redis.ConnectFailed,
    "144d78ad0d9d4d3fa91cfde9b482e733",
    Severity.DEBUG,
    cause="An attempt to connect to Redis failed. It is repeated, with growing pauses.",
    remedy=f"The record names the cause. {_DOCTOR}",
)
def redis_connect_failed(event: redis.ConnectFailed) -> str:
    return f"cannot use Redis at {event.label} for {_role(event)}: {_told(event.problem)}"


@declared(
    redis.Degraded,
    "55d8d6407bcf44b397ff2ddeedbbb490",
    Severity.WARNING,
    when=lambda event: event.problem.kind is ProblemKind.WRITES_REFUSED,
    cause="Redis refuses writes: its memory is full, it cannot save to disk, or it is a replica. Reads and "
    "waits go on; calls that write are answered with an error.",
    remedy="Do what the record says: usually, trim streams, give Redis more memory or disk space, or point "
    "redstreamd at the primary. The daemon finds out by itself when writes are accepted again.",
)
def redis_refuses_writes(event: redis.Degraded) -> str:
    return f"Redis at {event.label} refuses writes: {_told(event.problem)}"


@declared(
    redis.Degraded,
    "d325c0cf820040aeb6eec5fcebb6b4bc",
    Severity.WARNING,
    cause="The daemon has no connection to Redis for what the record names, for instance because Redis is "
    "down, cannot be reached, refuses the login, or still loads its data. Clients stay connected; their "
    "calls are answered with CONNECTION_ERROR, and waits go on when Redis is back.",
    remedy=f"Do what the record says. {_DOCTOR} The daemon connects by itself; it needs no restart.",
)
def redis_unusable(event: redis.Degraded) -> str:
    roles = role_names(event.problem.roles)
    return f"cannot use Redis at {event.label} for {roles}: {_told(event.problem)}"


@declared(
    redis.Usable,
    "878e3f9ff3d74cdc8a8b31f3a6b0158f",
    Severity.INFO,
    cause="All connections to Redis that are wanted are there, for the first time or again.",
    remedy=_NONE,
)
def redis_usable(event: redis.Usable) -> str:
    connected = f"connected to {event.server} at {event.label} for {role_names(event.roles)}"
    if event.attempts:
        connected += f" after {event.down_seconds:.1f} s and {event.attempts} failed attempts"
    elif event.lost is not None:
        connected += f" again at once; before, {event.lost.cause.rstrip('.')}"
    return connected


@declared(
    redis.KeepsEnding,
    "9eafcecaaa934c7abfd07079c5586c8b",
    Severity.WARNING,
    cause="Connections to Redis are made at once and end soon after, again and again: usually something "
    "closes them when they are idle, or a proxy in between restarts.",
    remedy="Do what the record says. Further ends of this kind are debug records; to see them, set "
    f"{setting('daemon.log_level')}.",
)
def redis_connections_keep_ending(event: redis.KeepsEnding) -> str:
    problem = event.problem
    return (
        f"connections to Redis at {event.label} keep ending (those for {role_names(problem.roles)}, "
        f"{event.times} times in a row): "
        + sentences(
            problem.cause,
            "They are made again at once, and that is recorded no more",
            problem.next_step,
        )
    )


@declared(
    redis.WritesAccepted,
    "223c0f693b0946e28fb72fdf0da7e326",
    Severity.INFO,
    cause="Redis accepts writes again.",
    remedy=_NONE,
)
def redis_accepts_writes(event: redis.WritesAccepted) -> str:
    return f"Redis at {event.label} accepts writes again after {event.refused_seconds:.0f} s"


@declared(
    reauth.LoginRenewed,
    "58e1d3fb587e4696938a6868e0ca2022",
    Severity.DEBUG,
    cause="A connection to Redis has logged in again with renewed credentials.",
    remedy=_NONE,
)
def redis_login_renewed(event: reauth.LoginRenewed) -> str:
    return f"the login at {event.label} for {_role(event)} is renewed"


@declared(
    reauth.RenewalFailed,
    "3210bd822582419f9d9c5d4d179733ac",
    Severity.WARNING,
    cause="Redis or the provider of credentials refused to renew a login. Connections go on with the old "
    "one until Redis ends them.",
    remedy="Find out why the provider's credentials are refused, before the old ones expire.",
)
def redis_login_not_renewed(event: reauth.RenewalFailed) -> str:
    return f"cannot renew the login at {event.label}: " + sentences(
        event.cause, "Connections go on with the old one for as long as Redis lets them"
    )


@declared(
    cluster.ClusterKnown,
    "453179b8059087aaddc25b623725b2dd",
    Severity.INFO,
    cause="The nodes of the Redis cluster have told which of them serves which slot, and all slots are "
    "served: for the first time, or again.",
    remedy=_NONE,
)
def redis_cluster_serves(event: cluster.ClusterKnown) -> str:
    again = f" again, after {event.down_seconds:.1f} s" if event.down_seconds else ""
    return f"the Redis cluster serves all slots{again}; its primaries are {', '.join(event.primaries)}"


@declared(
    cluster.ClusterChanged,
    "05a7b1f8f966706f8c66f981fc240f91",
    Severity.INFO,
    cause="Slots of the Redis cluster have other primaries than before: a replica has taken the place of its "
    "primary, or slots were moved. Calls and waits follow by themselves.",
    remedy="None, if that was intended. Else the logs of the nodes say why a replica was promoted.",
)
def redis_cluster_changed(event: cluster.ClusterChanged) -> str:
    changes = [f"{event.slots} slots of the Redis cluster have moved"]
    if event.joined:
        changes.append(f"{', '.join(event.joined)} serves slots now")
    if event.left:
        changes.append(f"{', '.join(event.left)} serves none any more")
    return "; ".join(changes)


@declared(
    cluster.ClusterDegraded,
    "9c349a620c06b9f30326f5363db89ece",
    Severity.WARNING,
    cause="The Redis cluster does not serve every key: no node tells which of them serves what, nobody "
    "serves some slots, or the nodes say that they serve nothing. Calls for these keys are answered with "
    "CONNECTION_ERROR; others go on.",
    remedy=f"Do what the record says. {_DOCTOR} The daemon finds out by itself when all slots are served.",
)
def redis_cluster_degraded(event: cluster.ClusterDegraded) -> str:
    return _told(event.problem)


@declared(
    sentinels.PrimaryNamed,
    "44fff1057722455aac00bd8fa7b779bc",
    Severity.NOTICE,
    cause="The sentinels name the primary that is used from now on: at the start, or because of a failover. "
    "All connections move to it at once. What the former primary had acknowledged and not replicated may be "
    "lost; durability=replicated says of each write whether it was replicated.",
    remedy="None; see the log of the sentinels for why there was a failover.",
)
def primary_named(event: sentinels.PrimaryNamed) -> str:
    instead = f" instead of {event.former}" if event.former else ""
    return (
        f"Redis at {event.label} is used{instead}: sentinels name it as the primary {event.primary!r} "
        f"(configuration epoch {event.epoch}, {event.votes} of them so far)"
    )


@declared(
    sentinels.SentinelUnusable,
    "5bc06f11bf094617928be9912ecfc475",
    Severity.WARNING,
    cause="A sentinel is of no use: it cannot be reached, refuses the login, does not know the primary, or "
    "goes on naming another one. The others are asked; without any, the primary known last is used, and a "
    "failover is not noticed.",
    remedy="Do what the record says. The daemon asks that sentinel again by itself.",
)
def sentinel_unusable(event: sentinels.SentinelUnusable) -> str:
    return f"the sentinel at {event.sentinel} is of no use: {_told(event.problem)}"


@declared(
    sentinels.SentinelUsable,
    "b45c9596eb9b42e8b94a6e3f75da0559",
    Severity.INFO,
    cause="A sentinel that was of no use names the primary again.",
    remedy=_NONE,
)
def sentinel_usable(event: sentinels.SentinelUsable) -> str:
    return f"the sentinel at {event.sentinel} is of use again after {event.down_seconds:.0f} s"


def _role(event: redis.RoleEvent | reauth.LoginRenewed) -> str:
    return ROLE_NAMES[event.role]


def _told(problem: Problem) -> str:
    return sentences(problem.cause, problem.next_step)
