"""The domain's Lua scripts: assembled from the files in ``lua/`` and called with named operands.

A file declares its operands and its reply in comments. The loader replaces each by one line of code, so a
single file keeps its line numbers::

    -- KEYS stream due_set            local stream, due_set = KEYS[1], KEYS[2]
    -- ARGV group count:int ids...    local group, count, ids = ARGV[1], tonumber(ARGV[2]), 3
    -- REPLY now:int more:bool        local function reply(r) return {r.now or '', r.more or ''} end

Operands are numbered through all files of a script. ``:int`` is a number, or nil for an empty text; ``:bool``
is true for "1"; ``:text`` in a reply is a name. A last operand with dots stands for any number of values;
its local is the index of the first. Other operands, and other parts of a reply, are passed as they are.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import attrs

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.script import Script, ScriptCall
from redstreamd.redisio.unexpected_replies import UNREADABLE, unexpected_reply
from redstreamd.streams.names import Kind, companion_key

_DECLARATION: Final = re.compile(
    r"^-- (KEYS|ARGV|REPLY)((?: [a-z_]+(?::(?:int|bool|text))?(?:\.\.\.)?)+)$", re.MULTILINE
)
_LUA: Final = {"int": "tonumber({})", "bool": "{} == '1'", "": "{}"}
#: Python expressions that read a part of a reply. What a script left out comes as an empty text.
_PYTHON: Final = {
    "int": "{0} if type({0}) is int else int({0}) if {0} else None",
    "bool": "bool({0})",
    "text": "name({0}) if {0} else None",
    "": "{0}",
}
#: Types of operands that need no conversion.
_PLAIN: Final = frozenset({str, int, bytes, float})
#: Keys that follow from a script's `stream` and `group`.
_GROUP_KEYS: Final = {
    "due_set": Kind.DUE,
    "dead_letters": Kind.DEAD,
    "history": Kind.TRIES,
    "group_hash": Kind.GROUP,
}


@attrs.frozen
class NamedScript(Script):
    """A script whose operands and reply have names.

    Attributes:
        keys: Names of its KEYS.
        arguments: Names of its ARGV.
        reply: Names of the parts of its reply, with their kinds; empty: the reply is passed as it is.
    """

    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    reply: tuple[tuple[str, str], ...]
    _declared: frozenset[str] = attrs.field(init=False, repr=False)
    _group_keys: tuple[str, ...] = attrs.field(init=False, repr=False)
    _pick_keys: Callable[[Mapping[str, Any]], tuple[Any, ...]] = attrs.field(init=False, repr=False)
    _pick_arguments: Callable[[Mapping[str, Any]], tuple[Any, ...]] = attrs.field(init=False, repr=False)
    _read_parts: Callable[..., Any] = attrs.field(init=False, repr=False)

    @_declared.default
    def _all_operands(self) -> frozenset[str]:
        return frozenset((*self.keys, *self.arguments))

    @_group_keys.default
    def _derived_keys(self) -> tuple[str, ...]:
        return tuple(sorted(_GROUP_KEYS.keys() & self.keys))

    @_pick_keys.default
    def _keys_in_order(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        return _picker(self.keys)

    @_pick_arguments.default
    def _arguments_in_order(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        return _picker(self.arguments)

    @_read_parts.default
    def _reader(self) -> Callable[..., Any]:
        """Compile the function that reads a reply; a loop over its parts would cost several times as much."""
        names = [name for name, _ in self.reply]
        made: Any = namedtuple("Reply", names)  # type: ignore[misc]  # noqa: PYI024 - made at run time
        values = "".join(f"{_PYTHON[kind].format(name)}, " for name, kind in self.reply)
        scope = {"make": partial(tuple.__new__, made), "name": reply_parsing.name}
        # The names are those that a script declares.
        read: Callable[..., Any] = eval(f"lambda {', '.join(names)}: make(({values}))", scope)  # noqa: S307
        return read

    async def run(self, redis: Redis, *, retry_safe: bool, role: Role = Role.COMMAND, **operands: Any) -> Any:
        """Run the script as `Redis.run_script` does.

        Args:
            redis: Sends it.
            retry_safe: As there.
            role: As there.
            operands: The KEYS and ARGV by name, without the keys that follow from `stream` and `group`. None
                is sent as an empty text, True as "1"; a name declared with dots takes a sequence.

        Returns:
            The reply, with an attribute for each declared name; None if it is empty.

        Raises:
            TypeError: An operand is missing, or there is none of that name.
            BusError: As `Redis.run_script`; `UnexpectedReply`.
        """
        keys, args = self.operands(operands)
        reply = await redis.run_script(self, keys, args, retry_safe=retry_safe, role=role)
        return self.read(reply, outcome_known=retry_safe)

    def call(self, operands: dict[str, Any]) -> ScriptCall:
        """Return the script with its operands, for a plan. Raises TypeError as `run`."""
        return ScriptCall(self, *self.operands(operands))

    def bound(self, *names: str) -> Callable[..., ScriptCall]:
        """Return a function that makes a call of the operands in the order of `names`.

        It costs a fourth of `call`: for scripts that are called most. The function takes texts, bytes and
        numbers; for the operand that is declared with dots, whose name has a star here, a sequence of these.

        Raises:
            TypeError: A name is missing, or there is no operand of it.
        """
        given = [name.removeprefix("*") for name in names]
        if sorted((*given, *self._group_keys)) != sorted(self._declared):
            raise TypeError(f"missing or unknown operands: {sorted(self._declared ^ set(given))}")
        keys = (f"derived['{name}']" if name in self._group_keys else name for name in self.keys)
        arguments = (f"*{name}" if f"*{name}" in names else name for name in self.arguments)
        call = f"call(script, [{', '.join(keys)}], [{', '.join(arguments)}])"
        if self._group_keys:
            call = f"(derived := derive(names, stream, group)) and {call}"
        scope = {"call": ScriptCall, "script": self, "derive": _derived, "names": self._group_keys}
        # The names are those that a script declares.
        made: Callable[..., ScriptCall] = eval(f"lambda {', '.join(given)}: {call}", scope)  # noqa: S307
        return made

    def read(self, reply: Any, *, outcome_known: bool = False) -> Any:
        """Return the server's reply as `run` does, or raise `UnexpectedReply`, see there."""
        if not self.reply:
            return reply
        if not reply:
            return None
        try:
            return self._read_parts(*reply)
        except UNREADABLE as error:
            raise unexpected_reply(error, outcome_known=outcome_known) from error

    def operands(self, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return KEYS and ARGV in their order. Raises TypeError as `run`."""
        known = given
        if self._group_keys and "stream" in given and "group" in given:
            known = given | _derived(self._group_keys, given["stream"], given["group"])
        if known.keys() != self._declared:
            raise TypeError(f"missing or unknown operands: {sorted(known.keys() ^ self._declared)}")
        return _wire(self._pick_keys(known)), _wire(self._pick_arguments(known))


def load(*names: str) -> NamedScript:
    """Return the script made of the files ``lua/<name>.lua``, one after the other."""
    folder = Path(__file__).with_name("lua")
    declared: dict[str, list[str]] = {"KEYS": [], "ARGV": [], "REPLY": []}

    def code(declaration: re.Match[str]) -> str:
        table, words = declaration[1], declaration[2].split()
        names = declared[table]
        values = []
        for word in words:
            name, _, kind = word.removesuffix("...").partition(":")
            names.append(word if table == "REPLY" else name)
            at = f"{table}[{len(names)}]"
            values.append(str(len(names)) if word.endswith("...") else _LUA.get(kind, "{}").format(at))
        if table == "REPLY":
            # The last of several lines makes the function that counts.
            members = ", ".join(f"r.{word.partition(':')[0]} or ''" for word in names)
            return f"local function reply(r) return {{{members}}} end"
        return f"local {', '.join(names[-len(words) :])} = {', '.join(values)}"

    texts = ((folder / f"{name}.lua").read_text("utf-8") for name in names)
    source = _DECLARATION.sub(code, "".join(texts))
    reply = (word.partition(":") for word in declared["REPLY"])
    return NamedScript(
        source,
        tuple(declared["KEYS"]),
        tuple(declared["ARGV"]),
        tuple((name, kind) for name, _, kind in reply),
    )


@lru_cache(maxsize=1_024)
def _derived(names: tuple[str, ...], stream: str, group: str) -> dict[str, str]:
    """Return the keys of a group by their names; remembered, since the same ones recur. Not to be changed."""
    return {name: companion_key(stream, _GROUP_KEYS[name], group) for name in names}


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return a function that picks the values of `names`, in this order."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda known: tuple(known[name] for name in names)


def _wire(values: tuple[Any, ...]) -> list[Any]:
    """Return values as a command takes them."""
    rest: Sequence[Any] = ()
    if values and isinstance(values[-1], list | tuple):
        values, rest = values[:-1], values[-1]
    if not _PLAIN.issuperset(map(type, values)):
        return [*map(_converted, values), *rest]
    return [*values, *rest]


def _converted(value: Any) -> Any:
    if value is None:
        return ""
    return int(value) if isinstance(value, bool) else value
