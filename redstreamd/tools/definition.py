"""The definition of a tool and the registry that finds one by name.

Does not know MCP (see ``mcp_server.tool_server``), JSON Schema or structuring (``tools.arguments``). The bus
is a type variable, so that a definition can be listed and documented without one.
"""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import attrs
import msgspec

from redstreamd.errors.nearest_names import nearest_names
from redstreamd.policy import Need, Permission, Principal, StreamFilter
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.plans import Plan
from redstreamd.streams.waiting import Wait
from redstreamd.tools.annotations import Hints
from redstreamd.tools.argument_types import NameOf, names_in
from redstreamd.tools.effects import Effects, effects_of
from redstreamd.tools.schema_dialect import MAX_DESCRIPTION, TOOL_NAME

BusT = TypeVar("BusT")
BusT_co = TypeVar("BusT_co", covariant=True)
ArgumentsT = TypeVar("ArgumentsT", bound=attrs.AttrsInstance)

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
"""``(progress, total, message)``: sends a progress notification, if the caller asked for progress."""

BeginWait = Callable[[], Awaitable[Wait]]
"""Does what comes before a wait, and returns the wait, which is to be run then."""

# The header of a section such as ``Raises:`` ends the part of a docstring that is for the model.
_SECTION = re.compile(r"^[A-Z][A-Za-z ]*:\n", re.MULTILINE)
_NEAREST = 3


class Profile(enum.StrEnum):
    """A set of tools that an installation offers."""

    OBSERVER = "observer"
    WORKER = "worker"
    OPERATOR = "operator"
    RED_STREAM = "red-stream"

    @property
    def includes(self) -> frozenset[Profile]:
        """This profile and those it contains.

        observer ⊂ worker ⊂ operator. ``red-stream`` adds the tools of the original Red-Stream server to any
        of the three.
        """
        ladder = (Profile.OBSERVER, Profile.WORKER, Profile.OPERATOR)
        if self in ladder:
            return frozenset(ladder[: ladder.index(self) + 1])
        return frozenset({self})


async def no_progress(progress: float, total: float | None, message: str | None) -> None:
    """Send no progress notification."""


class Call(Protocol[BusT_co]):
    """What a handler or a plan gets besides its arguments: the part of an `Invocation` that it may use."""

    @property
    def bus(self) -> BusT_co:
        """The domain."""
        ...

    @property
    def principal(self) -> Principal:
        """On whose behalf the call is made."""
        ...

    @property
    def progress(self) -> Progress:
        """Sends progress notifications; for handlers that wait."""
        ...

    @property
    def held_lease(self) -> Lease:
        """The lease among the arguments, read and checked; for a tool that takes one."""
        ...

    def authorise(self, stream: str, permission: Permission) -> None:
        """Ask for a permission on a stream that the tool's needs could not name.

        Raises:
            BusError: PERMISSION_DENIED.
        """
        ...

    def may(self, stream: str, permission: Permission) -> bool:
        """Ask for a permission, for an answer that depends on it."""
        ...

    def quarantines(self, stream: str) -> bool:
        """Return whether what the caller publishes to a stream waits in quarantine for a release."""
        ...

    def may_somewhere(self, permission: Permission) -> bool:
        """Return whether the caller has a permission on any stream at all, so that such tools are offered."""
        ...

    @property
    def readable(self) -> StreamFilter | None:
        """What lets pass the streams that the caller may read; None for all."""
        ...


class StreamNeeds(msgspec.Struct, frozen=True):
    """What a call needs of the streams that its arguments name.

    The value of such an argument is a name, a list or tuple of names, or None. Two of them can be added.

    Attributes:
        terms: Argument, permission, and whether a stream that does not exist is created.
    """

    terms: tuple[tuple[str, Permission, bool], ...]

    def __call__(self, arguments: object, lease: Lease | None) -> list[Need]:
        """Return the needs, in the order of the terms."""
        found: list[Need] = []
        for argument, permission, creates in self.terms:
            value: str | Iterable[str] | None = getattr(arguments, argument)
            if isinstance(value, str):
                found.append(Need(value, permission, creates))
            elif value is not None:
                found += [Need(stream, permission, creates) for stream in value]
        return found

    def __add__(self, other: StreamNeeds) -> StreamNeeds:
        """Need both."""
        return StreamNeeds(self.terms + other.terms)


