"""The result of ``tools/call`` for a success and for a failure, as plain JSON values.

Every result holds its content twice, as ``structuredContent`` and as a text block with the same JSON. The
specification recommends that for clients that know only the text
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

# Characters of a message, cause or next step, which are a few sentences; the rest is cut off.
_MAX_ERROR_PART = 2_000


def success(result: object) -> dict[str, Any]:
    """Return the ``tools/call`` result for what a handler returned.

    An attrs instance or a mapping becomes structured content and its JSON text; members that are None by
    default are left out. Anything else becomes text only, because revisions before 2026-07-28 allow only an
    object as structured content: a string as it is, the rest as JSON.
    """
    if isinstance(result, str):
        return {"content": [{"type": "text", "text": result}], "isError": False}
    value = _CONVERTER.unstructure(result)
    content = [{"type": "text", "text": msgspec.json.encode(value).decode()}]
    if isinstance(value, dict):
        return {"content": content, "structuredContent": value, "isError": False}
    return {"content": content, "isError": False}


def failure(error: BusError) -> dict[str, Any]:
    """Return the ``tools/call`` result for a `BusError`."""
    message, cause, next_step = (_sentence(part) for part in (error.message, error.cause, error.next_step))
    text = f"{error.code}: {message} Cause: {cause} Next step: {next_step}"
    members = {"code": str(error.code), "message": message, "cause": cause, "next_step": next_step}
    return {"content": [{"type": "text", "text": text}], "structuredContent": members, "isError": True}


def _sentence(text: str) -> str:
    if len(text) > _MAX_ERROR_PART:
        text = text[: _MAX_ERROR_PART - 1] + "…"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _is_plain(hint: Any) -> bool:
    """Whether values of this type are JSON values and need no conversion."""
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


# Tuples become lists, because the SDK's in-process client validates the values without encoding them.
_CONVERTER = cattrs.Converter(unstruct_collection_overrides={Sequence: list, frozenset: list, tuple: list})
_CONVERTER.register_unstructure_hook_factory(attrs.has, _unstructurer)
