"""Lua scripts that run inside the server, and commands that their caller has packed.

Owns a script's text, its digest, and which commands it calls. `Redis.run_script` sends it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs
import hiredis
import msgspec

from redstreamd.redisio import Arg

#: A call of a command, up to where its name and that of a subcommand end. The name may stand on the next
#: line, and where it is a variable a comment at the line's end says what it can be: ``-- XRANGE, XREVRANGE``.
_CALL: Final = re.compile(
    r"redis\.(?P<how>p?call)\(\s*'(?P<name>[A-Z]+)'(?:,\s*'(?P<sub>[A-Z]+)')?"
    r"(?:.*(?P<optional>-- optional)$)?",
    re.MULTILINE,
)
_ANY_CALL: Final = re.compile(r"redis\.(?P<how>p?call)\(.*--\s*(?P<names>[A-Z]+(?:, [A-Z]+)*)$")

#: Commands whose first argument is a part of their name.
_CONTAINERS: Final = frozenset({"MEMORY", "XGROUP", "XINFO"})


@attrs.frozen
class Script:
    """A Lua script, known to the server by the SHA-1 of its text.

    Attributes:
        source: The Lua text, exactly as it is sent.
        sha: Lower-case hexadecimal SHA-1 of it, which EVALSHA asks for
            (https://redis.io/commands/evalsha).
    """

    source: str
    sha: str = attrs.field(init=False, repr=False)

    @sha.default
    def _digest(self) -> str:
        # The server's own naming of scripts; nothing is secured by it.
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def commands_at(self, line: int) -> tuple[str, ...]:
        """Return the commands that `line` of the text calls, such as "XINFO STREAM"; lines count from 1."""
        lines = self.source.split("\n")
        if not 1 <= line <= len(lines):
            return ()
        if found := _called(lines[line - 1]):
            return found
        # A call whose name is on the next line is reported at its first.
        return _called("\n".join(lines[line - 1 : line + 1])) if "call(" in lines[line - 1] else ()

    @property
    def guarded_commands(self) -> tuple[str, ...]:
        """The commands whose errors the script reads itself; an error that it returns has no line.

        Without those of lines that end in ``-- optional``, whose errors it never returns.
        """
        calls = _CALL.finditer(self.source)
        found = [call for call in calls if call["how"] == "pcall" and not call["optional"]]
        return tuple(dict.fromkeys(map(_name, found)))

    @property
    def commands(self) -> tuple[str, ...]:
        """Every command that the script may call."""
        lines = self.source.split("\n")
        found = (name for line in range(1, len(lines) + 1) for name in self.commands_at(line))
        return tuple(dict.fromkeys(found))


class ScriptCall(msgspec.Struct, frozen=True):
    """A script with its KEYS and its ARGV, where it stands for a command."""

    script: Script
    keys: Sequence[str | bytes]
    args: Sequence[Arg]

    @property
    def by_digest(self) -> tuple[Arg, ...]:
        """The command for a server that knows the script."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    @property
    def by_text(self) -> tuple[Arg, ...]:
        """The command for any server."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


class JoinableCall(msgspec.Struct, frozen=True, eq=False):
    """A call of a script that can serve several calls at once; see `joint_calls`.

    Attributes:
        place: The script, and what decides where and on what it works: calls of one place keep their order.
        terms: What calls that are served together have in common.
        part: What this one brings.
        weight: How many entries it may be about.
        join: Makes one call of the terms and of the parts of several, in their order.
        split: Makes the replies of each of them of their parts and the script's reply. Raises
            `UnexpectedReply`.
    """

    place: tuple[object, ...]
    terms: tuple[Any, ...]
    part: Any
    weight: int
    join: Callable[[tuple[Any, ...], Sequence[Any]], ScriptCall]
    split: Callable[[Sequence[Any], Any], Sequence[Any]]

    @property
    def alone(self) -> ScriptCall:
        """The same call, for itself."""
        return self.join(self.terms, (self.part,))

    def read_alone(self, reply: Any) -> Any:
        """Return the call's reply, of the script's reply to `alone`."""
        return self.split((self.part,), reply)[0]


class PackedCommand(msgspec.Struct, frozen=True, gc=False):
    """A command in the protocol's own form (RESP), by a caller that needs less time for it than hiredis.

    Attributes:
        name: The command's name.
        packed: The array of bulk strings that is sent, the name included.
    """

    name: str
    packed: bytes

    @property
    def args(self) -> tuple[Arg, ...]:
        """The command and its arguments."""
        reader = hiredis.Reader()
        reader.feed(self.packed)
        return (self.name, *reader.gets()[1:])


def _called(text: str) -> tuple[str, ...]:
    if (named := _ANY_CALL.search(text)) is not None:
        return tuple(named["names"].split(", "))
    return tuple(dict.fromkeys(map(_name, _CALL.finditer(text))))


def _name(call: re.Match[str]) -> str:
    return f"{call['name']} {call['sub']}" if call["name"] in _CONTAINERS and call["sub"] else call["name"]


Write = tuple[Arg, ...] | ScriptCall | JoinableCall | PackedCommand
"""A command, or a script with its operands."""
