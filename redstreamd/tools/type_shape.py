"""Which annotations an argument may have: those for which JSON Schema and msgspec say the same.

Owns the check that a definition goes through once, when it is compiled; what its schema may look like is
checked by ``tools.dialect_check``. Knows no values.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union

import attrs
from msgspec import inspect

# A date-time, for one, is only an annotation in JSON Schema but is parsed by msgspec.
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


@attrs.frozen
class TypeShape:
    """What a type is made of, as far as structuring asks.

    Attributes:
        integers: Whether some value in it has to be an integer.
        payload: Whether it holds values of any type, which are not looked into.
    """

    integers: bool
    payload: bool


def type_shape(hint: Any) -> TypeShape:
    """Check an annotation and return what it is made of.

    Raises:
        TypeError: Schema and structuring could disagree about it.
    """
    _refuse_unions(hint)
    nodes = list(_nodes(inspect.type_info(hint)))
    payload = any(isinstance(node, inspect.AnyType) for node in nodes)
    integers = any(isinstance(node, inspect.IntType) for node in nodes)
    if payload and integers:
        raise TypeError(f"{hint}: a payload cannot be told from the integers beside it")
    return TypeShape(integers=integers, payload=payload)


def _nodes(node: inspect.Type) -> Iterator[inspect.Type]:
    """Iterate over a type and all it is made of, and refuse what is not a JSON type."""
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
    """Refuse a choice of types, other than ``T | None``, before msgspec sees it.

    The dialect has none, but that cannot wait for the schema: msgspec 0.22 corrupts memory when it compiles
    a string with a pattern in a union with a list or an object.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return
    if origin is typing.Annotated:
        _refuse_unions(inner[0])
        return
    members = [each for each in inner if each is not type(None)]
    if origin in (Union, types.UnionType) and len(members) > 1:
        raise TypeError(f"{hint}: no provider of models is sure to take a choice of types")
    for each in members:
        _refuse_unions(each)
