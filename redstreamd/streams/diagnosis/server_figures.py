"""Findings about the server: persistence, memory and replication."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.streams.diagnosis.findings import Finding, Severity

_SECTIONS = ("persistence", "memory", "replication")
_NEARLY_FULL, _FULL = 0.9, 0.99
#: Findings about the server's configuration, the same for all streams and calls.
STANDING: Final = frozenset({"no_replica", "snapshots_only"})
#: Seconds by which a replica may be behind.
_REPLICA_LAG = 10


class ServerFacts(msgspec.Struct, frozen=True):
    """Facts from INFO, and the save points.

    Attributes:
        info: The fields of the sections that could be read.
        save_points: The setting ``save``; "" for none, None if it may not be read.
        unreadable: What could not be read, and why.
    """

    info: dict[str, str]
    save_points: str | None
    unreadable: dict[str, str]

    def number(self, name: str) -> int:
        """Return a number of INFO; 0 if it is absent."""
        text = self.info.get(name, "0")
        return int(text) if text.lstrip("-").isdigit() else 0


async def server_facts(redis: Redis, stream: str) -> ServerFacts:
    """Ask the server of a stream; what the user may not ask is listed as unreadable.

    Raises:
        BusError: CONNECTION_ERROR and the like.
    """
    info: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    save_points = None
    for section in _SECTIONS:
        try:
            info |= await redis.info(section, key=stream)
        except BusError as error:
            unreadable[f"INFO {section}"] = _why(error)
    try:
        save_points = await redis.config_get("save", key=stream)
    except BusError as error:
        unreadable["CONFIG GET save"] = _why(error)
    return ServerFacts(info, save_points, unreadable)


def _why(error: BusError) -> str:
    if error.code not in (Code.PERMISSION_DENIED, Code.INTERNAL):
        raise error
    return f"{error.cause}. {error.next_step}"


def server_summary(facts: ServerFacts) -> dict[str, Any]:
    """Return the figures behind the findings."""
    names = (
        "aof_enabled",
        "aof_last_write_status",
        "aof_last_bgrewrite_status",
        "rdb_last_bgsave_status",
        "rdb_changes_since_last_save",
        "used_memory",
        "maxmemory",
        "maxmemory_policy",
        "role",
        "connected_slaves",
    )
    figures = {
        name: facts.number(name) if facts.info[name].isdigit() else facts.info[name]
        for name in names
        if name in facts.info
    }
    return figures if facts.save_points is None else {**figures, "save": facts.save_points}


def server_findings(facts: ServerFacts) -> Iterator[Finding]:
    """Yield the findings about the server."""
    yield from _persistence(facts)
    yield from _memory(facts)
    yield from _replication(facts)


def _save_failed(facts: ServerFacts, severity: Severity, field: str, what: str) -> Finding:
    return Finding(
        severity,
        "save_failed",
        f"{what} The Redis log names the reason; usually the disk is full.",
        {field: facts.info[field], "changes_since_last_save": facts.number("rdb_changes_since_last_save")},
    )


def _persistence(facts: ServerFacts) -> Iterator[Finding]:
    info = facts.info
    if "aof_enabled" not in info:
        return
    unsaved = facts.number("rdb_changes_since_last_save")
    appending = info["aof_enabled"] == "1"
    if appending and info.get("aof_last_write_status", "ok") != "ok":
        yield _save_failed(
            facts,
            Severity.CRITICAL,
            "aof_last_write_status",
            "The last write of the append-only file failed: a restart loses what came since, and the server "
            "refuses writes.",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        if not appending:
            severity = Severity.CRITICAL
            what = "a restart loses what came since, and the server may refuse writes."
        elif facts.save_points == "":
            severity = Severity.NOTICE
            what = "nothing is lost, since the append-only file has everything."
        else:
            severity = Severity.WARNING
            what = "the append-only file has everything, but the server may refuse writes."
        yield _save_failed(facts, severity, "rdb_last_bgsave_status", f"The last snapshot failed: {what}")
    if appending:
        if info.get("aof_last_bgrewrite_status", "ok") != "ok":
            yield Finding(
                Severity.WARNING,
                "aof_rewrite_failed",
                "The append-only file could not be rewritten: it grows until the disk is full. The Redis log "
                "names the reason.",
                {"aof_last_bgrewrite_status": info["aof_last_bgrewrite_status"]},
            )
        return
    if facts.save_points == "":
        yield Finding(
            Severity.WARNING,
            "no_persistence",
            "Redis keeps everything in memory only: a restart loses every stream. "
            "Set appendonly yes in its configuration.",
            {"aof_enabled": False, "save": "", "changes_since_last_save": unsaved},
        )
    else:
        yield Finding(
            Severity.NOTICE,
            "snapshots_only",
            "Redis has no append-only file: a crash loses what came after the last snapshot. "
            "Set appendonly yes in its configuration.",
            {"aof_enabled": False, "save": facts.save_points, "changes_since_last_save": unsaved},
        )


def _memory(facts: ServerFacts) -> Iterator[Finding]:
    used, most = facts.number("used_memory"), facts.number("maxmemory")
    if not most:
        return
    policy = facts.info.get("maxmemory_policy", "noeviction")
    evidence = {"used_memory": used, "maxmemory": most, "maxmemory_policy": policy}
    if policy.startswith("allkeys"):
        yield Finding(
            Severity.WARNING,
            "eviction",
            "When memory is full, Redis deletes whole keys, and streams, leases and dead letters are keys. "
            "Set maxmemory-policy noeviction.",
            evidence,
        )
    elif policy.startswith("volatile"):
        yield Finding(
            Severity.NOTICE,
            "eviction_of_expiring_keys",
            "When memory is full, Redis deletes keys that expire, such as the records of idempotency keys: "
            "a repeated call may then add twice. Set maxmemory-policy noeviction.",
            evidence,
        )
    if used >= most * _NEARLY_FULL:
        yield Finding(
            Severity.CRITICAL if used >= most * _FULL else Severity.WARNING,
            "memory_nearly_full",
            "Redis is near its memory limit; beyond it, adding is refused or keys are evicted. "
            "Trim streams, or raise maxmemory.",
            evidence,
            tool="stream_list",
        )


def _replication(facts: ServerFacts) -> Iterator[Finding]:
    info = facts.info
    if info.get("role") == "slave":
        yield Finding(
            Severity.CRITICAL,
            "read_only_replica",
            "This server is a replica: nothing can be added or taken. Point redstreamd at the primary.",
            {"primary": f"{info.get('master_host')}:{info.get('master_port')}"}
            | {"link": info.get("master_link_status")},
        )
    elif info.get("role") == "master":
        replicas = facts.number("connected_slaves")
        if not replicas:
            yield Finding(
                Severity.NOTICE,
                "no_replica",
                "No replica is connected: if this machine is lost, so is what its disk held.",
                {"connected_replicas": 0},
            )
        late = [
            info[f"slave{number}"]
            for number in range(replicas)
            if _is_late(_parts(info.get(f"slave{number}", "")))
        ]
        if late:
            yield Finding(
                Severity.WARNING,
                "replica_behind",
                "A replica is not in step: after a failover, what was added meanwhile would be missing.",
                {"replicas": late[:5], "connected_replicas": replicas},
            )


def _parts(line: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in line.split(","))
    return {name: value for name, equals, value in pairs if equals}


def _is_late(replica: dict[str, str]) -> bool:
    lag = replica.get("lag", "0")
    return replica.get("state", "online") != "online" or (lag.isdigit() and int(lag) > _REPLICA_LAG)
