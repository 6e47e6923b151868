"""What is asked of the server once the login is accepted."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from importlib import resources

import attrs
import pytest
import trio

from redstreamd.doctor import Severity
from redstreamd.doctor.permission_checks import COMMAND_GROUPS, check_permissions, command_name
from redstreamd.doctor.probe import Probe
from redstreamd.doctor.server_checks import check_clock
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.target import Target
from redstreamd.streams.names import Kind, companion_key
from tests.doctor.conftest import Examine
from tests.redisio.running import running_connection, through
from tests.support.proxy import proxy_to
from tests.support.servers import Server, start_redis
from tests.support.waiting import until

COMMANDS = [line for area in COMMAND_GROUPS for line in area.commands]
#: What a user needs in addition to commands on streams.
EXTRA = ("+hello", "+ping", "+auth", "+client|setname", "+client|tracking", "+select")


@pytest.fixture(autouse=True)
def clean_users(server: Server) -> Iterator[None]:
    """Users made by a test are gone after it."""
    yield
    server.command("ACL", "DELUSER", "agent")


def user(server: Server, *rules: str) -> dict[str, str]:
    """Make a user and return the settings that log in as it."""
    assert server.command("ACL", "SETUSER", "agent", "reset", "on", ">secret", *rules) == b"OK"
    return {"path": server.path, "username": "agent", "password": "secret"}


def wanted() -> tuple[str, ...]:
    names = {
        "|".join(line.split()[:2])
        if line.split()[0] in ("XINFO", "XGROUP", "MEMORY", "CONFIG")
        else line.split()[0]
        for line in COMMANDS
    }
    return tuple(f"+{name.lower()}" for name in sorted(names))


async def test_a_user_with_exactly_the_commands_in_the_list_may_do_everything(
    report: Examine, server: Server
) -> None:
    """And so the list is complete enough for the checks that follow, and no longer than it must be."""
    settings = user(server, "~agents:*", *EXTRA, *wanted(), "+acl|whoami", "+acl|getuser")
    found = await report(**settings)
    assert found["permissions"].severity is Severity.OK
    assert "'agents:redstreamd:doctor:" in found["permissions"].tried
    assert "by commands without effect" in found["permissions"].tried
    assert found["tracking"].severity is found["scripts"].severity is Severity.OK


async def test_a_user_who_may_not_ask_for_its_name_is_called_by_that_of_the_login(
    report: Examine, redis: Server
) -> None:
    found = await report(**user(redis, "~*", *EXTRA, *wanted()))
    assert found["permissions"].seen == "user 'agent' may run all of them"


@pytest.mark.parametrize("may_ask", [True, False])
@pytest.mark.parametrize(
    ("command", "severity"),
    [
        ("xadd", Severity.ERROR),
        ("xreadgroup", Severity.ERROR),
        ("eval", Severity.ERROR),
        ("zadd", Severity.ERROR),
        ("xinfo|groups", Severity.ERROR),
        ("config|get", Severity.WARNING),
        ("xtrim", Severity.WARNING),
    ],
)
async def test_a_command_that_is_missing_is_named_with_the_rule_that_grants_it(
    report: Examine, server: Server, command: str, severity: Severity, may_ask: bool
) -> None:
    asking = ("+acl",) if may_ask else ("-acl",)
    settings = user(server, "~*", "+@all", *asking, f"-{command}")
    permissions = (await report(**settings))["permissions"]
    assert ("ACL DRYRUN" in permissions.tried) is may_ask
    assert permissions.severity is severity
    assert f"{command.upper().replace('|', ' ')}" in permissions.seen
    assert f"ACL SETUSER agent +{command}." in permissions.todo


async def test_the_rule_that_doctor_gives_makes_it_content(report: Examine, redis: Server) -> None:
    settings = user(redis, "~agents:*", *EXTRA)
    before = (await report(**settings))["permissions"]
    assert before.severity is Severity.ERROR
    rules = before.todo.partition("ACL SETUSER agent ")[2].split(" (")[0].rstrip(".").split()
    granted = [rule for rule in rules if rule.startswith("+")]
    assert redis.command("ACL", "SETUSER", "agent", *granted, "+acl|getuser", "+acl|whoami") == b"OK"
    assert (await report(**settings))["permissions"].severity is Severity.OK


async def test_a_key_pattern_that_misses_the_keys_beside_a_stream_is_found(
    report: Examine, redis: Server
) -> None:
    redis.command("XADD", "jobs", "*", "f", "v")
    settings = user(redis, "~jobs", "+@all", "-acl")
    permissions = (await report(**settings))["permissions"]
    assert permissions.severity is Severity.ERROR
    assert "ZADD (key)" in permissions.seen
    assert "~<prefix of your streams>*" in permissions.todo


async def test_without_acl_commands_a_name_is_taken_from_a_stream_that_may_be_read(
    report: Examine, redis: Server
) -> None:
    redis.command("XADD", "others", "*", "f", "v")
    redis.command("XADD", "agents:a:b", "*", "f", "v")
    settings = user(redis, "~agents:*", "+@all", "-acl")
    permissions = (await report(**settings))["permissions"]
    assert permissions.severity is Severity.OK
    assert "agents:a:b:redstreamd:doctor" in permissions.tried


async def test_trying_the_commands_changes_nothing(redis: Server) -> None:
    """Even where keys of nearly those names exist, and each command is really sent."""
    target = Target(
        path=redis.path,
        **{key: value for key, value in user(redis, "~*", "+@all", "-acl").items() if key != "path"},
    )
    connection = Connection(target, role="test")
    redis.command("XADD", "redstreamd:doctor", "*", "f", "v")
    redis.command("CONFIG", "RESETSTAT")
    before = redis.commands(("DEBUG", "DIGEST"), ("DBSIZE",))
    async with running_connection(connection):
        probe = Probe(connection, target, trio.Event())
        assert (await check_permissions(probe)).severity is Severity.OK
        assert redis.commands(("DEBUG", "DIGEST"), ("DBSIZE",)) == before
        due = companion_key(probe.sample_key, Kind.DUE, "doctor")
        assert redis.command("EXISTS", probe.sample_key, due) == 0
    # They did arrive.
    assert b"cmdstat_xtrim:calls=1" in redis.command("INFO", "commandstats")


async def test_tracking_that_is_refused_is_a_warning_that_says_what_follows(
    report: Examine, server: Server
) -> None:
    tracking = (await report(**user(server, "~*", "+@all", "-client|tracking")))["tracking"]
    assert tracking.severity is Severity.WARNING
    assert "+client|tracking" in tracking.todo
    assert "four times a second" in tracking.todo


async def test_scripts_that_are_refused_are_an_error(report: Examine, server: Server) -> None:
    scripts = (await report(**user(server, "~*", "+@all", "-eval")))["scripts"]
    assert scripts.severity is Severity.ERROR
    assert "+eval +evalsha" in scripts.todo


async def test_what_a_user_may_not_ask_is_skipped_with_the_reason(report: Examine, server: Server) -> None:
    found = await report(**user(server, "~*", "+@all", "-info", "-time", "-scan", "-command"))
    for name, word in (("persistence", "INFO"), ("memory", "INFO"), ("clock", "TIME"), ("streams", "SCAN")):
        assert found[name].severity is Severity.SKIPPED
        assert word in found[name].seen
    assert "could not be asked" in found["version"].seen


async def test_persistence_and_memory_are_judged(report: Examine) -> None:
    with start_redis("--appendonly", "yes", "--maxmemory", "100mb") as server:
        good = await report(path=server.path)
        server.command("CONFIG", "SET", "appendonly", "no")
        server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        bad = await report(path=server.path)
        server.command("CONFIG", "SET", "save", "3600 1")
        snapshots = await report(path=server.path)
    assert good["persistence"].severity is good["memory"].severity is Severity.OK
    assert "append-only file on" in good["persistence"].seen
    assert bad["persistence"].severity is bad["memory"].severity is Severity.WARNING
    assert "appendonly yes" in bad["persistence"].todo
    assert "noeviction" in bad["memory"].todo
    assert snapshots["persistence"].severity is Severity.OK
    assert "3600 1" in snapshots["persistence"].seen


async def test_with_an_append_only_file_a_failed_snapshot_is_no_error_and_a_failed_rewrite_is_told(
    report: Examine,
) -> None:
    options = ("--appendonly", "yes", "--save", "", "--dbfilename", "d.rdb")
    with start_redis(*options) as server:

        def persistence(field: str) -> bytes:
            lines = server.command("INFO", "persistence").splitlines()
            return next(line.partition(b":")[2] for line in lines if line.startswith(field.encode()))

        # A directory of that name: the dump cannot be written.
        (server.directory / "d.rdb").mkdir()
        server.command("BGSAVE")
        await until(lambda: persistence("rdb_last_bgsave_status") == b"err")
        snapshot = (await report(path=server.path))["persistence"]
        # A rewrite that takes long enough to be killed.
        server.commands(("SET", "key", "value"), ("CONFIG", "SET", "rdb-key-save-delay", 20_000_000))
        server.command("BGREWRITEAOF")
        await until(lambda: persistence("aof_rewrite_in_progress") == b"1")
        parent = int(server.command("INFO", "server").partition(b"process_id:")[2].split()[0])
        children = trio.Path(f"/proc/{parent}/task/{parent}/children")
        (child,) = (await children.read_text("ascii")).split()
        os.kill(int(child), signal.SIGKILL)
        await until(lambda: persistence("aof_last_bgrewrite_status") == b"err")
        rewrite = (await report(path=server.path))["persistence"]
    assert snapshot.severity is Severity.OK
    assert "last save err" in snapshot.seen
    assert rewrite.severity is Severity.WARNING
    assert "last rewrite err" in rewrite.seen
    assert "rewritten" in rewrite.todo


async def test_a_replica_is_an_error(report: Examine, redis: Server) -> None:
    with start_redis("--replicaof", f"127.0.0.1 {redis.port}") as replica:
        found = await report(path=replica.path)
    assert found["topology"].severity is Severity.ERROR
    assert "is a replica" in found["topology"].seen
    assert "redis.host and redis.port" in found["topology"].todo
    assert 'to "sentinel"' in found["topology"].todo
    # Nothing can be written there, and what holds of it may not hold of the primary.
    assert found["tracking"].severity is found["replication"].severity is Severity.SKIPPED


async def test_a_clock_that_is_off_says_which_way(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    here = time.time
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        probe = Probe(connection, Target(), trio.Event())
        assert (await check_clock(probe)).severity is Severity.OK
        for hours, way in ((-1, "ahead"), (1, "behind")):
            monkeypatch.setattr(time, "time", lambda ours=3600 * hours: here() + ours)
            began = here()
            check = await check_clock(probe)
            took = here() - began
            assert check.severity is Severity.WARNING
            found = re.search(rf"is ([0-9.]+) s {way}$", check.seen)
            assert found is not None, check.seen
            # The time of the request counts in favour of the clock, and tenths are shown.
            assert 3600 - took - 0.1 <= float(found.group(1)) <= 3600


async def test_streams_are_counted_without_the_keys_beside_them(report: Examine, server: Server) -> None:
    for name, count in (("a:b:small", 1), ("a:b:big", 5)):
        for _ in range(count):
            server.command("XADD", name, "*", "f", "v")
    server.command("SET", "text", "no stream")
    streams = (await report(path=server.path))["streams"]
    assert streams.severity is Severity.OK
    assert streams.seen == "2 streams, the largest 'a:b:big' with 5 entries; no dead letters"


async def test_dead_letters_are_a_warning_that_names_the_stream(report: Examine, server: Server) -> None:
    server.command("XADD", "a:b:jobs", "*", "f", "v")
    server.command("XADD", companion_key("a:b:jobs", Kind.DEAD, "workers"), "*", "f", "v")
    streams = (await report(path=server.path))["streams"]
    assert streams.severity is Severity.WARNING
    assert "1 dead letters of 'a:b:jobs'" in streams.seen
    assert streams.seen.startswith("1 streams,")
    assert "dead_letter_replay" in streams.todo


async def test_a_connection_that_is_lost_midway_is_an_error_and_the_rest_is_skipped(
    report: Examine, redis: Server
) -> None:
    async with proxy_to(redis.path, unix=True) as proxy:
        target = through(proxy)

        def cut(piece: bytes) -> None:
            if b"GETEX" in piece:
                proxy.cut()

        proxy.to_server.tap = cut
        found = await report(path=attrs.asdict(target)["path"])
    assert found["permissions"].severity is Severity.OK
    assert found["version"].severity is Severity.ERROR
    assert found["version"].todo
    assert found["streams"].severity is Severity.SKIPPED
    assert found["socket"].severity is Severity.WARNING


def test_every_command_of_a_script_is_asked_about() -> None:
    """A script that needs a new command would otherwise fail where doctor is content."""
    called: set[str] = set()
    for script in (resources.files("redstreamd.streams") / "lua").iterdir():
        for first, second in re.findall(
            r"redis\.p?call\(\s*'(\w+)'(?:\s*,\s*'([A-Z]+)')?", script.read_text("utf-8")
        ):
            called.add(f"{first} {second}" if first in ("XINFO", "XGROUP", "MEMORY", "CONFIG") else first)
    asked = {command_name(line) for line in COMMANDS}
    assert len(called) > 20
    assert called - asked == set()
