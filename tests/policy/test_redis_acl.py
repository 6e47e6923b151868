"""The user of Redis that `redstreamd policy redis-acl` prints, on real servers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
import msgspec
import pytest
import trio

from redstreamd.daemon.redis_acl import _ALWAYS, _AT_SENTINELS, _COMMANDS, _OF_TOPOLOGY, redis_acl
from redstreamd.errors import Code
from redstreamd.policy import Permission, Rule
from redstreamd.redisio.client import Redis
from redstreamd.redisio.slot_map import QUESTIONS
from redstreamd.redisio.target import Deployment, Target
from redstreamd.redisio.topologies import topology_for
from redstreamd.settings import PolicySettings, RedisSettings, Settings, ToolsSettings
from redstreamd.streams.bus import Bus
from redstreamd.tools.catalog import REGISTRY
from tests.faults.calling import bus_at
from tests.faults.test_narrow_redis import scripts
from tests.support.buses import KEY, running_bus
from tests.support.calls import ME, answer
from tests.support.redis_cluster import running_cluster
from tests.support.sentinels import NAME, running_sentinels
from tests.support.servers import Server
from tests.support.waiting import until
from tests.tools.test_annotations import CASES, made

#: All streams that the cases name; the keys beside them follow.
STREAMS = "s log solo asked answers new absent a:b:*"


def settings(*rules: str, read_only: bool = False, topology: Any = "standalone") -> Settings:
    return Settings(
        redis=RedisSettings(topology=topology),
        tools=ToolsSettings(profile=("operator", "red-stream")),
        policy=PolicySettings(rules=tuple(map(Rule.parse, rules)), read_only=read_only),
    )


def make_user(server: Server, chosen: Settings) -> None:
    server.command("ACL", "SETUSER", "fenced", "reset", "on", "nopass")
    for line in redis_acl(chosen, "fenced"):
        if line.startswith("ACL"):
            # Quoted as redis-cli reads it, which is JSON's way here.
            words = [json.loads(word) if word.startswith('"') else word for word in line.split()]
            reply = server.command(*words)
            # Before 7.2 there is no such command.
            assert reply == b"OK" or "waitaof" in line, (line, reply)


@pytest.mark.parametrize("where", ["redis_server", "valkey_server", "redis62_server"])
@pytest.mark.limit(120)
async def test_every_tool_works_with_the_user_that_is_made_for_its_permission(
    request: pytest.FixtureRequest, where: str
) -> None:
    server: Server = request.getfixturevalue(where)
    ran = set()
    async with running_bus(server) as full:
        for permission in Permission:
            make_user(server, settings(f"* may {permission} on {STREAMS}"))
            async with bus_at(Target(path=server.path, username="fenced")) as fenced:
                for tool in REGISTRY:
                    if tool.permission is permission:
                        ran.add(tool.name)
                        await _try_cases(full, fenced, server, tool.name)
    server.command("ACL", "DELUSER", "fenced")
    assert ran == {tool.name for tool in REGISTRY}


async def _try_cases(full: Bus, fenced: Bus, server: Server, tool: str) -> None:
    for case in CASES[tool]:
        world = await made(full, server)
        # A script that the server knows needs no EVAL.
        server.command("SCRIPT", "FLUSH")
        if case.before is not None:
            case.before(server)
        whole = await answer(fenced, tool, ME, **case.arguments(world))
        # CONFIG GET is not granted, because it shows passwords: the answer says what it leaves out.
        content = whole.get("structuredContent", {})
        assert set(content.pop("left_out", {})) <= {"CONFIG GET save"}, content
        text = json.dumps(content or whole)
        assert Code.PERMISSION_DENIED not in text, (tool, text)
        assert "NOPERM" not in text, (tool, text)
        assert "may not" not in text, (tool, text)


def test_everything_else_is_refused_to_the_user(server: Server) -> None:
    """ACL DRYRUN is from 7.0 on."""
    for rules, permissions in (
        ((f"* may read on {STREAMS}",), {Permission.READ}),
        ((f"* may read publish on {STREAMS}",), {Permission.READ, Permission.PUBLISH}),
        ((f"* may read publish consume manage on {STREAMS}",), set(Permission)),
    ):
        make_user(server, settings(*rules))
        allowed = _ALWAYS.union(*(_COMMANDS[each] for each in permissions))
        for name, arity in _commands(server):
            if name.upper() in allowed or name.upper() in ("AUTH", "HELLO", "QUIT", "RESET"):
                continue
            words = [*name.split(), *["s"] * (abs(arity) - len(name.split()))]
            reply = server.command("ACL", "DRYRUN", "fenced", *words)
            assert reply != b"OK", (name, reply)
            assert "no permissions to run" in str(reply), (name, reply)
        for key in ("other", "sx", "a:b", "s:rs", "x:a:b:c"):
            reply = server.command("ACL", "DRYRUN", "fenced", "XLEN", key)
            assert "no permissions to access" in str(reply), (key, reply)
        for key in ("s", "s:rs:due:g:{s}", "a:b:c", "a:b:c:rs:dead:g:{a:b:c}"):
            assert server.command("ACL", "DRYRUN", "fenced", "XLEN", key) == b"OK"
    server.command("ACL", "DELUSER", "fenced")


def _commands(server: Server) -> Iterable[tuple[str, int]]:
    for entry in server.command("COMMAND"):
        name, arity, *rest = entry
        subcommands = rest[-1] if isinstance(rest[-1], list) else []
        if not subcommands:
            yield name.decode(), arity
        for sub in subcommands:
            yield sub[0].decode().replace("|", " "), sub[1]


@pytest.mark.parametrize("topology", ["sentinel", "cluster"])
def test_the_user_of_a_topology_may_ask_what_the_topology_needs(server: Server, topology: Any) -> None:
    make_user(server, Settings(redis=RedisSettings(topology=topology)))
    for command in _OF_TOPOLOGY[topology]:
        assert server.command("ACL", "DRYRUN", "fenced", *command.split()) == b"OK", command
    make_user(server, Settings())
    for command in _OF_TOPOLOGY[topology]:
        assert server.command("ACL", "DRYRUN", "fenced", *command.split()) != b"OK", command
    server.command("ACL", "DELUSER", "fenced")


@pytest.mark.limit(60)
async def test_the_user_of_a_cluster_is_served_by_every_node() -> None:
    with running_cluster(node_timeout_ms=60_000) as cluster:
        chosen = settings("* may read publish consume on *", topology="cluster")
        for node in cluster.nodes:
            make_user(node, chosen)
        await _use(cluster.deployment(username="fenced"), chosen, cluster.keys_on_each("a:b:"))


@pytest.mark.limit(60)
async def test_the_users_of_servers_and_of_sentinels_are_enough_for_a_failover() -> None:
    with running_sentinels(replicas=1, sentinels=1, sentinel_password="default") as sentinels:
        chosen = settings("* may read publish consume on *", topology="sentinel")
        for server in sentinels.servers:
            make_user(server, chosen)
        (sentinel,) = sentinels.sentinels
        (line,) = [line for line in redis_acl(chosen, "fenced") if "SENTINEL" in line.upper() and "|" in line]
        sentinel.command("ACL", "SETUSER", "fenced", "reset", "on", ">secret")
        assert sentinel.command(*line.removeprefix("#").split()) == b"OK"
        watching = Target(username="fenced", password="secret")
        deployment = msgspec.structs.replace(sentinels.deployment(username="fenced"), sentinel=watching)
        await _use(deployment, chosen, ["a:b:c"], sentinels.failover)


async def _use(
    deployment: Deployment,
    chosen: Settings,
    streams: list[str],
    fail_over: Callable[[], Server] | None = None,
) -> None:
    """Run the domain there, and call some tools; once more on the new primary after a failover."""
    topology = topology_for(deployment)
    bus = Bus.over(Redis(topology), chosen, KEY)
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(bus.hub.run)
        for number in range(1 if fail_over is None else 2):
            if number and fail_over is not None:
                port = (await trio.to_thread.run_sync(fail_over)).port
                await until(lambda: topology.nodes()[0].label.endswith(f":{port}"))  # noqa: B023
            for stream in streams:
                for tool, arguments in (
                    ("stream_add", {"entries": [{"f": "v"}], "idempotency_key": f"k{number}"}),
                    ("group_create", {"group": f"g{number}", "start": "0-0"}),
                    ("work_take", {"group": f"g{number}", "consumer": "c"}),
                    ("stream_health", {}),
                ):
                    told = await answer(bus, tool, ME, stream=stream, **arguments)
                    assert not told["isError"], (tool, told)
                waited = await answer(
                    bus, "stream_wait", ME, streams=[stream], cursor="0-0", timeout_seconds=20
                )
                assert len(waited["structuredContent"]["entries"]) == number + 1, waited
        await until(lambda: topology.status().problems == ())
        nursery.cancel_scope.cancel()


def test_what_a_cluster_is_asked_is_granted() -> None:
    assert {" ".join(question) for question in QUESTIONS} <= _OF_TOPOLOGY["cluster"]


@pytest.mark.limit(60)
def test_the_user_at_a_sentinel_may_ask_for_the_primary_and_nothing_else() -> None:
    redis = RedisSettings(topology="sentinel", sentinel_username="watcher")
    (line,) = [line for line in redis_acl(Settings(redis=redis), "bus") if "SETUSER watcher" in line]
    with running_sentinels(replicas=1, sentinels=1, down_after_ms=60_000) as sentinels:
        (sentinel,) = sentinels.sentinels
        assert sentinel.command("ACL", "SETUSER", "watcher", "reset", "on", ">secret") == b"OK"
        assert sentinel.command(*line.removeprefix("#").split()) == b"OK"
        asked = [command.split() for command in sorted(_AT_SENTINELS)]
        named = ("MASTER", "GET-MASTER-ADDR-BY-NAME", "SENTINELS")
        questions = [[*words, NAME] if words[-1] in named else words for words in asked]
        questions[questions.index(["SUBSCRIBE"])] = ["SUBSCRIBE", "+switch-master"]
        login = ("HELLO", "3", "AUTH", "watcher", "secret", "SETNAME", "redstreamd:sentinel")
        for question in questions:
            _, reply = sentinel.commands(login, question)
            assert not isinstance(reply, hiredis.ReplyError), (question, reply)
        for refused in (["SENTINEL", "FAILOVER", NAME], ["SUBSCRIBE", "+sdown"], ["INFO"]):
            _, reply = sentinel.commands(login, refused)
            assert "NOPERM" in str(reply), (refused, reply)


def test_the_commands_are_those_of_the_scripts() -> None:
    granted = _ALWAYS.union(*_COMMANDS.values())
    assert {command for script in scripts() for command in script.commands} <= granted


def test_read_only_and_the_profile_bound_what_is_granted() -> None:
    def granted(chosen: Settings) -> set[str]:
        (line, *_) = [line for line in redis_acl(chosen, "u") if line.startswith("ACL")]
        return {word[1:] for word in shlex.split(line) if word.startswith("+")}

    everything = granted(settings())
    assert {"xadd", "xgroup|destroy", "unlink"} <= everything
    assert not {"xadd", "xtrim", "xack", "unlink", "xdel"} & granted(settings(read_only=True))
    assert granted(settings("a may read on *")) == granted(settings(read_only=True))
    assert "xgroup|destroy" not in granted(Settings())
    (line,) = [
        line for line in redis_acl(settings("a may read on x[y]?z a*c"), "u") if line.startswith("ACL")
    ]
    keys = [json.loads(word) if word[0] == '"' else word for word in line.split() if "~" in word]
    assert keys == ["~a*c", "~a*c:rs:*", "~x\\[y\\]\\?z", "~x\\[y\\]\\?z:rs:*"]
