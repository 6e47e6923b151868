from __future__ import annotations

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    ResponseError,
    TryAgainError,
)

from redstreamd.redisio.error_replies import bus_error, reply_code, reply_error, reply_text, row_of
from redstreamd.redisio.redis_errors import Recovery, RedisUnavailable, ServerReplied
from redstreamd.redisio.script import Script
from redstreamd.redisio.target import Target
from tests.redisio.running import run_script, running_node
from tests.support.servers import Server

# As the servers word them.
PERMANENT = {
    "NOPERM User agent has no permissions to run the 'xadd' command": "PERMISSION_DENIED",
    "NOAUTH Authentication required.": "CONNECTION_ERROR",
    "WRONGTYPE Operation against a key holding the wrong kind of value": "WRONG_TYPE",
    "OOM command not allowed when used memory > 'maxmemory'.": "BACKEND_OUT_OF_MEMORY",
    "READONLY You can't write against a read only replica.": "BACKEND_READ_ONLY",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist": (
        "BACKEND_READ_ONLY"
    ),
    "CROSSSLOT Keys in request don't hash to the same slot": "INVALID_ARGUMENT",
    "NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option": "GROUP_NOT_FOUND",
    "BUSYGROUP Consumer Group name already exists": "GROUP_EXISTS",
    "MOVED 3999 127.0.0.1:6381": "CONNECTION_ERROR",
    "ASK 3999 127.0.0.1:6381": "CONNECTION_ERROR",
    "UNBLOCKED force unblock from blocking operation, instance state changed": "CONNECTION_ERROR",
    "ERR no such key": "STREAM_NOT_FOUND",
    "ERR The XGROUP subcommand requires the key to exist.": "STREAM_NOT_FOUND",
    "ERR Invalid stream ID specified as stream command argument": "INVALID_ARGUMENT",
    "ERR The ID specified in XADD is equal or smaller than the target stream top item": "INVALID_ARGUMENT",
    "ERR The stream has exhausted the last possible ID, unable to add more items": "INVALID_STREAM",
    "ERR unknown command 'XADD', with args beginning with: 's'": "INTERNAL",
    "ERR syntax error": "INTERNAL",
    "ERR The user executing the script can't run this command or subcommand script: 17, on @user_script:1.": (
        "PERMISSION_DENIED"
    ),
    "ERR ACL failure in script: User u has no permissions to run the 'xadd' command script: on @u:1.": (
        "PERMISSION_DENIED"
    ),
    "": "INTERNAL",
}
TRANSIENT = {
    "LOADING Redis is loading the dataset in memory": BusyLoadingError,
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": ResponseError,
    "TRYAGAIN Multiple keys request during rehashing of slot": TryAgainError,
    "CLUSTERDOWN The cluster is down": ClusterDownError,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": ClusterDownError,
    "NOREPLICAS Not enough good replicas to write.": ResponseError,
}


@pytest.mark.parametrize(("text", "code"), PERMANENT.items())
def test_permanent_errors_have_a_code_and_keep_the_servers_words(text: str, code: str) -> None:
    reply = reply_error(text)
    error = bus_error(reply)
    assert isinstance(error, ServerReplied)
    assert error.code == code
    assert error.reply is reply
    assert text in error.cause
    assert error.message
    assert error.next_step
    assert error.recovery in (Recovery.PERMANENT, Recovery.SETTINGS)


@pytest.mark.parametrize(("text", "kind"), TRANSIENT.items())
def test_replies_to_commands_that_were_not_executed_are_told_apart(text: str, kind: type[Exception]) -> None:
    reply = reply_error(text)
    assert isinstance(reply, kind)
    assert row_of(reply).recovery is Recovery.NOT_EXECUTED
    error = bus_error(reply)
    assert isinstance(error, RedisUnavailable)
    assert error.code == "CONNECTION_ERROR"
    assert text in error.cause


def test_a_group_that_exists_is_not_a_busy_server() -> None:
    for text in ("BUSYGROUP Consumer Group name already exists", "BUSYKEY Target key name already exists."):
        assert row_of(reply_error(text)).recovery is Recovery.PERMANENT


def test_the_opening_word_survives_redis_pys_cutting_it_off() -> None:
    known, unknown = reply_error("NOPERM no"), reply_error("NOVELTY yes")
    assert isinstance(known, NoPermissionError)
    assert (reply_code(known), reply_text(known)) == ("NOPERM", "NOPERM no")
    assert (reply_code(unknown), reply_text(unknown)) == ("NOVELTY", "NOVELTY yes")


@pytest.mark.parametrize("text", ["MOVED", "MOVED somewhere", "ASK 1 nowhere", "MOVED x 127.0.0.1:1"])
def test_a_misshapen_redirection_is_an_error_reply_like_any_other(text: str) -> None:
    reply = reply_error(text)
    assert not isinstance(reply, MovedError)
    assert text in str(bus_error(reply))


@pytest.mark.parametrize(
    ("inner", "code"),
    [
        ("@user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE"),
        ("@user_script:1: @user_script: 1: -OOM command not allowed", "OOM"),
        ("@user_script:12: NOGROUP No such key 'n' or consumer group 'g'", "NOGROUP"),
        ("@user_script:1: user_script:1: boom", "ERR"),
        ("@user_script:1: @user_script: 1: Wrong number of args calling Redis command", "ERR"),
    ],
)
def test_an_error_inside_a_script_of_redis_62_is_unwrapped(inner: str, code: str) -> None:
    reply = reply_error(f"ERR Error running script (call to f_{'0a' * 20}): {inner}")
    assert reply_code(reply) == code


async def test_an_error_inside_a_script_has_the_code_of_its_command(server: Server) -> None:
    server.commands(("SET", "text", "x"), ("ACL", "SETUSER", "u", "on", "nopass", "~*", "+@all", "-xadd"))
    script = Script("return redis.call(unpack(ARGV))")
    async with running_node(Target(path=server.path, username="u")) as node:
        for command, code in (
            (("XLEN", "text"), "WRONG_TYPE"),
            (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "absent", ">"), "GROUP_NOT_FOUND"),
            (("XADD", "s", "*", "f", "v"), "PERMISSION_DENIED"),
        ):
            with pytest.raises(ServerReplied) as replied:
                await run_script(node, script, [], command, retry_safe=False)
            assert replied.value.code == code


def test_an_error_text_is_shown_on_one_line() -> None:
    assert reply_text(reply_error("ERR first\r\n  second")) == "ERR first second"
