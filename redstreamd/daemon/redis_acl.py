"""The user of Redis that fits the settings: what the offered tools need, on the keys that the rules grant.

A second fence, which holds if the first one has a gap. Redis cannot tell principals apart, because they share
the daemon's connections; so the user may do what all of them together may do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from redstreamd.daemon.policy_settings import offered, policy_of
from redstreamd.errors.remedies import setting
from redstreamd.policy import Permission
from redstreamd.settings import Settings

#: For each connection and for the health of the server. CONFIG GET is left out, because it shows passwords.
_ALWAYS: Final = frozenset({"PING", "SELECT", "CLIENT TRACKING", "EVAL", "EVALSHA", "SCAN", "INFO", "TIME"})
#: What the parts behind the tools send, and their scripts. A test compares it with what the scripts contain
#: and with what a server sees while every tool is called. Reading writes to the keys beside a stream when the
#: server's clock was set.
_COMMANDS: Final[dict[Permission, frozenset[str]]] = {
    Permission.READ: frozenset(
        {"EXISTS", "HEXISTS", "HGET", "HSET", "MEMORY USAGE", "PERSIST", "PEXPIRE", "TYPE", "XINFO CONSUMERS"}
        | {
            "XINFO GROUPS",
            "XINFO STREAM",
            "XLEN",
            "XPENDING",
            "XRANGE",
            "XREVRANGE",
            "ZADD",
            "ZMSCORE",
            "ZREM",
        }
    ),
    Permission.PUBLISH: frozenset(
        {"EXISTS", "GET", "MEMORY USAGE", "PEXPIRE", "SET", "TYPE", "WAIT", "WAITAOF", "XADD", "XDEL"}
        | {"XINFO GROUPS", "XINFO STREAM", "XLEN", "XPENDING", "XRANGE", "XREVRANGE", "XTRIM"}
    ),
    Permission.CONSUME: frozenset(
        {"EXISTS", "GET", "HEXISTS", "HGET", "HSET", "PERSIST", "PEXPIRE", "SET", "TYPE", "XACK", "XADD"}
        | {"XCLAIM", "XDEL", "XGROUP CREATE", "XGROUP CREATECONSUMER", "XGROUP DELCONSUMER", "XGROUP SETID"}
        | {"XINFO GROUPS", "XINFO STREAM", "XLEN", "XPENDING", "XRANGE", "XREADGROUP", "XTRIM", "ZADD"}
        | {"ZMSCORE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZREM", "ZREMRANGEBYLEX"}
    ),
    Permission.MANAGE: frozenset(
        {"EXISTS", "GET", "HDEL", "HEXISTS", "HGET", "HSET", "MEMORY USAGE", "PERSIST", "PEXPIRE", "SET"}
        | {"TYPE", "UNLINK", "XADD", "XCLAIM", "XDEL", "XGROUP DELCONSUMER", "XGROUP DESTROY", "XGROUP SETID"}
        | {"XINFO CONSUMERS", "XINFO GROUPS", "XINFO STREAM", "XLEN", "XPENDING", "XRANGE", "XTRIM", "ZADD"}
        | {"ZMSCORE", "ZRANGEBYLEX", "ZREM", "ZREMRANGEBYLEX"}
    ),
}
#: What the topology needs besides, at every server.
_OF_TOPOLOGY: Final[dict[str, frozenset[str]]] = {
    "standalone": frozenset(),
    "sentinel": frozenset({"ROLE"}),
    "cluster": frozenset({"ASKING", "CLUSTER INFO", "CLUSTER MYID", "CLUSTER SLOTS"}),
}
#: What sentinels are asked. A user without the channel learns of a failover a little later.
_AT_SENTINELS: Final = frozenset(
    {"PING", "SENTINEL GET-MASTER-ADDR-BY-NAME", "SENTINEL MASTER", "SENTINEL MYID", "SENTINEL SENTINELS"}
    | {"SUBSCRIBE"}
)
#: Servers do not tell each other their users.
_WHERE: Final[dict[str, tuple[str, ...]]] = {
    "standalone": (),
    "sentinel": ("# At the primary and at each replica, which keep their users apart.",),
    "cluster": ("# At every node of the cluster, replicas included, which keep their users apart.",),
}
#: Commands that the oldest served version of Redis does not have, and refuses to hear of.
_LATER: Final = {"WAITAOF": "7.2"}


def redis_acl(settings: Settings, user: str) -> list[str]:
    """Return the lines that give a user of Redis what the settings need, and nothing else.

    Its passwords and whether it is on stay as they are. What is a comment begins with ``#``.
    """
    rules, policy = settings.policy.rules, policy_of(settings)
    wanted = {tool.permission for tool in offered(settings)}
    if policy.read_only:
        wanted &= {Permission.READ}
    if rules:
        wanted &= {permission for rule in rules for permission in rule.permissions}
        patterns = {stream for rule in rules if wanted & set(rule.permissions) for stream in rule.streams}
    else:
        patterns = {"*"}
    topology = settings.redis.topology
    commands = _ALWAYS.union(_OF_TOPOLOGY[topology], *(_COMMANDS[permission] for permission in wanted))
    keys = [key for pattern in sorted(patterns) for key in _keys(pattern)]
    parts = ["resetkeys", "resetchannels", "-@all", *_unique(keys), *_grants(commands - _LATER.keys())]
    lines = [*_WHERE[topology]]
    lines += [
        f"# For {', '.join(sorted(wanted)) or 'nothing'}. The user's password:",
        f"#   ACL SETUSER {user} on '>...'",
        f"ACL SETUSER {user} {' '.join(parts)}",
    ]
    if Permission.READ in wanted:
        lines += [
            "# With this, stream_health also tells how Redis saves its data; but it shows passwords, too:",
            f"#   ACL SETUSER {user} +config|get",
        ]
    for command, version in _LATER.items():
        if command in commands:
            lines += [f"# From {version} on:", f"ACL SETUSER {user} {_grants([command])[0]}"]
    if topology == "sentinel":
        lines += _at_sentinels(settings.redis.sentinel_username or user)
    return lines


def _at_sentinels(user: str) -> list[str]:
    grants = " ".join(_grants(_AT_SENTINELS))
    login = setting("redis.sentinel_username")
    return [
        f"# At each sentinel that asks for a login ({login}), not at the servers:",
        f"#   ACL SETUSER {user} resetkeys resetchannels -@all &+switch-master {grants}",
    ]


def _keys(pattern: str) -> list[str]:
    """Return the patterns of Redis for the streams that a pattern matches, and for the keys beside them."""
    glob = "".join(f"\\{letter}" if letter in "\\?[]" else letter for letter in pattern)
    keys = [f"~{glob}"] if pattern.endswith("*") else [f"~{glob}", f"~{glob}:rs:*"]
    return [f'"{_in_quotes(key)}"' if set(key) & set(" \\\"'") else key for key in keys]


def _in_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _grants(commands: Iterable[str]) -> list[str]:
    return [f"+{command.lower().replace(' ', '|')}" for command in sorted(commands)]


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
