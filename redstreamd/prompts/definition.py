"""The definition of a prompt and the registry that finds one by name.

Owns the check of arguments. Does not know MCP (see ``mcp_server.prompt_server``).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs
import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.presentation.views import Views

#: Characters of an argument: a name or a few sentences, repeated in the prompt.
MAX_ARGUMENT = 4_000


class Argument(msgspec.Struct, frozen=True):
    """An argument of a prompt. Its value is a string, as MCP defines it.

    Attributes:
        name: Its name; values of `stream`, `group` and the like are completed.
        description: Shown to users.
        required: Whether it must be given.
    """

    name: str
    description: str
    required: bool = True


class PromptContent(msgspec.Struct, frozen=True):
    """What a prompt returns.

    Attributes:
        instructions: What the model is to do. Contains no text written by others.
        resources: URI -> current value as JSON. Shown to the model as data, apart from the instructions,
            because it contains text written by others.
    """

    instructions: str
    resources: Mapping[str, Any] = msgspec.field(default_factory=dict)


@attrs.frozen
class Prompt:
    """A prompt.

    Attributes:
        name: Its name in ``prompts/get``.
        title: Shown to users in lists.
        description: Shown to users.
        arguments: The arguments it takes.
        permission: What the caller must be allowed to do to the streams besides reading their state, and to
            any stream for the prompt to be there at all; None for what is there for everybody.
        streams: The arguments that name streams, for the policy.
        render: The handler.
    """

    name: str
    title: str
    description: str = attrs.field()
    arguments: tuple[Argument, ...]
    permission: Permission | None
    streams: tuple[str, ...] = attrs.field()
    render: Callable[..., Awaitable[PromptContent]]

    @description.validator
    def _check_description(self, _: object, value: str) -> None:
        if not value:
            raise ValueError(f"prompt {self.name} has no description: write the handler's docstring")

    @streams.validator
    def _check_streams(self, _: object, value: tuple[str, ...]) -> None:
        if missing := sorted(set(value) - {each.name for each in self.arguments}):
            raise ValueError(f"prompt {self.name} has no arguments {missing}, which its streams name")

    def streams_of(self, given: Mapping[str, str]) -> tuple[str, ...]:
        """Return the streams that the caller needs `permission` for."""
        return tuple(given[name] for name in self.streams if given.get(name))

    def is_readable(self, views: Views) -> bool:
        """Return whether the state that it shows is there for whoever `views` are for."""
        return not self.streams or views.offers(Permission.READ)

    async def get(self, views: Views, given: Mapping[str, str]) -> PromptContent:
        """Render the prompt with these arguments.

        Raises:
            BusError: INVALID_ARGUMENT if one is missing, unknown or too long; PERMISSION_DENIED.
        """
        known = {each.name for each in self.arguments}
        missing = [each.name for each in self.arguments if each.required and not given.get(each.name)]
        if missing:
            raise self._refusal(f"{self.name} needs {', '.join(missing)}.")
        if unknown := sorted(set(given) - known):
            raise self._refusal(f"{self.name} has no argument {unknown[0][:80]!r}.")
        if long := [name for name, value in given.items() if len(value) > MAX_ARGUMENT]:
            raise self._refusal(f"{long[0]} is longer than {MAX_ARGUMENT} characters.")
        for stream in self.streams_of(given):
            for permission in {Permission.READ, self.permission or Permission.READ}:
                views.authorise(stream, permission)
        # Many clients send an empty string for a form field that was left empty.
        return await self.render(views, **{name: value for name, value in given.items() if value})

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
    permission: Permission | None = Permission.READ,
) -> Callable[[Callable[..., Awaitable[PromptContent]]], Prompt]:
    """Turn ``async def render(views: Views, argument: str) -> PromptContent`` into a `Prompt`.

    The docstring is the description. See `Prompt` for the parameters.

    Raises:
        TypeError: When decorating: the function's parameters are not the declared arguments.
        ValueError: When decorating: there is no docstring, or a stream is not an argument.
    """

    def define(render: Callable[..., Awaitable[PromptContent]]) -> Prompt:
        _, *taken = inspect.signature(render).parameters
        if taken != [each.name for each in arguments]:
            raise TypeError(f"{name} takes {taken}, and declares {[each.name for each in arguments]}")
        return Prompt(
            name=name,
            title=title,
            description=" ".join(inspect.cleandoc(render.__doc__ or "").split()),
            arguments=arguments,
            permission=permission,
            streams=streams,
            render=render,
        )

    return define


class PromptRegistry:
    """All prompts, sorted by name. Immutable."""

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        """Collect `prompts`.

        Raises:
            ValueError: Two have the same name.
        """
        self._prompts: dict[str, Prompt] = {}
        for each in sorted(prompts, key=lambda one: one.name):
            if each.name in self._prompts:
                raise ValueError(f"two prompts are called {each.name}")
            self._prompts[each.name] = each

    def __iter__(self) -> Iterator[Prompt]:
        """Iterate over the prompts, sorted by name."""
        return iter(self._prompts.values())

    def offered(self, views: Views) -> list[Prompt]:
        """Return the prompts that there are for whoever `views` are for, sorted by name."""
        return [each for each in self if views.offers(each.permission) and each.is_readable(views)]

    def find(self, name: str, views: Views) -> Prompt | None:
        """Return the prompt of this name, or None if there is none for whoever `views` are for."""
        return next((each for each in self.offered(views) if each.name == name), None)


STREAM = Argument("stream", "Name of the stream.")
GROUP = Argument("group", "Name of the consumer group.")


async def value_or_error(views: Views, value: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Return a value, or the error that it failed with: a diagnosis is needed when something fails."""
    try:
        return await value
    except BusError as failed:
        error = views.told(failed)
        return {
            "failed": {
                "code": str(error.code),
                "message": error.message,
                "cause": error.cause,
                "next_step": error.next_step,
            }
        }
