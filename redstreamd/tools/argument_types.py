"""The types that an argument may have: those for which JSON Schema and msgspec agree.

A definition is checked once, when it is compiled. ``tools.schema_check`` checks the schema itself.
"""

from __future__ import annotations

import enum
import functools
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, Union

import msgspec
from msgspec import inspect

MarkerT = TypeVar("MarkerT", bound=enum.Enum)

# Not, for example, a date-time: an annotation in JSON Schema, but parsed by msgspec.
_JSON_TYPES = (
    inspect.AnyType,
    inspect.BoolType,
    inspect.StrType,
    inspect.IntType,
    inspect.FloatType,
    inspect.LiteralType,
    inspect.NoneType,
    inspect.UnionType,
    inspect.ListType,
    inspect.VarTupleType,
    inspect.DictType,
    inspect.Metadata,
)


class NameOf(enum.Enum):
    """What an argument names; part of its `Annotated` type, so that every call checks the name.

    A stream's name is checked where a tool's needs have it, a lease where it is read.
    """

    STREAM = enum.auto()
    GROUP = enum.auto()
    CONSUMER = enum.auto()
    LEASE = enum.auto()


class Holds(enum.Enum):
    """What a text holds; part of its `Annotated` type."""

    CONTENT = enum.auto()  #: What others are to read, as the values in payloads: no error repeats it.


def contents_in(arguments: type) -> frozenset[str]:
    """Return which arguments of a tool hold content."""
    payloads = (name for name, hint in annotations_of(arguments).items() if argument_type(hint).is_payload)
    return frozenset((*payloads, *markers_in(arguments, Holds)))


def names_in(arguments: type) -> dict[str, NameOf]:
    """Return which arguments of a tool name what, in their order."""
    return markers_in(arguments, NameOf)


@functools.lru_cache(maxsize=128)
def annotations_of(arguments: type) -> Mapping[str, Any]:
    """Return the types of a tool's arguments with what they are annotated with; not to be changed."""
    return typing.get_type_hints(arguments, include_extras=True)


def markers_in(arguments: type, kind: type[MarkerT]) -> dict[str, MarkerT]:
    """Return the arguments of a tool that are marked, with the first marker of a kind, in their order."""
    found = ((field, next(_markers(hint, kind), None)) for field, hint in annotations_of(arguments).items())
    return {field: marker for field, marker in found if marker is not None}


def _markers(hint: Any, kind: type[MarkerT]) -> Iterator[MarkerT]:
    for part in (*getattr(hint, "__metadata__", ()), *typing.get_args(hint)):
        if isinstance(part, kind):
            yield part
        elif typing.get_origin(part) is not None:
            yield from _markers(part, kind)


class ArgumentType(msgspec.Struct, frozen=True):
    """The properties of an argument's type that structuring needs.

    Attributes:
        has_integers: Whether the type contains an integer.
        is_payload: Whether it contains values of any type, which are not checked.
    """

    has_integers: bool
    is_payload: bool


def argument_type(hint: Any) -> ArgumentType:
    """Check an annotation and return its properties.

    Raises:
        TypeError: Schema and structuring could disagree about it.
    """
    _refuse_unions(hint)
    nodes = list(_nodes(inspect.type_info(hint)))
    payload = any(isinstance(node, inspect.AnyType) for node in nodes)
    integers = any(isinstance(node, inspect.IntType) for node in nodes)
    if payload and integers:
        raise TypeError(f"{hint}: a type with values of any type may have no integers")
    return ArgumentType(has_integers=integers, is_payload=payload)


def _nodes(node: inspect.Type) -> Iterator[inspect.Type]:
    """Iterate over a type and the types in it; TypeError for one that is not a JSON type."""
    if not isinstance(node, _JSON_TYPES):
        raise TypeError(f"{node} is not a type for which JSON Schema and structuring agree")
    yield node
    inner: tuple[inspect.Type, ...] = ()
    if isinstance(node, inspect.Metadata):
        inner = (node.type,)
    elif isinstance(node, inspect.UnionType):
        inner = node.types
    elif isinstance(node, inspect.ListType | inspect.VarTupleType):
        inner = (node.item_type,)
    elif isinstance(node, inspect.DictType):
        inner = (node.key_type, node.value_type)
    for each in inner:
        yield from _nodes(each)


def _refuse_unions(hint: Any) -> None:
    """Raise TypeError for a union other than ``T | None``.

    The schema's check would come too late: msgspec 0.22 corrupts memory when it compiles a string with a
    pattern in a union with a list or an object.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return
    if origin is typing.Annotated:
        _refuse_unions(inner[0])
        return
    members = [each for each in inner if each is not type(None)]
    if origin in (Union, types.UnionType) and len(members) > 1:
        raise TypeError(f"{hint}: not every provider of models accepts a union")
    for each in members:
        _refuse_unions(each)
