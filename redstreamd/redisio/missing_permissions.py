"""Names the command that a user may not run, or that a server does not have, and the line that grants it.

Owns the taking of names out of the replies that ``error_replies`` has recognised. Which call needed the
command is not known here.

A refusal inside a script names its command on Valkey and Redis from 7.2 on only. Before that, and for
commands that the server does not have at all, it gives the script's line, and the command stands in the
script's text.
"""

from __future__ import annotations

import re
from typing import Final

from redstreamd.redisio import Arg
from redstreamd.redisio.error_replies import COMMAND_DENIED, KEY_DENIED, UNKNOWN_COMMAND, reply_text
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.script import Script

# The parts of a reply that name a command. Recorded from Redis 6.2, 7.0 and 8.10 and from Valkey 9 (acl.c,
# script.c, server.c). What a reply is about, ``error_replies`` tells.
_NAMES: Final = re.compile(
    r"to run the '(?P<denied>[^' ]+)' command"
    r"|unknown command ['`](?P<unknown>[^'` ]+)['`]"
    r"|[uU]nknown subcommand( or wrong \D+ for)? '(?P<sub>\w+)'\. Try (?P<of>\w+) HELP"
)

#: Where in a script it happened: the first form is that of Redis from 7.0 on and of Valkey, the second 6.2's.
_LINE: Final = re.compile(r"on @user_script:(?P<line>\d+)\.|@user_script: ?(?P<older>\d+):")

_USER: Final = re.compile(r"User (?P<user>\S+) has no permissions")

#: Commands whose first argument is a part of their name.
CONTAINERS: Final = frozenset({"ACL", "CLIENT", "COMMAND", "CONFIG", "MEMORY", "SCRIPT", "XGROUP", "XINFO"})

#: Where the first key stands, if not directly after the command.
_KEY_AT: Final = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2, "XINFO": 2, "MEMORY": 2}


def named(
    answer: ServerReplied, args: tuple[Arg, ...], *, script: Script | None = None, username: str | None = None
) -> ServerReplied:
    """Return `answer`, in words of its own if it is about a command or key that is not there for this user.

    Args:
        answer: What the server's reply was read as.
        args: The command that it answers.
        script: The script that was run, if one was.
        username: Who is logged in; None for the default user.
    """
    if answer.kind not in (COMMAND_DENIED, KEY_DENIED, UNKNOWN_COMMAND):
        return answer
    text = reply_text(answer.reply)
    user = _USER.search(text)
    who = user["user"] if user is not None else username or "default"
    if answer.kind == KEY_DENIED:
        message = f"Redis does not let user {who!r} use a key that this call needs"
        step = f"Grant the stream and the keys beside it: ACL SETUSER {who} {_key_pattern(args)}"
    else:
        commands = _commands(text, args, script)
        listed = " or ".join(commands)
        if answer.kind == COMMAND_DENIED:
            message = f"Redis does not let user {who!r} run {listed}, which this call needs"
            step = f"Grant it: {grant(who, commands)}"
        else:
            message = f"This Redis has no command {listed}, which this call needs"
            step = absent_step(listed)
    return ServerReplied(
        answer.code,
        message,
        cause=answer.cause,
        next_step=step,
        reply=answer.reply,
        kind=answer.kind,
        recovery=answer.recovery,
    )


def grant(user: str, commands: tuple[str, ...]) -> str:
    """Return the command of Redis that allows `commands` ("XINFO STREAM") to `user`."""
    rules = [f"+{command.lower().replace(' ', '|')}" for command in commands]
    if "+eval" in rules or "+evalsha" in rules:
        # A script goes by its digest, or by its text where the server does not know it yet.
        rules = ["+eval", "+evalsha"]
    return f"ACL SETUSER {user} {' '.join(rules)}"


def absent_step(command: str) -> str:
    """Return what an operator can do about a command that the server does not have."""
    return (
        f"Give {command} its name back (`rename-command` in the server's settings), or use Redis 6.2 or "
        "later, or Valkey 7.2 or later, and connect to it directly."
    )


def command_of(args: tuple[Arg, ...]) -> str:
    """Return the name of the command, with that of its subcommand."""
    name = _word(args[0]).upper()
    return f"{name} {_word(args[1]).upper()}" if name in CONTAINERS and len(args) > 1 else name


def _commands(text: str, args: tuple[Arg, ...], script: Script | None) -> tuple[str, ...]:
    """Return the command that the reply is about; more than one where it leaves that open."""
    sent = command_of(args)
    if (found := _NAMES.search(text)) is not None:
        if found["sub"]:
            return (f"{found['of']} {found['sub']}".upper(),)
        name = (found["denied"] or found["unknown"]).replace("|", " ").upper()
        # Where the server gives the first word only, we know which subcommand was sent.
        return (sent if sent.startswith(f"{name} ") else name,)
    if script is None:
        return (sent,)
    line = _LINE.search(text)
    number = None if line is None else int(line["line"] or line["older"])
    return (script.commands_at(number) if number is not None else ()) or script.guarded_commands or (sent,)


def _key_pattern(args: tuple[Arg, ...]) -> str:
    """Return the rule that allows the stream of a command, and what lies beside it."""
    position = _KEY_AT.get(_word(args[0]).upper(), 1)
    key = _word(args[position]) if position < len(args) else ""
    stream = key.partition(":rs:")[0]
    # A name of many words or with a glob's characters is no pattern for itself.
    return f"~{stream}*" if re.fullmatch(r"[\w:.{}/@#-]{1,100}", stream) else "~<your streams>*"


def _word(arg: Arg) -> str:
    return arg.decode("utf-8", "backslashreplace") if isinstance(arg, bytes) else str(arg)
