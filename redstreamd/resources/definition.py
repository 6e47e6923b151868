"""What a resource is: address, words, rights and handler in one value, and the library of them.

Owns the definition and how an address is taken apart. Refuses to know MCP (see ``resources.server``) and
what any resource says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import attrs
import msgspec

from redstreamd.policy import Permission, Principal
from redstreamd.presentation.views import Views
from redstreamd.streams.subscriptions.topics import Topic

#: Far beyond the longest names that the settings allow, every byte of them escaped.
_MAX_URI = 1_000_000
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@attrs.frozen
class Reading:
    """What a handler is given beside the parts of the address.

    Attributes:
        facts: Where it asks.
        principal: On whose behalf.
    """

    facts: Views
    principal: Principal


@attrs.frozen
class Content:
    """What a resource says.

    Attributes:
        body: Text, or bytes where it is no text.
        mime_type: Of this content.
    """

    body: str | bytes
    mime_type: str


@attrs.frozen
class Resource:
    """One resource, or all resources of one template.

    Attributes:
        name: For programs.
        title: For people, in lists.
        description: For both.
        uri: The address; parts in braces stand for one path segment each (RFC 6570, level 1).
        mime_type: Of the content; None if it differs from one to the next.
        permission: What the caller must be allowed to do to the streams.
        streams: Which parts of the address name streams, for the policy.
        fresh_seconds: How long a client may go without asking again.
        topic: Builds what a subscriber watches, from the parts; None if it cannot be subscribed to.
        read: Does the work; raises `redstreamd.errors.BusError`.
    """

    name: str
    title: str
    description: str = attrs.field()
    uri: str
    mime_type: str | None
    permission: Permission
    streams: tuple[str, ...] = attrs.field()
    fresh_seconds: float
    topic: Callable[..., Topic] | None
    read: Callable[..., Awaitable[Content]]

    @description.validator
    def _check_description(self, _: object, value: str) -> None:
        if not value:
            raise ValueError(f"resource {self.name} has no description: write the handler's docstring")

    @streams.validator
    def _check_streams(self, _: object, value: tuple[str, ...]) -> None:
        if missing := sorted(set(value) - set(self.parameters)):
            raise ValueError(f"resource {self.name} names streams by parts that its address lacks: {missing}")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parts of the address that stand for something."""
        return tuple(part[1:-1] for part in self.uri.split("/") if part.startswith("{"))

    @property
    def is_template(self) -> bool:
        """Whether it is many resources."""
        return bool(self.parameters)

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """Return what an address, split at its slashes, says for each part; None if it is another's."""
        parts = self.uri.split("/")
        if len(parts) != len(segments):
            return None
        values: dict[str, str] = {}
        for part, given in zip(parts, segments, strict=True):
            if not part.startswith("{"):
                if part != given:
                    return None
            elif (value := _unescaped(given)) is None:
                return None
            else:
                values[part[1:-1]] = value
        return values


def resource(
    uri: str,
    *,
    title: str,
    mime_type: str | None,
    streams: tuple[str, ...],
    fresh_seconds: float,
    topic: Callable[..., Topic] | None,
    permission: Permission = Permission.READ,
) -> Callable[[Callable[..., Awaitable[Content]]], Resource]:
    """Turn ``async def name(reading: Reading, *, part: str) -> Content`` into a `Resource`.

    The function gives the name and the description (its docstring); the parts of the address are its
    keyword arguments. See `Resource` for each parameter.

    Raises:
        TypeError: When decorating: the function takes other parts than the address has.
        ValueError: When decorating: there is no docstring, or a stream is no part of the address.
    """

    def define(read: Callable[..., Awaitable[Content]]) -> Resource:
        made = Resource(
            name=getattr(read, "__name__", ""),
            title=title,
            description=" ".join(inspect.cleandoc(read.__doc__ or "").split()),
            uri=uri,
            mime_type=mime_type,
            permission=permission,
            streams=streams,
            fresh_seconds=fresh_seconds,
            topic=topic,
            read=read,
        )
        _, *taken = inspect.signature(read).parameters
        if tuple(taken) != made.parameters:
            raise TypeError(f"{made.name} takes {taken}, and its address has {made.parameters}")
        return made

    return define


@attrs.frozen
class Found:
    """A resource that an address belongs to.

    Attributes:
        resource: Which.
        parts: What the address says for each of its parts.
    """

    resource: Resource
    parts: Mapping[str, str]

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the caller needs `Resource.permission` for."""
        return tuple(self.parts[part] for part in self.resource.streams)

    @property
    def topic(self) -> Topic | None:
        """What to watch, or None if it cannot be subscribed to."""
        return None if self.resource.topic is None else self.resource.topic(**self.parts)

    async def read(self, reading: Reading) -> Content:
        """Read it; see `Resource.read`."""
        return await self.resource.read(reading, **self.parts)


class Library:
    """All resources there are, sorted by address. Immutable."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        """Collect `resources`.

        Raises:
            ValueError: Two of them have the same address.
        """
        self._resources = sorted(resources, key=lambda each: each.uri)
        if len({each.uri for each in self._resources}) < len(self._resources):
            raise ValueError("two resources have the same address")

    def __iter__(self) -> Iterator[Resource]:
        """Iterate over the resources, sorted by address."""
        return iter(self._resources)

    def find(self, uri: str) -> Found | None:
        """Return the resource that an address belongs to, or None."""
        if len(uri) > _MAX_URI:
            return None
        segments = uri.split("/")
        for each in self._resources:
            if (parts := each.match(segments)) is not None:
                return Found(each, parts)
        return None


def _unescaped(segment: str) -> str | None:
    """Return what a path segment stands for, or None if it is no UTF-8 or a broken escape."""
    if _BROKEN_ESCAPE.search(segment):
        return None
    try:
        value = unquote(segment, errors="strict")
        value.encode()
    except UnicodeError:
        return None
    return value


def json_content(value: Any) -> Content:
    """Return a JSON value as content."""
    return Content(msgspec.json.encode(value).decode(), "application/json")
