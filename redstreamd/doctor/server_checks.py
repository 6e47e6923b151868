"""The server itself: what it can do, whether it keeps what it is given, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import trio
from redis.exceptions import RedisError

from redstreamd.doctor.probe import Probe, denied, words
from redstreamd.doctor.report import Check, error, ok, skipped, warning
from redstreamd.streams.diagnosis.findings import Finding, Severity
from redstreamd.streams.diagnosis.server_figures import ServerFacts, server_findings

# GETEX came with Redis 6.2, the oldest server that is supported, as did the options of XADD, XCLAIM and
# XPENDING that redstreamd uses; asking for a command is surer than comparing versions of two products.
_OLDEST: Final = "GETEX"
_NEWER: Final = ("FUNCTION", "WAITAOF", "XACKDEL", "XDELEX", "XNACK")

#: Seconds for the push that follows a change; it usually takes a fraction of a millisecond.
_PUSH_SECONDS: Final = 2.0

#: Seconds by which two clocks may differ before times read oddly.
_CLOCK_SECONDS: Final = 1.0

_FINDINGS: Final = {
    "persistence": ("save_failed", "aof_rewrite_failed", "no_persistence", "snapshots_only"),
    "memory": ("eviction", "eviction_of_expiring_keys", "memory_nearly_full"),
    "replication": ("read_only_replica", "no_replica", "replica_behind"),
}


async def check_version(probe: Probe) -> Check:
    """Ask which commands the server knows."""
    tried = "asking the server for its version and its commands (HELLO, COMMAND INFO)"
    reply = await probe.ask("COMMAND", "INFO", _OLDEST, *_NEWER)
    seen = probe.connection.server
    if isinstance(reply, RedisError):
        return ok("version", tried, f"{seen}; which commands it has could not be asked ({words(reply)})")
    # In RESP3, and from servers of different age: a list with nil, or a map without the name.
    known = [bool(each) for each in reply]
    if not known[0]:
        return error("version", tried, seen, "Use Redis 6.2 or later, or Valkey 7.2 or later.")
    newer = [name for name, there in zip(_NEWER, known[1:], strict=True) if there]
    return ok("version", tried, f"{seen}; newer commands: {', '.join(newer) or 'none'} (none is needed)")


async def check_tracking(probe: Probe) -> Check:
    """See a change of a key announced; the key is ours, and gone within ten seconds whatever happens."""
    key = probe.sample
    tried = f"CLIENT TRACKING ON, then SET and DEL of {key!r}, waiting for the push"
    todo = (
        "Allow +client|tracking, and connect to the server directly: proxies seldom pass pushes on. Without "
        "it redstreamd looks at each watched stream four times a second."
    )
    switched = await probe.ask("CLIENT", "TRACKING", "ON")
    if isinstance(switched, RedisError):
        return warning("tracking", tried, words(switched), todo)
    await probe.ask("EXISTS", key)
    started = trio.current_time()
    written = await probe.ask("SET", key, "1", "PX", 10_000)
    if isinstance(written, RedisError):
        return ok("tracking", tried, f"it can be switched on; no push was provoked ({words(written)})")
    with trio.move_on_after(_PUSH_SECONDS) as limit:
        await probe.pushed.wait()
    seconds = trio.current_time() - started
    await probe.ask_all([("DEL", key), ("CLIENT", "TRACKING", "OFF")])
    if limit.cancelled_caught:
        return warning("tracking", tried, f"no push within {_PUSH_SECONDS:g} s", todo)
    return ok("tracking", tried, f"the push came within {seconds * 1000:.1f} ms")


async def check_scripts(probe: Probe) -> Check:
    """Run a script that touches a key."""
    tried = "EVAL of a script that asks whether a key exists"
    reply = await probe.ask("EVAL", "return redis.call('EXISTS', KEYS[1])", 1, probe.sample)
    if reply == 0:
        return ok("scripts", tried, "it ran")
    todo = (
        "Leases and idempotency keys are scripts: allow the user +eval +evalsha and the keys of its streams."
    )
    return error("scripts", tried, words(reply), todo)


async def check_health(probe: Probe) -> list[Check]:
    """Judge persistence, memory and replication, by the rules of the tool stream_health."""
    tried = {name: f"INFO {name}" for name in _FINDINGS}
    info = await probe.info(*_FINDINGS)
    if not info:
        reason = "this user may not run INFO; allow +info"
        return [skipped(name, tried[name], reason) for name in _FINDINGS]
    config = await probe.ask("CONFIG", "GET", "save")
    save = config.get(b"save") if isinstance(config, dict) else None
    facts = ServerFacts(info, None if save is None else save.decode(), {})
    findings = list(server_findings(facts))
    return [
        _judged(name, tried[name], [each for each in findings if each.code in codes], facts)
        for name, codes in _FINDINGS.items()
    ]


def _judged(name: str, tried: str, findings: Iterable[Finding], facts: ServerFacts) -> Check:
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


async def check_clock(probe: Probe) -> Check:
    """Compare the server's clock with this host's."""
    tried = "TIME, against this host's clock"
    before = time.time()
    reply = await probe.ask("TIME")
    after = time.time()
    if isinstance(reply, RedisError):
        return skipped("clock", tried, "this user may not run TIME" if denied(reply) else words(reply))
    server = int(reply[0]) + int(reply[1]) / 1_000_000
    # It was read somewhere between the two.
    apart = max(0.0, before - server, server - after)
    if apart <= _CLOCK_SECONDS:
        return ok("clock", tried, f"less than {_CLOCK_SECONDS:g} s apart")
    return warning(
        "clock",
        tried,
        f"the server's clock is {apart:.1f} s {'ahead' if server > after else 'behind'}",
        "Synchronise both hosts (timedatectl, chronyc). Leases go by the server's clock and are not harmed; "
        "times given to `start` and ages of entries are.",
    )
