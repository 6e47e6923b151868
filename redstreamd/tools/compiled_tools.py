"""What calls and the listing need of each tool, compiled when it is first asked for.

All tools together take a tenth of a start, and the first plain call needs a hundredth of it. So a daemon
compiles them on a thread, and serves meanwhile.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

import msgspec

from redstreamd import strict_json
from redstreamd.long_texts import LongText
from redstreamd.policy import Permission
from redstreamd.streams.name_rules import NameRules
from redstreamd.tools.argument_headers import header_arguments
from redstreamd.tools.argument_text import ArgumentDecoder
from redstreamd.tools.argument_types import NameOf, names_in
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.definition import Registry, StreamNeeds, Tool
from redstreamd.tools.tool_listing import listed

ValueT = TypeVar("ValueT")


class _Decode(Protocol):
    """Builds arguments, see `ArgumentDecoder.__call__`."""

    def __call__(
        self, text: bytes | msgspec.Raw, colons: int | None = None, long_text: LongText | None = None, /
    ) -> Any: ...


#: Argument classes of which it is remembered what was compiled; there are some forty.
_MAX_COMPILED: Final = 256
#: Arguments of waits that are remembered for each tool, and how long their text is at most.
_MAX_REMEMBERED: Final = 128
_LONGEST_REMEMBERED: Final = 512


class Prepared(msgspec.Struct, frozen=True):
    """A tool as it is compiled.

    Attributes:
        tool: The tool.
        decode: Builds its arguments from plain text.
        named: Returns the streams in the arguments, if these alone decide what the tool needs, and they are
            few; else None, as if it is not given.
        lease: The argument that holds a lease, if there is one.
        checks: The arguments that name groups and consumers, with the function that checks each.
        headers: The arguments that have headers of HTTP, see `argument_headers`.
    """

    tool: Tool[Any]
    decode: _Decode
    named: Callable[[object], object] | None
    lease: str | None
    checks: tuple[tuple[str, Callable[[str], None]], ...]
    headers: Mapping[str, str]


# What follows from a class alone costs more than many calls, so all toolboxes of a process share it. (Classes
# are hashable, which mypy does not know of those that attrs makes.)


@functools.lru_cache(_MAX_COMPILED)
def _structurer_of(arguments: type[Any], max_nesting: int, max_values: int) -> Structurer[Any]:
    return Structurer(arguments, max_nesting=max_nesting, max_values=max_values)


@functools.lru_cache(_MAX_COMPILED)
def _decoder_of(arguments: type[Any]) -> ArgumentDecoder:
    return ArgumentDecoder(arguments)


class _Made(dict[str, ValueT]):
    """Values by the name of a tool, each made when it is first asked for. Two threads may make the same."""

    def __init__(self, make: Callable[[str], ValueT]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> ValueT:
        value = self[name] = self._make(name)
        return value


class CompiledTools:
    """The tools of a registry, by name.

    Attributes:
        prepared: What a call needs.
        structure: Builds the arguments of a call from decoded JSON.
        listed: How ``tools/list`` gives the tool.
    """

    def __init__(self, registry: Registry, names: NameRules, *, takes_leases: bool) -> None:
        """Compile nothing yet.

        Args:
            registry: All tools.
            names: Checks the names in arguments.
            takes_leases: Whether something reads the leases in them.
        """
        self._registry = registry
        self._names = names
        self._takes_leases = takes_leases
        self._max_nesting = strict_json.MAX_NESTING
        self._max_values = strict_json.MAX_VALUES
        self.prepared = _Made(self._prepare)
        self.structure = _Made(self._structurer)
        self.listed = _Made(self._list)

    def reconfigure(self, offered: Registry, *, max_nesting: int, max_values: int) -> None:
        """Forget what is not offered, and build arguments within other limits from now on."""
        self._max_nesting = max_nesting
        self._max_values = max_values
        for made in (self.prepared, self.listed):
            for name in [each for each in made if each not in offered]:
                del made[name]
        # Depends on the limits.
        self.structure.clear()

    def compile(self, offered: Iterable[Tool[Any]]) -> None:
        """Make what is not there of these tools. On any thread.

        Raises:
            TypeError: A tool's argument or result class has no schema.
            ValueError: A tool takes a lease, and nothing reads it; or it does not say which of its calls are
                audited.
        """
        for tool in offered:
            self.prepared[tool.name], self.structure[tool.name], self.listed[tool.name]

    def _structurer(self, name: str) -> Structurer[Any]:
        arguments = self._registry.get(name).arguments
        return _structurer_of(arguments, self._max_nesting, self._max_values)  # type: ignore[arg-type]

    def _list(self, name: str) -> dict[str, Any]:
        return listed(self._registry.get(name))

    def _prepare(self, name: str) -> Prepared:
        tool = self._registry.get(name)
        named = names_in(tool.arguments)
        # Compiled here, not at the end of its first call.
        tool.effects  # noqa: B018
        lease = next((argument for argument, what in named.items() if what is NameOf.LEASE), None)
        if lease is not None and not self._takes_leases:
            raise ValueError(f"tool {tool.name} takes a lease, and nothing is given that reads it")
        checks = {NameOf.GROUP: self._names.check_group, NameOf.CONSUMER: self._names.check_consumer}
        return Prepared(
            tool,
            _decode_of(tool),
            None if lease is not None else _names_streams(tool),
            lease,
            # What a lease names was checked when it was taken, and settling does not depend on today's rules.
            ()
            if lease is not None
            else tuple((argument, checks[what]) for argument, what in named.items() if what in checks),
            header_arguments(tool.arguments),
        )


def _decode_of(tool: Tool[Any]) -> _Decode:
    """Return what decodes the arguments of a tool.

    Those who wait for the same give the same text. They share what it was decoded to, which nobody modifies.
    What is published is different each time, and is not kept. Nor is a text with a filter, which may hold
    anything, or one that is no plain text.
    """
    # To call a method takes less than to call what has it.
    decode: _Decode = _decoder_of(tool.arguments).__call__  # type: ignore[arg-type]
    if tool.wait is None or tool.permission is Permission.PUBLISH:
        return decode
    known: dict[bytes, Any] = {}

    def remembered(
        text: bytes | msgspec.Raw, colons: int | None = None, long_text: LongText | None = None, /
    ) -> Any:
        is_long = colons is not None or long_text is not None
        if is_long or type(text) is not bytes or len(text) > _LONGEST_REMEMBERED:
            return decode(text, colons, long_text)
        given = known.get(text)
        if given is None:
            given = decode(text)
            if given is not None and getattr(given, "filter", None) is None:
                if len(known) >= _MAX_REMEMBERED:
                    del known[next(iter(known))]
                known[text] = given
        return given

    return remembered


def _names_streams(tool: Tool[Any]) -> Callable[[object], object] | None:
    """Return what returns the streams in a tool's arguments, see `Prepared.named`."""
    if not isinstance(tool.needs, StreamNeeds) or not tool.needs.terms:
        return None
    arguments = list(dict.fromkeys(argument for argument, _, _ in tool.needs.terms))
    hints = typing.get_type_hints(tool.arguments)
    if all(hints[each] in (str, str | None) for each in arguments):
        return attrgetter(*arguments)
    streams_in = attrgetter(*arguments)
    if len(arguments) > 1 or hints[arguments[0]] not in (list[str], tuple[str, ...]):
        return None

    def only(given: object) -> object:
        streams = streams_in(given)
        return streams[0] if len(streams) == 1 else None

    return only