def needs_on(permission: Permission, *arguments: str, creates: bool = False) -> StreamNeeds:
    """Declare a permission that a call needs on the streams named by these arguments.

    Args:
        permission: The permission.
        arguments: Names of arguments; an argument that was not given needs nothing.
        creates: Whether the call creates a stream that does not exist.
    """
    return StreamNeeds(tuple((argument, permission, creates) for argument in arguments))


#: The needs of a tool that is given no stream.
NO_NEEDS = StreamNeeds(())


def _is_frozen_attrs(candidate: Any) -> bool:
    return attrs.has(candidate) and attrs.inspect(candidate).is_frozen


@attrs.frozen
class Tool(Generic[ArgumentsT]):
    """A tool.

    Attributes:
        name: Lower case letters, digits and underscores.
        title: Shown to users in lists.
        description: For the model: the first part of the handler's docstring.
        arguments: A frozen attrs class; its annotations are the input schema.
        result: An attrs class whose annotations are the output schema; None if the result has no schema.
        profile: The smallest profile that has it.
        permission: The least permission without which the tool is of no use; for listing and docs.
        needs: ``needs(arguments, lease)`` returns a `Need` for every stream that a call touches, as far as
            its arguments and its lease name it; it may refuse arguments that contradict the lease. The lease
            is None for a tool that takes none.
        hints: Its annotations, with the reasons.
        handler: Does the work; raises `redstreamd.errors.BusError` for what an agent can act on.
        plan: Returns a call as one round trip to Redis, with the result of the handler; None for a call that
            is more. None if no call is. The direct path runs plans and waits, everything else the handler,
            and a differential test holds both to the same answers.
        wait: Returns a call as a wait, with the result of the handler, or what begins that wait in a task;
            None for a call that does not wait at once: then `plan` is asked. None if no call is a wait.
        unaudited: Why no call needs an audit record, if it is destructive and has no argument that removes
            what others rely on; else empty. See `effects`.
        known_effects: The `effects`, once they were asked for; for each call.

    `needs`, `plan` and `wait` get a value with the attributes of the argument class, not always an instance
    of it.
    A tool takes a lease if an argument is marked `NameOf.LEASE`.
    """

    name: str = attrs.field()
    title: str
    description: str = attrs.field()
    arguments: type[ArgumentsT] = attrs.field()
    result: type[attrs.AttrsInstance] | None
    profile: Profile
    permission: Permission
    needs: Callable[[ArgumentsT, Any], Sequence[Need]] = attrs.field()
    hints: Hints
    handler: Callable[[Call[Any], ArgumentsT], Awaitable[object]]
    plan: Callable[[Call[Any], ArgumentsT], Plan[Any] | None] | None = None
    wait: Callable[[Call[Any], ArgumentsT], Wait | BeginWait | None] | None = None
    unaudited: str = ""
    # Not a cached property: with that, each attribute of a class with slots takes three times as long.
    known_effects: list[Effects] = attrs.field(init=False, factory=list, eq=False, repr=False)

    @property
    def effects(self) -> Effects:
        """Which of its calls are audited; worked out when it is first asked.

        Raises:
            ValueError: That does not follow from the definition.
        """
        if not self.known_effects:
            effects = effects_of(
                self.arguments,
                self.permission,
                writes=not self.hints.read_only.value,
                destructive=self.hints.destructive.value,
                unaudited=self.unaudited,
            )
            self.known_effects.append(effects)
        return self.known_effects[0]

    @name.validator
    def _check_name(self, _: object, value: str) -> None:
        if not TOOL_NAME.fullmatch(value):
            raise ValueError(
                f"tool name {value!r} is not lower case letters, digits and underscores (2 to 40)"
            )

    @description.validator
    def _check_description(self, _: object, value: str) -> None:
        if not value:
            raise ValueError(f"tool {self.name} has no description: write the handler's docstring")
        if len(value) > MAX_DESCRIPTION:
            raise ValueError(f"the description of {self.name} is longer than {MAX_DESCRIPTION} characters")

    @arguments.validator
    def _check_arguments(self, _: object, value: type) -> None:
        if not _is_frozen_attrs(value):
            raise TypeError(f"tool {self.name} takes {value!r}; its arguments must be a frozen attrs class")

    @needs.validator
    def _check_needs(self, _: object, value: object) -> None:
        if isinstance(value, StreamNeeds):
            declared = {argument for argument, _, _ in value.terms}
            names = {field.name for field in attrs.fields(self.arguments)}
            if missing := sorted(declared - names):
                raise ValueError(
                    f"tool {self.name} needs streams of arguments that it does not have: {missing}"
                )
            streams = {name for name, what in names_in(self.arguments).items() if what is NameOf.STREAM}
            if forgotten := sorted(streams - declared):
                raise ValueError(
                    f"tool {self.name} needs nothing of the streams in its arguments {forgotten}"
                )


