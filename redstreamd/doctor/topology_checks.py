"""Checks whether a server is what the settings take it for."""

from __future__ import annotations

from typing import Any, Final

from redis.exceptions import RedisError

from redstreamd.doctor.probe import Probe, why_refused
from redstreamd.doctor.report import CheckResult, error, ok, warning
from redstreamd.errors.remedies import setting
from redstreamd.redisio import reply_parsing

_CHECK: Final = "topology"


async def check_single_server(probe: Probe) -> CheckResult:
    """Check that a server that is used alone is no node of a larger cluster and no replica.

    A sentinel is recognised by the login.
    """
    tried = "asking the server what it is (HELLO)"
    hello = await probe.execute("HELLO", "3")
    told = hello if isinstance(hello, dict) else {}
    label, change = probe.target.label, setting("redis.topology", "redis.nodes")
    if told.get(b"mode") == b"cluster":
        return await _in_cluster(probe, tried)
    if told.get(b"role") == b"replica":
        return error(
            _CHECK,
            tried,
            f"{label} is a replica: nothing can be added or taken there",
            f"Name the primary: set {setting('redis.host', 'redis.port')}. If sentinels watch over it, set "
            f'{change}, to "sentinel" and to the sentinels: a failover is followed then.',
        )
    return ok(_CHECK, tried, "one server")


async def _in_cluster(probe: Probe, tried: str) -> CheckResult:
    """Judge a node of a cluster that is used as if it were alone."""
    label, change = probe.target.label, setting("redis.topology", "redis.nodes")
    todo = f'Set {change}, to "cluster" and to some of its nodes.'
    info = await probe.execute("CLUSTER", "INFO")
    told = reply_parsing.info(info) if isinstance(info, bytes) else {}
    if told.get("cluster_size") == "1" and told.get("cluster_slots_ok") == "16384":
        seen = f"{label} is the only primary of a cluster: it serves every key until slots move to another"
        return warning(_CHECK, tried, seen, todo)
    return error(_CHECK, tried, f"{label} is a node of a cluster, and serves a part of the keys", todo)


async def check_primary(probe: Probe) -> CheckResult:
    """Check that the server that sentinels name is a primary."""
    tried = "asking the server that the sentinels name for its role (ROLE)"
    label = probe.target.label
    reply = await probe.execute("ROLE")
    if isinstance(reply, RedisError):
        todo = "Allow the user +role on every server: redstreamd asks for it before it uses one."
        return error(_CHECK, tried, why_refused(reply, "ROLE"), todo)
    role = reply[0] if isinstance(reply, list) and reply else None
    if role == b"master":
        return ok(_CHECK, tried, f"{label} is the primary, and says so")
    seen = f"the sentinels name {label} as the primary, and it says that it is {_role(reply)}"
    todo = (
        "Wait for the end of a failover. If it stays so, compare `SENTINEL MASTER` of all sentinels: one "
        "that was cut off names a former primary."
    )
    return error(_CHECK, tried, seen, todo)


def _role(reply: Any) -> str:
    match reply:
        case [b"slave", bytes(host), port, *_]:
            return f"a replica of {host.decode('utf-8', 'backslashreplace')}:{port}"
        case _:
            return "no primary"
