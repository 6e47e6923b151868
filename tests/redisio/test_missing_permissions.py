"""What each server says of a command that is not there for this user, and where a script's line leads to."""

from __future__ import annotations

import pytest

from redstreamd.redisio.error_replies import bus_error, reply_error
from redstreamd.redisio.missing_permissions import named
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.script import Script

SCRIPT = Script(
    """local add = {'XADD', KEYS[1], '*', 'f', 'v'}
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
redis.pcall('MEMORY', 'USAGE', KEYS[1]) -- optional
if info.err then return info end
redis.call('TIME')
redis.call(unpack(add)) -- XADD
return redis.call(
  'XRANGE', KEYS[1], '-', '+'
)
"""
)
EVALSHA = ("EVALSHA", SCRIPT.sha, 1, "orders:new")

#: The words of Redis 6.2, 7.0, 7.2 to 8.10 and Valkey 9, as they were recorded.
THIS_USER = "NOPERM this user has no permissions to run the"
SCRIPTS_USER = "The user executing the script can't run this command or subcommand"
IN_62 = f"ERR Error running script (call to f_{'0a' * 20}): @user_script:5: @user_script: 5: "
DENIED = [
    (f"{THIS_USER} 'time' command or its subcommand", ("TIME",), "TIME"),
    (f"{THIS_USER} 'xinfo' command or its subcommand", ("XINFO", "GROUPS", "s"), "XINFO GROUPS"),
    (f"{THIS_USER} 'xinfo|stream' command", ("XINFO", "STREAM", "s"), "XINFO STREAM"),
    (
        "NOPERM User u has no permissions to run the 'config|get' command",
        ("CONFIG", "GET", "x"),
        "CONFIG GET",
    ),
    ("NOPERM User u has no permissions to run the 'evalsha' command", EVALSHA, "EVALSHA"),
    (
        "ERR ACL failure in script: User u has no permissions to run the 'time' command script: on @u:1.",
        EVALSHA,
        "TIME",
    ),
    (f"ERR {SCRIPTS_USER} script: 0a, on @user_script:5.", EVALSHA, "TIME"),
    (f"ERR {SCRIPTS_USER} script: 0a, on @user_script:6.", EVALSHA, "XADD"),
    (f"ERR {SCRIPTS_USER} script: 0a, on @user_script:7.", EVALSHA, "XRANGE"),
    (f"ERR {SCRIPTS_USER}", EVALSHA, "XINFO STREAM"),
    (f"{IN_62}{SCRIPTS_USER}", EVALSHA, "TIME"),
    (f"@user_script: 2: {SCRIPTS_USER}", EVALSHA, "XINFO STREAM"),
]
ABSENT = [
    (
        "ERR unknown command 'EVAL', with args beginning with: 'return 1' '0' ",
        ("EVAL", "return 1", 0),
        "EVAL",
    ),
    ("ERR unknown command `TIME`, with args beginning with: ", ("TIME",), "TIME"),
    ("ERR unknown command 'CONFIG', with args: 'GET' 'x' ", ("CONFIG", "GET", "x"), "CONFIG GET"),
    ("ERR unknown subcommand 'NOSUCH'. Try XINFO HELP.", ("XINFO", "NOSUCH"), "XINFO NOSUCH"),
    ("ERR Unknown Redis command called from script script: 0a, on @user_script:5.", EVALSHA, "TIME"),
    ("ERR Unknown command called from script script: on @user_script:6.", EVALSHA, "XADD"),
    ("ERR Unknown Redis command called from script", EVALSHA, "XINFO STREAM"),
    (f"{IN_62}Unknown Redis command called from Lua script", EVALSHA, "TIME"),
]
KEYS = [
    "NOPERM this user has no permissions to access one of the keys used as arguments",
    "NOPERM No permissions to access a key",
    "ERR ACL failure in script: No permissions to access a key script: on @user_script:1.",
    "ERR The user executing the script can't access at least one of the keys mentioned in the arguments",
]


def read(text, args):
    answer = bus_error(reply_error(text))
    assert isinstance(answer, ServerReplied)
    return named(answer, args, script=SCRIPT if args is EVALSHA else None, username="u")


@pytest.mark.parametrize(("text", "args", "command"), DENIED)
def test_a_denied_command_is_named_with_the_line_that_grants_it(text, args, command):
    error = read(text, args)
    assert error.code == "PERMISSION_DENIED"
    assert f"user 'u' run {command}," in error.message
    rule = "+eval +evalsha" if command == "EVALSHA" else f"+{command.lower().replace(' ', '|')}"
    assert error.next_step == f"Grant it: ACL SETUSER u {rule}"
    assert "Redis replied: " in error.cause


@pytest.mark.parametrize(("text", "args", "command"), ABSENT)
def test_a_command_that_the_server_does_not_have_is_named(text, args, command):
    error = read(text, args)
    assert error.code == "INTERNAL"
    assert error.message.startswith(f"This Redis has no command {command},")
    assert f"Give {command} its name back" in error.next_step


@pytest.mark.parametrize("text", KEYS)
def test_a_denied_key_comes_with_the_pattern_that_grants_it(text):
    error = read(text, EVALSHA)
    assert error.code == "PERMISSION_DENIED"
    assert error.next_step.endswith("ACL SETUSER u ~orders:new*")
    assert read(text, ("XLEN", "orders:new:rs:due:g")).next_step.endswith("~orders:new*")
    assert read(text, ("XLEN", "two words*")).next_step.endswith("~<your streams>*")


def test_other_refusals_are_left_as_they_are():
    for text in ("ERR syntax error", "WRONGTYPE Operation against a key", "NOGROUP No such key"):
        answer = bus_error(reply_error(text))
        assert named(answer, ("XLEN", "s")) is answer


def test_a_script_knows_the_commands_of_its_lines():
    assert SCRIPT.commands == ("XINFO STREAM", "MEMORY USAGE", "TIME", "XADD", "XRANGE")
    assert SCRIPT.guarded_commands == ("XINFO STREAM",)
    assert SCRIPT.commands_at(1) == SCRIPT.commands_at(0) == SCRIPT.commands_at(99) == ()