def _description(docstring: str | None) -> str:
    """Return the paragraphs before the first section header, each on one line."""
    text = _SECTION.split(inspect.cleandoc(docstring or "") + "\n", maxsplit=1)[0]
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def tool(
    *,
    title: str,
    profile: Profile,
    permission: Permission,
    needs: Callable[[Any, Any], Sequence[Need]],
    hints: Hints,
    plan: Callable[[Any, Any], Plan[Any] | None] | None = None,
    wait: Callable[[Any, Any], Wait | BeginWait | None] | None = None,
    unaudited: str = "",
) -> Callable[[Callable[[Call[BusT], ArgumentsT], Awaitable[object]]], Tool[ArgumentsT]]:
    """Turn ``async def name(call: Call[Bus], args: NameArguments) -> NameResult`` into a `Tool`.

    The function gives the name, the description (its docstring up to the first section header such as
    ``Raises:``), the argument class (the second parameter's annotation) and the result class (the return
    annotation, if that is an attrs class). See `Tool` for the parameters.

    Raises:
        TypeError: When decorating: the arguments are not a frozen attrs class.
        ValueError: When decorating: there is no docstring, or the needs do not fit the arguments.
    """

    def define(handler: Callable[[Call[BusT], ArgumentsT], Awaitable[object]]) -> Tool[ArgumentsT]:
        types = typing.get_type_hints(handler)
        parameters = list(inspect.signature(handler).parameters)
        if len(parameters) != 2:
            raise TypeError(f"{handler!r} must take the call and its arguments, nothing else")
        answer = types.get("return")
        return Tool(
            name=getattr(handler, "__name__", ""),
            title=title,
            description=_description(handler.__doc__),
            arguments=types[parameters[1]],
            result=answer if isinstance(answer, type) and attrs.has(answer) else None,
            profile=profile,
            permission=permission,
            needs=needs,
            hints=hints,
            handler=handler,
            plan=plan,
            wait=wait,
            unaudited=unaudited,
        )

    return define


class UnknownToolError(LookupError):
    """No tool has this name.

    Attributes:
        name: The unknown name.
        nearest: Names that exist, most similar first, at most three.
    """

    def __init__(self, name: str, nearest: tuple[str, ...], text: str = "") -> None:
        """Record the name and similar names; `text` is the text of the error."""
        similar = f"; nearest: {', '.join(nearest)}" if nearest else ""
        super().__init__(text or f"there is no tool {name!r}{similar}")
        self.name = name
        self.nearest = nearest


class Registry:
    """Tools, sorted by name, which is the order of every listing. Immutable."""

    def __init__(self, tools: Iterable[Tool[Any]]) -> None:
        """Collect ``tools``.

        Raises:
            ValueError: Two have the same name.
        """
        self._tools: dict[str, Tool[Any]] = {}
        for each in sorted(tools, key=lambda one: one.name):
            if each.name in self._tools:
                raise ValueError(f"two tools are called {each.name}")
            self._tools[each.name] = each

    def __iter__(self) -> Iterator[Tool[Any]]:
        """Iterate over the tools, sorted by name."""
        return iter(self._tools.values())

    def __len__(self) -> int:
        """Return how many tools there are."""
        return len(self._tools)

    def __contains__(self, name: object) -> bool:
        """Say whether a tool of this name exists."""
        return name in self._tools

    def get(self, name: str) -> Tool[Any]:
        """Return the tool of this name.

        Raises:
            UnknownToolError: There is none; the error carries the nearest names.
        """
        try:
            return self._tools[name]
        except KeyError:
            raise UnknownToolError(name, nearest_names(name, self._tools, _NEAREST)) from None

    def for_profiles(self, profiles: Iterable[Profile]) -> Registry:
        """Return the tools of all these profiles together."""
        active = frozenset[Profile]().union(*(profile.includes for profile in profiles))
        return Registry(each for each in self if each.profile in active)
