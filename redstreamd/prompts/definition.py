"""What a prompt is: name, words, arguments, rights and handler in one value, and the registry of them.

Owns the definition and the check of arguments. Refuses to know MCP (see ``prompts.server``) and what any
prompt says.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission, Principal
from redstreamd.presentation.views import Views

#: An argument is a name or a sentence or two; it is repeated in the prompt.
MAX_ARGUMENT = 4_000


@attrs.frozen
class Argument:
    """One argument of a prompt; MCP has only text.

    Attributes:
        name: For programs; `stream`, `group` and the like are completed.
        description: For people.
        required: Whether the prompt makes no sense without it.
    """

    name: str
    description: str
    required: bool = True


@attrs.frozen
class Asking:
    """What a handler is given beside the arguments.

    Attributes:
        facts: Where it asks.
        principal: On whose behalf.
    """

    facts: Views
    principal: Principal


@attrs.frozen
class Brief:
    """What a prompt says.

    Attributes:
        instructions: What the model is to do; written here, never by others.
        facts: What is the case right now: address -> JSON value. Shown to the model as data, apart from
            the instructions, because names and contents in them are written by others.
    """

    instructions: str
    facts: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Prompt:
    """One prompt.

    Attributes:
        name: What clients ask for.
        title: For people, in lists.
        description: For people.
        arguments: What can be given.
        permission: What the caller must be allowed to do to the streams.
        streams: Which arguments name streams, for the policy.
        write: Does the work.
    """

    name: str
    title: str
    description: str = attrs.field()
    arguments: tuple[Argument, ...]
    permission: Permission
    streams: tuple[str, ...] = attrs.field()
    write: Callable[..., Awaitable[Brief]]

    @description.validator
    def _check_description(self, _: object, value: str) -> None:
        if not value:
            raise ValueError(f"prompt {self.name} has no description: write the handler's docstring")

    @streams.validator
    def _check_streams(self, _: object, value: tuple[str, ...]) -> None:
        if missing := sorted(set(value) - {each.name for each in self.arguments}):
            raise ValueError(f"prompt {self.name} names streams by arguments that it lacks: {missing}")

    def streams_of(self, given: Mapping[str, str]) -> tuple[str, ...]:
        """Return the streams that the caller needs `permission` for."""
        return tuple(given[name] for name in self.streams if name in given)

    async def get(self, asking: Asking, given: Mapping[str, str]) -> Brief:
        """Return what the prompt says for these arguments.

        Raises:
            BusError: INVALID_ARGUMENT: one is missing, unknown or too long.
        """
        known = {each.name for each in self.arguments}
        missing = [each.name for each in self.arguments if each.required and not given.get(each.name)]
        if missing:
            raise self._refusal(f"{self.name} needs {', '.join(missing)}.")
        if unknown := sorted(set(given) - known):
            raise self._refusal(f"{self.name} has no argument {unknown[0][:80]!r}.")
        if long := [name for name, value in given.items() if len(value) > MAX_ARGUMENT]:
            raise self._refusal(f"{long[0]} is longer than {MAX_ARGUMENT} characters.")
        # An empty text is what many clients send for a field that was left empty.
        return await self.write(asking, **{name: value for name, value in given.items() if value})

    def _refusal(self, message: str) -> BusError:
        names = ", ".join(each.name + ("" if each.required else " (optional)") for each in self.arguments)
        return BusError(
            Code.INVALID_ARGUMENT,
            message,
            cause=f"Its arguments are: {names or 'none'}.",
            next_step="Call prompts/list to see what each is for.",
        )


def prompt(
    name: str,
    *arguments: Argument,
    title: str,
    streams: tuple[str, ...],
    permission: Permission = Permission.READ,
) -> Callable[[Callable[..., Awaitable[Brief]]], Prompt]:
    """Turn ``async def write(asking: Asking, argument: str) -> Brief`` into a `Prompt`.

    The docstring is the description. See `Prompt` for each parameter.

    Raises:
        TypeError: When decorating: the function takes other arguments than were declared.
        ValueError: When decorating: there is no docstring, or a stream is no argument.
    """

    def define(write: Callable[..., Awaitable[Brief]]) -> Prompt:
        _, *taken = inspect.signature(write).parameters
        if taken != [each.name for each in arguments]:
            raise TypeError(f"{name} takes {taken}, and declares {[each.name for each in arguments]}")
        return Prompt(
            name=name,
            title=title,
            description=" ".join(inspect.cleandoc(write.__doc__ or "").split()),
            arguments=arguments,
            permission=permission,
            streams=streams,
            write=write,
        )

    return define


class Prompts:
    """All prompts there are, sorted by name. Immutable."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        """Collect `prompts`.

        Raises:
            ValueError: Two of them have the same name.
        """
        self._prompts: dict[str, Prompt] = {}
        for each in sorted(prompts, key=lambda one: one.name):
            if each.name in self._prompts:
                raise ValueError(f"two prompts are called {each.name}")
            self._prompts[each.name] = each

    def __iter__(self) -> Iterator[Prompt]:
        """Iterate over the prompts, sorted by name."""
        return iter(self._prompts.values())

    def find(self, name: str) -> Prompt | None:
        """Return the prompt of this name, or None."""
        return self._prompts.get(name)


STREAM = Argument("stream", "Name of the stream.")
GROUP = Argument("group", "Name of the consumer group.")


async def known(asked: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Return a fact, or why it could not be had: a diagnosis is wanted most when something fails."""
    try:
        return await asked
    except BusError as error:
        return {
            "failed": {
                "code": str(error.code),
                "message": error.message,
                "cause": error.cause,
                "next_step": error.next_step,
            }
        }
