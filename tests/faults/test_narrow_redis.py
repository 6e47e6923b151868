"""A user of Redis who may not run everything, and a server that does not have every command.

The table is generated: every command that the daemon's scripts and its other parts send is taken away in
turn, and every tool is called. A call succeeds, or its error names the command and the line that grants it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import redstreamd.streams
from redstreamd.doctor.permission_checks import COMMAND_GROUPS, command_name
from redstreamd.redisio.script import Script
from redstreamd.redisio.target import Target
from redstreamd.streams.bus import Bus
from redstreamd.streams.group_records import _CREATE
from redstreamd.streams.takes import TAKE_WORK
from tests.faults.calling import bus_at
from tests.support.calls import ME, answer, call
from tests.support.servers import Server, cached_binary, redis_binary, running

STREAM, GROUP = "orders:new:stream", "workers"
PLACE = {"stream": STREAM, "group": GROUP}

#: What only helps: without these every call still does what it was called for.
HELPFUL = {
    "INFO",
    "CONFIG GET",
    "CLIENT TRACKING",
    "CLIENT",
    "ACL",
    "COMMAND",
    "MEMORY USAGE",
    # Without it a removed consumer's name stays its owner's.
    "HDEL",
    # Without it an entry that left its group with its consumer looks acknowledged.
    "XGROUP CREATECONSUMER",
}
#: What each login needs; a call says so as long as nobody is logged in. (No ACL can take HELLO away.)
LOGIN = {"HELLO", "PING"}


def scripts() -> list[Script]:
    found = []
    for module in pkgutil.walk_packages(redstreamd.streams.__path__, "redstreamd.streams."):
        members = vars(importlib.import_module(module.name)).values()
        found += [member for member in members if isinstance(member, Script)]
    return found


SENT_DIRECTLY = {
    "EVAL",
    "EVALSHA",
    "EXISTS",
    "TYPE",
    "XLEN",
    "XRANGE",
    "SCAN",
    "XPENDING",
    "XGROUP SETID",
    "XGROUP CREATE",
}
COMMANDS = sorted(
    {each for script in scripts() for each in script.commands} | SENT_DIRECTLY | HELPFUL | {"PING"}
)


ALL = ("reset", "on", "nopass", "~*", "&*", "+@all")


async def use(bus: Bus, server: Server) -> list[tuple[str, dict[str, Any]]]:
    """Call every tool in the ways that need different commands; return those that failed."""
    failed: list[tuple[str, dict[str, Any]]] = []

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        length = server.command("XLEN", STREAM)
        whole = await answer(bus, tool, ME, **arguments)
        content = whole["structuredContent"] or {}
        if whole["isError"]:
            # A refusal is not an entry that was added all the same.
            assert tool != "stream_add" or server.command("XLEN", STREAM) == length
            failed.append((tool, content))
            return {}
        return content

    async def take(**more: Any) -> dict[str, Any]:
        return await call("work_take", **PLACE, consumer="c", **more)

    await call("stream_add", stream=STREAM, entries=[{"n": 1}, {"n": 2}, {"n": 3}], idempotency_key="k")
    await call("group_create", **PLACE, start="earliest", max_deliveries=5)
    # For the calls that follow, if this user could not.
    server.command("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
    await call("stream_add", stream=STREAM, entries=[{"n": 4}], max_length=1)
    await call("stream_add", stream=STREAM, entries=[{"n": 5}], durability="fsynced")
    await call("stream_read", stream=STREAM)
    await call("stream_read", stream=STREAM, direction="backward")
    await call("stream_wait", streams=[STREAM], timeout_seconds=0)
    await call("stream_list")
    if lease := (await take(count=1, idempotency_key="t")).get("lease"):
        await call("work_extend", lease=lease, lease_seconds=30)
        await call("work_done", lease=lease)
    for action in ("retry", "dead_letter"):
        if lease := (await take(count=1)).get("lease"):
            await call("work_fail", lease=lease, action=action, reason="broken")
    limit = {"action": "set_max_deliveries", "max_deliveries": 5, "dry_run": False}
    await call("group_manage", **PLACE, **limit)
    await call("dead_letter_replay", **PLACE, action="list")
    await call("dead_letter_replay", **PLACE, action="replay", dry_run=False)
    await call("pending_list", **PLACE)
    await call("stream_health", stream=STREAM, detail="full")
    await call("request_reply", stream=STREAM, entry={"q": 1}, timeout_seconds=0)
    await call("group_manage", **PLACE, action="set_position", start="earliest", dry_run=False)
    if (await take(count=1)).get("lease"):
        going = {"action": "remove_consumer", "consumer": "c", "pending": "release", "dry_run": False}
        await call("group_manage", **PLACE, **going)
    await call("stream_manage", stream=STREAM, action="trim", max_length=2, force=True, dry_run=False)
    await call("group_manage", **PLACE, action="destroy", dry_run=False)
    await call("stream_manage", stream=STREAM, action="delete", force=True, dry_run=False)
    return failed


def rule(command: str) -> str:
    return command.lower().replace(" ", "|")


def names(error: dict[str, Any], command: str) -> bool:
    """Whether the error names the command and the line that grants it."""
    text = f"{error['message']} {error['cause']}"
    granted = re.search(r"ACL SETUSER narrow (.*)", error["next_step"])
    return (
        command in text.upper()
        and granted is not None
        and f"+{rule(command)}" in re.split(r"[ .]", granted[1])
    )


async def lacking(server: Server, command: str) -> list[tuple[str, dict[str, Any]]]:
    server.flush()
    # A script that the server knows needs no EVAL.
    server.command("SCRIPT", "FLUSH")
    assert server.command("ACL", "SETUSER", "narrow", *ALL, f"-{rule(command)}") == b"OK"
    async with bus_at(Target(path=server.path, username="narrow")) as bus:
        return await use(bus, server)


@pytest.mark.limit(300)
async def test_every_command_that_a_user_may_not_run_is_named_by_the_call_that_needs_it(
    redis: Server,
) -> None:
    try:
        for command in COMMANDS:
            failed = await lacking(redis, command)
            for tool, error in failed:
                assert names(error, command), (command, tool, error)
                expected = "CONNECTION_ERROR" if command in LOGIN else "PERMISSION_DENIED"
                assert error["code"] == expected, (command, tool, error)
            assert bool(failed) is (command not in HELPFUL), (command, failed)
    finally:
        redis.command("ACL", "DELUSER", "narrow")


@pytest.mark.parametrize("binary", ["valkey", "redis-6.2", "redis-8.10"])
async def test_each_servers_words_for_what_a_script_may_not_run_are_understood(
    binary: str, request: pytest.FixtureRequest
) -> None:
    commands = ["TIME", "XADD", "XPENDING", "ZADD", "EVAL", "PING"]
    if binary == "valkey":
        server = request.getfixturevalue("valkey_server")
        for command in commands:
            await understood(server, command)
        server.command("ACL", "DELUSER", "narrow")
        return
    script = {"redis-6.2": ".ci/redis62", "redis-8.10": ".ci/redis8"}[binary]
    with running(cached_binary(binary, script)) as server:
        for command in commands:
            await understood(server, command)


async def understood(server: Server, command: str) -> None:
    failed = await lacking(server, command)
    assert failed
    for tool, error in failed:
        assert names(error, command), (command, tool, error)


@pytest.mark.parametrize("command", ["EVAL", "TIME", "PING", "HELLO", "XADD", "XPENDING", "TYPE"])
async def test_a_command_that_the_server_does_not_have_is_named(command: str) -> None:
    with running(redis_binary(), "--rename-command", command, "") as server:
        async with bus_at(Target(path=server.path)) as bus:
            failed = await use(bus, server)
    assert failed
    for tool, error in failed:
        assert command in f"{error['message']} {error['cause']}".upper(), (tool, error)
        expected = "CONNECTION_ERROR" if command in LOGIN else "INTERNAL"
        assert error["code"] == expected, (tool, error)
        assert "rename-command" in error["next_step"] or command == "HELLO", (tool, error)


async def test_a_server_without_config_info_and_acl_serves_every_tool() -> None:
    words = [
        word
        for command in ("CONFIG", "INFO", "ACL", "CLIENT", "MEMORY", "COMMAND", "WAIT")
        for word in ("--rename-command", command, "")
    ]
    with running(redis_binary(), *words) as server:
        async with bus_at(Target(path=server.path)) as bus:
            assert await use(bus, server) == []
            await answer(bus, "stream_add", ME, stream=STREAM, entries=[{"n": 1}])
            health = (await answer(bus, "stream_health", ME, stream=STREAM, detail="full"))[
                "structuredContent"
            ]
    assert "INFO" in str(health["left_out"])


async def test_an_unconfirmed_entry_says_which_command_could_not_be_asked(redis: Server) -> None:
    assert redis.command("ACL", "SETUSER", "narrow", *ALL, "-wait", "-config") == b"OK"
    try:
        async with bus_at(Target(path=redis.path, username="narrow")) as bus:
            for durability, command in (("replicated", "WAIT"), ("fsynced", "CONFIG GET")):
                added = await call(
                    bus, "stream_add", stream=STREAM, entries=[{"n": 1}], durability=durability
                )
                assert not added["durability"]["confirmed"]
                assert f"ACL SETUSER narrow +{rule(command)}" in added["durability"]["reason"]
    finally:
        redis.command("ACL", "DELUSER", "narrow")


async def test_a_user_without_the_keys_is_told_the_pattern_that_grants_them(server: Server) -> None:
    server.command("ACL", "SETUSER", "narrow", "reset", "on", "nopass", "~other*", "&*", "+@all")
    try:
        async with bus_at(Target(path=server.path, username="narrow")) as bus:
            failed = await use(bus, server)
    finally:
        server.command("ACL", "DELUSER", "narrow")
    assert failed
    for tool, error in failed:
        assert error["code"] == "PERMISSION_DENIED", (tool, error)
        assert f"ACL SETUSER narrow ~{STREAM}*" in error["next_step"], (tool, error)


def test_doctor_asks_for_every_command_that_a_script_may_call() -> None:
    asked = {command_name(line) for area in COMMAND_GROUPS for line in area.commands}
    assert {each for script in scripts() for each in script.commands} <= asked
    # And every call in a script's text was found.
    folder = Path(redstreamd.streams.__file__).parent / "lua"
    for file in folder.glob("*.lua"):
        script = Script(file.read_text("utf-8"))
        for number, line in enumerate(script.source.split("\n"), 1):
            if re.search(r"redis\.p?call\(", line.partition("-- ")[0]):
                assert script.commands_at(number), f"{file.name}:{number}"


@pytest.mark.limit(120)
async def test_what_a_user_may_not_run_is_found_before_a_take_claims_or_creates_anything(
    redis: Server,
) -> None:
    calls = [
        ("work_take", {"group": group, "consumer": "c", "idempotency_key": "k", "max_deliveries": 20})
        for group in (GROUP, "new")
    ]
    calls.append(("group_create", {"group": "other", "max_deliveries": 7}))
    commands = {each for script in (TAKE_WORK, _CREATE) for each in script.commands}
    refused = set()
    try:
        # Who may not read for a group leaves an empty one with its limit.
        for command in sorted(commands - {"XREADGROUP"}):
            redis.flush()
            redis.command("XADD", STREAM, "*", "n", "1")
            redis.command("XGROUP", "CREATE", STREAM, GROUP, "0")
            assert redis.command("ACL", "SETUSER", "narrow", *ALL, f"-{rule(command)}") == b"OK"
            async with bus_at(Target(path=redis.path, username="narrow")) as bus:
                for tool, arguments in calls:
                    before = redis.command("XINFO", "GROUPS", STREAM)
                    if (await answer(bus, tool, ME, stream=STREAM, **arguments))["isError"]:
                        refused.add(command)
                        assert redis.command("XINFO", "GROUPS", STREAM) == before, (command, tool)
    finally:
        redis.command("ACL", "DELUSER", "narrow")
    assert {"HSET", "HEXISTS", "PEXPIRE", "PERSIST", "SET", "ZREM"} <= refused


async def test_a_limit_that_could_not_be_kept_is_not_set(redis: Server) -> None:
    redis.command("XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM")
    try:
        redis.command("ACL", "SETUSER", "narrow", *ALL, "-persist")
        limit = {"action": "set_max_deliveries", "max_deliveries": 3, "dry_run": False}
        async with bus_at(Target(path=redis.path, username="narrow")) as bus:
            refused = await answer(bus, "group_manage", ME, **PLACE, **limit)
            assert "+persist" in refused["structuredContent"]["next_step"]
            assert (await call(bus, "group_create", stream=STREAM, group=GROUP))["max_deliveries"] == 10
    finally:
        redis.command("ACL", "DELUSER", "narrow")
