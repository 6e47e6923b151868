"""Checks the server: its version, tracking, scripts, persistence, memory, replication and clock."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec
import trio
from redis.exceptions import RedisError

from redstreamd.doctor.probe import Probe, error_text, why_refused
from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.diagnosis.server_figures import ServerFacts, server_findings

# GETEX is new in Redis 6.2, the oldest supported server, like the options of XADD, XCLAIM and XPENDING that
# redstreamd uses. A command tells more than a version number, which differs between Redis and Valkey.
_OLDEST: Final = "GETEX"
_NEWER: Final = ("FUNCTION", "WAITAOF", "XACKDEL", "XDELEX", "XNACK")

#: Seconds for the push that follows a change; usually less than a millisecond.
_PUSH_SECONDS: Final = 2.0

#: Seconds by which two clocks may differ.
_CLOCK_SECONDS: Final = 1.0

_FINDINGS: Final = {
    "persistence": ("save_failed", "aof_rewrite_failed", "no_persistence", "snapshots_only"),
    "memory": ("eviction", "eviction_of_expiring_keys", "memory_nearly_full"),
    "replication": ("read_only_replica", "no_replica", "replica_behind"),
}


async def check_version(probe: Probe) -> CheckResult:
    """Check that the server has the commands of the oldest supported version."""
    tried = "asking the server for its version and its commands (HELLO, COMMAND INFO)"
    reply = await probe.execute("COMMAND", "INFO", _OLDEST, *_NEWER)
    seen = probe.connection.server
    if isinstance(reply, RedisError):
        return ok("version", tried, f"{seen}; which commands it has could not be asked ({error_text(reply)})")
    # An unknown command is nil or an empty map, depending on the server's version.
    oldest, *available = [bool(each) for each in reply]
    if not oldest:
        return error("version", tried, seen, "Use Redis 6.2 or later, or Valkey 7.2 or later.")
    newer = [name for name, is_available in zip(_NEWER, available, strict=True) if is_available]
    return ok("version", tried, f"{seen}; newer commands: {', '.join(newer) or 'none'} (none is needed)")


async def check_tracking(probe: Probe) -> CheckResult:
    """Check that the change of a key is pushed. The key is redstreamd's own and expires in ten seconds."""
    key = probe.sample_key
    tried = f"CLIENT TRACKING ON, then SET and DEL of {key!r}, waiting for the push"
    todo = (
        "Allow +client|tracking, and connect to the server directly: proxies seldom pass on pushes. Without "
        "tracking redstreamd polls each watched stream four times a second."
    )
    switched = await probe.execute("CLIENT", "TRACKING", "ON")
    if isinstance(switched, RedisError):
        return warning("tracking", tried, error_text(switched), todo)
    await probe.execute("EXISTS", key)
    started = trio.current_time()
    written = await probe.execute("SET", key, "1", "PX", 10_000)
    if isinstance(written, RedisError):
        return ok("tracking", tried, f"it can be switched on; a push was not tested ({error_text(written)})")
    with trio.move_on_after(_PUSH_SECONDS) as limit:
        await probe.invalidated.wait()
    seconds = trio.current_time() - started
    await probe.execute_all([("DEL", key), ("CLIENT", "TRACKING", "OFF")])
    if limit.cancelled_caught:
        return warning("tracking", tried, f"no push within {_PUSH_SECONDS:g} s", todo)
    return ok("tracking", tried, f"the push came within {seconds * 1000:.1f} ms")


async def check_scripts(probe: Probe) -> CheckResult:
    """Run a script that touches a key."""
    tried = "EVAL of a script that asks whether a key exists"
    reply = await probe.execute("EVAL", "return redis.call('EXISTS', KEYS[1])", 1, probe.sample_key)
    if reply == 0:
        return ok("scripts", tried, "it ran")
    todo = (
        "Leases and idempotency keys are scripts: allow the user +eval +evalsha and the keys of its streams."
    )
    return error("scripts", tried, error_text(reply), todo)


async def check_health(probe: Probe, *, needs_replica: bool = False) -> list[CheckResult]:
    """Check persistence, memory and replication by the rules of the tool stream_health.

    Args:
        probe: The connection.
        needs_replica: Whether a replica is to take the place of a primary that is lost.
    """
    tried = {name: f"INFO {name}" for name in _FINDINGS}
    info = await probe.info(*_FINDINGS)
    if not info:
        reason = "this user may not run INFO; allow +info"
        return [skipped(name, tried[name], reason) for name in _FINDINGS]
    config = await probe.execute("CONFIG", "GET", "save")
    save = config.get(b"save") if isinstance(config, dict) else None
    facts = ServerFacts(info, None if save is None else save.decode(), {})
    findings = list(server_findings(facts))
    if needs_replica:
        findings = [_demanded(finding) for finding in findings]
    return [
        _health_result(name, tried[name], [each for each in findings if each.code in codes], facts)
        for name, codes in _FINDINGS.items()
    ]


def _demanded(finding: Finding) -> Finding:
    """Return the finding that there is no replica as a warning."""
    if finding.code != "no_replica":
        return finding
    cause = f"{finding.cause} Until it is back, nobody serves its streams: add a replica."
    return msgspec.structs.replace(finding, severity=Severity.WARNING, cause=cause)


def _health_result(name: str, tried: str, findings: Iterable[Finding], facts: ServerFacts) -> CheckResult:
    saves = {None: "not known", "": "off"}.get(facts.save_points, f"at {facts.save_points}")
    seen = {
        "persistence": (
            f"append-only file {'on' if facts.info.get('aof_enabled') == '1' else 'off'}, snapshots "
            f"{saves}, last save {facts.info.get('rdb_last_bgsave_status', 'unknown')}, last rewrite "
            f"{facts.info.get('aof_last_bgrewrite_status', 'unknown')}"
        ),
        "memory": (
            f"{facts.number('used_memory')} bytes used of {facts.number('maxmemory') or 'no limit'}, policy "
            f"{facts.info.get('maxmemory_policy', 'unknown')}"
        ),
        "replication": (
            f"role {facts.info.get('role', 'unknown')}, {facts.number('connected_slaves')} replicas connected"
        ),
    }[name]
    worst = min(findings, key=lambda each: list(Severity).index(each.severity), default=None)
    if worst is None:
        return ok(name, tried, seen)
    make = {Severity.CRITICAL: error, Severity.WARNING: warning, Severity.NOTICE: ok}[worst.severity]
    return make(name, tried, seen, worst.cause)


async def check_clock(probe: Probe) -> CheckResult:
    """Compare the server's clock with this host's."""
    tried = "TIME, against this host's clock"
    before = time.time()
    reply = await probe.execute("TIME")
    after = time.time()
    if isinstance(reply, RedisError):
        return skipped("clock", tried, why_refused(reply, "TIME"))
    server = int(reply[0]) + int(reply[1]) / 1_000_000
    # The server read its clock between the two.
    difference = max(0.0, before - server, server - after)
    if difference <= _CLOCK_SECONDS:
        return ok("clock", tried, f"less than {_CLOCK_SECONDS:g} s apart")
    return warning(
        "clock",
        tried,
        f"the server's clock is {difference:.1f} s {'ahead' if server > after else 'behind'}",
        "Synchronise both hosts (timedatectl, chronyc). Leases use the server's clock and are not affected; "
        "times given to `start` and ages of entries are.",
    )
