"""A tool's answer: structured content, and the same as text.

Owns the form of a result and of a failure as ``tools/call`` returns them, as plain JSON values.
Knows no SDK: what is built here is the body of the JSON-RPC result in every era and in every lane.
How the entries in it stay small is in ``streams.bounds``.

Every answer is given twice, as ``structuredContent`` and as one text block with the same JSON: the
specification recommends it for clients that know only the text
(https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content).
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

import attrs
import cattrs
import msgspec
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override

from redstreamd.errors import BusError
from redstreamd.presentation.truncation import bound_entries

__all__ = ["bound_entries", "failure", "success"]

# A part of an error is a sentence or two; a longer one would be content that slipped in.
_MAX_ERROR_PART = 2_000


def success(result: object) -> dict[str, Any]:
    """Return the ``tools/call`` result for what a handler returned.

    An attrs instance or a mapping becomes structured content and its JSON text; members that are
    None and have None as their default are left out. Anything else becomes text alone (revisions
    before 2026-07-28 allow nothing but an object as structured content): a string as it is, the
    rest as JSON.
    """
    if isinstance(result, str):
        return {"content": [{"type": "text", "text": result}], "isError": False}
    value = _CONVERTER.unstructure(result)
    content = [{"type": "text", "text": msgspec.json.encode(value).decode()}]
    if isinstance(value, dict):
        return {"content": content, "structuredContent": value, "isError": False}
    return {"content": content, "isError": False}


def failure(error: BusError) -> dict[str, Any]:
    """Return the ``tools/call`` result for a call that failed in a way its caller can act on."""
    message, cause, next_step = (_sentence(part) for part in (error.message, error.cause, error.next_step))
    text = f"{error.code}: {message} Cause: {cause} Next step: {next_step}"
    members = {"code": str(error.code), "message": message, "cause": cause, "next_step": next_step}
    return {"content": [{"type": "text", "text": text}], "structuredContent": members, "isError": True}


def _sentence(text: str) -> str:
    if len(text) > _MAX_ERROR_PART:
        text = text[: _MAX_ERROR_PART - 1] + "…"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _is_plain(hint: Any) -> bool:
    """Say whether a value of this type is its own JSON value, so that nobody need walk through it."""
    if hint in (Any, str, int, float, bool, None, type(None)):
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_plain(inner[0])
    if origin is Literal:
        return not any(isinstance(value, enum.Enum) for value in inner)
    return origin in (list, dict, Union, types.UnionType) and all(_is_plain(each) for each in inner)


def _unstructurer(cls: type[attrs.AttrsInstance], converter: cattrs.Converter) -> Any:
    hints = typing.get_type_hints(cls, include_extras=True)
    members: dict[str, Any] = {
        field.name: override(
            omit_if_default=field.default is None,
            unstruct_hook=identity if _is_plain(hints[field.name]) else None,
        )
        for field in attrs.fields(cls)
    }
    return make_dict_unstructure_fn(cls, converter, **members)


# JSON has one kind of list: the SDK's in-process client, for one, validates what it is given
# without a trip through JSON, where a tuple is no array.
_CONVERTER = cattrs.Converter(unstruct_collection_overrides={Sequence: list, frozenset: list, tuple: list})
_CONVERTER.register_unstructure_hook_factory(attrs.has, _unstructurer)
