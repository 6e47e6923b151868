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
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import attrs

from redstreamd.redisio import Role, reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.redisio.script import Script, ScriptCall
from redstreamd.streams.names import Kind, companion_key

_DECLARATION: Final = re.compile(
    r"^-- (KEYS|ARGV|REPLY)((?: [a-z_]+(?::(?:int|bool|text))?(?:\.\.\.)?)+)$", re.MULTILINE
)
_LUA: Final = {"int": "tonumber({})", "bool": "{} == '1'", "": "{}"}
#: What a script left out of its reply comes as an empty text.
_PYTHON: Final[dict[str, Callable[[Any], Any]]] = {
    "int": lambda value: None if value == b"" else int(value),
    "bool": bool,
    "text": lambda value: reply_parsing.name(value) if value else None,
    "": lambda value: value,
}
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
        reply: Names of the parts of its reply, with converters; empty: the reply is passed as it is.
    """

    keys: tuple[str, ...]
    arguments: tuple[str, ...]
    reply: tuple[tuple[str, Callable[[Any], Any]], ...]
    _declared: frozenset[str] = attrs.field(init=False, repr=False)
    _group_keys: frozenset[str] = attrs.field(init=False, repr=False)
    _reply_type: Any = attrs.field(init=False, repr=False)

    @_declared.default
    def _all_operands(self) -> frozenset[str]:
        return frozenset((*self.keys, *self.arguments))

    @_group_keys.default
    def _derived_keys(self) -> frozenset[str]:
        return frozenset(_GROUP_KEYS.keys() & self.keys)

    @_reply_type.default
    def _named_reply(self) -> Any:
        return namedtuple("Reply", [name for name, _ in self.reply])  # noqa: PYI024 - made at run time

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
            BusError: As `Redis.run_script`.
        """
        keys, args = self.operands(operands)
        return self.read(await redis.run_script(self, keys, args, retry_safe=retry_safe, role=role))

    def call(self, operands: dict[str, Any]) -> ScriptCall:
        """Return the script with its operands, for a plan. Raises TypeError as `run`."""
        return ScriptCall(self, *self.operands(operands))

    def read(self, reply: Any) -> Any:
        """Return the server's reply as `run` does."""
        if not self.reply:
            return reply
        if not reply:
            return None
        parts = zip(self.reply, reply, strict=True)
        return self._reply_type._make([convert(part) for (_, convert), part in parts])

    def operands(self, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return KEYS and ARGV in their order. Raises TypeError as `run`."""
        known = given
        if self._group_keys and "stream" in given and "group" in given:
            known = dict(given)
            for name, key in zip(_GROUP_KEYS, _group_keys(given["stream"], given["group"]), strict=True):
                if name in self._group_keys:
                    known[name] = key
        if known.keys() != self._declared:
            raise TypeError(f"missing or unknown operands: {sorted(known.keys() ^ self._declared)}")
        return _values(self.keys, known), _values(self.arguments, known)


def load(*names: str) -> NamedScript:
    """Return the script made of the files ``lua/<name>.lua``, one after the other."""
    folder = resources.files(__package__) / "lua"
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
        tuple((name, _PYTHON[kind]) for name, _, kind in reply),
    )


@lru_cache(maxsize=1_024)
def _group_keys(stream: str, group: str) -> tuple[str, ...]:
    """Return the keys of a group, in the order of `_GROUP_KEYS`; remembered, since the same ones recur."""
    return tuple(companion_key(stream, kind, group) for kind in _GROUP_KEYS.values())


def _values(names: Sequence[str], known: dict[str, Any]) -> list[Any]:
    values: list[Any] = []
    for name in names:
        value = known[name]
        kind = type(value)
        if kind is str or kind is int:
            values.append(value)
        elif value is None:
            values.append("")
        elif kind is bool:
            values.append(int(value))
        elif isinstance(value, list | tuple):
            values.extend(value)
        else:
            values.append(value)
    return values
