"""Checks whether the user may run each command on each kind of key that redstreamd uses.

``ACL DRYRUN`` has no effect, but restricted users are seldom allowed to run it. Then each command is sent in
a form that has no effect on a key that does not exist; Redis checks permissions first.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
from redis.exceptions import RedisError

from redstreamd.doctor.probe import Probe, error_text, is_permission_error
from redstreamd.doctor.report import CheckResult, error, ok, warning
from redstreamd.redisio import Arg
from redstreamd.streams.names import Kind, companion_key

_CHECK: Final = "permissions"
_KEY, _COMPANION = "<stream>", "<companion>"

# Streams tried to find a prefix that the user may use.
_CANDIDATES: Final = 20


@attrs.frozen
class _CommandGroup:
    """Commands for one purpose, and whether the daemon needs them."""

    purpose: str
    essential: bool
    commands: tuple[str, ...]


# None has an effect on a key that does not exist: the reply is 0, nil, or an error.
COMMAND_GROUPS: Final = (
    _CommandGroup(
        "read and wait",
        True,
        (
            "EXISTS <stream>",
            "TYPE <stream>",
            "XLEN <stream>",
            "XRANGE <stream> - + COUNT 1",
            "XREVRANGE <stream> + - COUNT 1",
            "XINFO STREAM <stream>",
            "XINFO GROUPS <stream>",
            "SCAN 0 COUNT 1",
            "TIME",
            "EVAL return(0) 1 <stream>",
            f"EVALSHA {'0' * 40} 1 <stream>",
        ),
    ),
    _CommandGroup(
        "add",
        True,
        (
            "XADD <stream> NOMKSTREAM * f v",
            "GET <companion>",
            "SET <companion> v XX PX 1000",
            "PEXPIRE <companion> 1000",
        ),
    ),
    _CommandGroup(
        "take and finish work",
        True,
        (
            "XGROUP CREATE <stream> g $",
            "XREADGROUP GROUP g c COUNT 1 STREAMS <stream> >",
            "XPENDING <stream> g",
            "XCLAIM <stream> g c 0 0-1",
            "XACK <stream> g 0-1",
            "HGET <companion> f",
            "HSET <companion> f v g",  # a value is missing, which is checked after the permission
            "ZADD <companion> XX 0 m",
            "ZREM <companion> m",
            "HEXISTS <companion> f",
            "PERSIST <companion>",
            "ZMSCORE <companion> m",
            "ZCARD <companion>",
            "ZRANGEBYSCORE <companion> 0 1",
            "ZRANGEBYLEX <companion> - + LIMIT 0 1",
            "ZREMRANGEBYLEX <companion> [0 (0",
        ),
    ),
    _CommandGroup(
        "diagnose",
        False,
        (
            "XINFO CONSUMERS <stream> g",
            "XGROUP CREATECONSUMER <stream> g c",
            "MEMORY USAGE <stream>",
            "INFO server",
            "CONFIG GET save",
        ),
    ),
    _CommandGroup(
        "administer (profile operator)",
        False,
        (
            "XTRIM <stream> MAXLEN 0",
            "XDEL <stream> 0-1",
            "DEL <stream>",
            "UNLINK <stream>",
            "XGROUP SETID <stream> g $",
            "XGROUP DELCONSUMER <stream> g c",
            "HDEL <companion> f",
            "XGROUP DESTROY <stream> g",
        ),
    ),
)

_TWO_WORDS: Final = frozenset({"XINFO", "XGROUP", "MEMORY", "CONFIG"})


async def check_permissions(probe: Probe) -> CheckResult:
    """Check every command. The result names those that are not allowed, and the rules that grant them."""
    user = await _user(probe)
    await _choose_sample(probe, user)
    dry = user is not None and not isinstance(await probe.execute("ACL", "DRYRUN", user, "TIME"), RedisError)
    lines = [line for group in COMMAND_GROUPS for line in group.commands]
    requests: list[tuple[Arg, ...]] = [_command(line, probe.sample_key) for line in lines]
    if dry:
        requests = [("ACL", "DRYRUN", user or "", *request) for request in requests]
    missing = {
        line: reason
        for line, reply in zip(lines, await probe.execute_all(requests), strict=True)
        if (reason := _refusal(reply, dry=dry)) is not None
    }
    how = "ACL DRYRUN" if dry else "commands without effect"
    tried = f"{len(lines)} commands on {probe.sample_key!r} and a key beside it, by {how}"
    name = user or probe.target.username or "default"
    if not missing:
        return ok(_CHECK, tried, f"user {name!r} may run all of them")
    return _not_allowed(tried, name, missing)


def _not_allowed(tried: str, user: str, missing: dict[str, str]) -> CheckResult:
    keys = [line for line, reason in missing.items() if "key" in reason]
    incomplete = [group for group in COMMAND_GROUPS if set(group.commands) & set(missing)]
    purposes = [group.purpose for group in incomplete]
    essential = any(group.essential for group in incomplete)
    rules = [f"+{command_name(line).lower().replace(' ', '|')}" for line in missing if line not in keys]
    if keys:
        rules.append("~<prefix of your streams>*")
    seen = (
        f"user {user!r} may not {', '.join(purposes)}: "
        + ", ".join(f"{command_name(line)}{' (key)' if line in keys else ''}" for line in missing)
        + f"; Redis says: {next(iter(missing.values()))}"
    )
    todo = "Grant it: " + f"ACL SETUSER {user} {' '.join(dict.fromkeys(rules))}"
    if keys:
        todo += (
            f" (which also covers the keys beside a stream, {companion_key('<stream>', Kind.DUE, '<group>')})"
        )
    return (error if essential else warning)(_CHECK, tried, seen, todo + ".")


def _refusal(reply: Any, *, dry: bool) -> str | None:
    if is_permission_error(reply):
        return error_text(reply)
    # ACL DRYRUN replies with the error as a text.
    if dry and isinstance(reply, bytes) and reply != b"OK":
        return reply.decode("utf-8", "backslashreplace")
    return None


def _command(line: str, stream: str) -> tuple[str, ...]:
    names = {_KEY: stream, _COMPANION: companion_key(stream, Kind.DUE, "doctor")}
    return tuple(names.get(word, word) for word in line.split())


def command_name(line: str) -> str:
    first, _, rest = line.partition(" ")
    return f"{first} {rest.split()[0]}" if first in _TWO_WORDS else first


async def _user(probe: Probe) -> str | None:
    reply = await probe.execute("ACL", "WHOAMI")
    return reply.decode("utf-8", "backslashreplace") if isinstance(reply, bytes) else None


async def _choose_sample(probe: Probe, user: str | None) -> None:
    """Choose a name that the user's key patterns cover, if they do not cover every name."""
    prefix = None if user is None else _prefix(await probe.execute("ACL", "GETUSER", user))
    if prefix is None and is_permission_error(await probe.execute("XLEN", probe.sample_key)):
        prefix = await _prefix_of_a_stream(probe)
    if prefix is not None:
        probe.prefix_sample(prefix)


def _prefix(user: Any) -> str | None:
    """Return the fixed part of a key pattern such as ``~agents:*``; None if there is none."""
    keys = user.get(b"keys") if isinstance(user, dict) else None
    if isinstance(keys, bytes):
        keys = keys.split()
    for pattern in keys or ():
        text = pattern.decode("utf-8", "backslashreplace").rpartition("~")[2]
        if text.endswith("*") and not set(text[:-1]) & set("*?[]\\"):
            return text[:-1]
    return None


async def _prefix_of_a_stream(probe: Probe) -> str | None:
    page = await probe.execute("SCAN", 0, "TYPE", "stream", "COUNT", 1000)
    if isinstance(page, RedisError):
        return None
    names = [name for name in page[1][:_CANDIDATES] if isinstance(name, bytes)]
    lengths = await probe.execute_all([("XLEN", name) for name in names])
    for name, length in zip(names, lengths, strict=True):
        # A redirection comes after the check of the permission.
        if not is_permission_error(length):
            return f"{name.decode('utf-8', 'backslashreplace')}:"
    return None
