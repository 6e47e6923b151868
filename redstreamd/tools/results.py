"""The result of ``tools/call`` for a success and for a failure, encoded to bytes once.

Every result holds its content twice, as ``structuredContent`` and as a text block with JSON of the same
value. The specification recommends that for clients that know only the text
(https://modelcontextprotocol.io/specification/2025-11-25/server/tools#structured-content). The text is what a
model reads: hidden characters are escaped there, which JSON allows anywhere in a string.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Union

import attrs
import cattrs
import msgspec
from cattrs.fns import identity
from cattrs.gen import make_dict_unstructure_fn, override

from redstreamd.errors import BusError
from redstreamd.visible_text import visible

_encode = msgspec.json.Encoder().encode
_CONTENT = b'{"content":[{"type":"text","text":'
_STRUCTURED = b'}],"structuredContent":'
# By whether the call failed.
_ENDED = (b',"isError":false', b',"isError":true')

# Stands for the text in a `ResultForm`.
_BLANK: Final = "<blank>"

# Characters of a message, cause or next step, which are a few sentences; the rest is cut off.
_MAX_ERROR_PART = 2_000


class Result(msgspec.Struct, frozen=True):
    """What ``tools/call`` answers, encoded once.

    Attributes:
        is_error: Whether the call failed.
        opened: The JSON of the whole result without the closing brace, for what revisions add.
        size: Bytes of the structured content; of the text, if there is none.
        own_text: The text block; None if it is the very bytes of the structured content.
        is_structured: Whether there is structured content.
    """

    is_error: bool
    opened: bytes
    size: int
    own_text: str | None = None
    is_structured: bool = True

    @property
    def body(self) -> bytes | None:
        """The JSON of the structured content, which is a part of `opened`; None if there is none."""
        if not self.is_structured:
            return None
        end = len(self.opened) - len(_ENDED[self.is_error])
        return self.opened[end - self.size : end]

    @property
    def text(self) -> str:
        """The text block."""
        if self.own_text is not None:
            return self.own_text
        return (self.body or b"").decode()

    def as_values(self) -> dict[str, Any]:
        """Return the result as JSON values, for a client that gets values instead of bytes."""
        answer: dict[str, Any] = {"content": [{"type": "text", "text": self.text}]}
        if (body := self.body) is not None:
            answer["structuredContent"] = json.loads(body)
        return {**answer, "isError": self.is_error}

    def members(self) -> dict[str, Any]:
        """Return the result as `as_values` does, with its content as JSON that msgspec copies."""
        text = _encode(self.text)
        answer: dict[str, Any] = {"content": msgspec.Raw(b'[{"type":"text","text":%b}]' % text)}
        if (body := self.body) is not None:
            answer["structuredContent"] = msgspec.Raw(body)
        return {**answer, "isError": self.is_error}


def success(result: object) -> Result:
    """Return the ``tools/call`` result for what a handler returned.

    An attrs instance or a mapping becomes structured content and its JSON text; members that are None by
    default are left out. Anything else becomes text only, because revisions before 2026-07-28 allow only an
    object as structured content: a string as it is, the rest as JSON.

    A `Result` is returned as it is.

    Raises:
        TypeError: The result cannot be encoded as JSON; also as ValueError.
    """
    if isinstance(result, Result):
        return result
    if isinstance(result, str):
        return _text_only(result)
    kind = type(result)
    value = (_UNSTRUCTURE.get(kind) or _unstructure_hook(kind))(result)
    body = _encode(value)
    return structured(body) if type(value) is dict else _text_only(visible(body.decode()))


def structured(body: bytes) -> Result:
    """Return what `success` returns for a mapping, given its JSON."""
    text = body.decode()
    own_text = None
    # Of the characters of ASCII the encoder leaves one as it is that nobody sees.
    if (b"\x7f" in body or not body.isascii()) and (shown := visible(text)) != text:
        text = own_text = shown
    opened = b"".join((_CONTENT, _encode(text), _STRUCTURED, body, _ENDED[False]))
    return Result(False, opened, len(body), own_text)


def joined(bodies: Sequence[bytes], inner: Sequence[bytes], own_text: str | None, *, whole: bool) -> Result:
    """Return what `success` returns for a value, given in parts.

    Args:
        bodies: Its JSON.
        inner: The text block as the inside of a JSON string.
        own_text: See `Result`.
        whole: Whether the value is structured content, too; else it is the text only.
    """
    if whole:
        opened = b"".join((_CONTENT, b'"', *inner, b'"', _STRUCTURED, *bodies, _ENDED[False]))
        return Result(False, opened, sum(map(len, bodies)), own_text)
    text = "".join(map(bytes.decode, bodies)) if own_text is None else own_text
    opened = b"".join((_CONTENT, b'"', *inner, b'"}],"isError":false'))
    return Result(False, opened, len(text.encode()), text, is_structured=False)


class ResultForm:
    """The results of successes that differ in one text only, such as the ID of an entry."""

    def __init__(self, like: Callable[[str], object]) -> None:
        """Differ as what `like` returns for a text, which has the text once; encoded when first needed."""
        self._like: Final = like
        self._parts: tuple[bytes, bytes, bytes, int] | None = None

    def filled(self, text: bytes) -> Result:
        """Return what `success` returns with this text, which JSON need not escape: visible ASCII."""
        first, second, third, size = self._parts or self._split()
        return Result(False, b"".join((first, text, second, text, third)), size + len(text))

    def _split(self) -> tuple[bytes, bytes, bytes, int]:
        """Return what is around the text, and the size of the structured content without it."""
        made = success(self._like(_BLANK))
        first, second, third = made.opened.split(_BLANK.encode())
        self._parts = first, second, third, made.size - len(_BLANK)
        return self._parts


def failure(error: BusError) -> Result:
    """Return the ``tools/call`` result for a `BusError`."""
    message, cause, next_step = (_sentence(part) for part in (error.message, error.cause, error.next_step))
    text = f"{error.code}: {message} Cause: {cause} Next step: {next_step}"
    members: dict[str, str | float] = {
        "code": str(error.code),
        "message": message,
        "cause": cause,
        "next_step": next_step,
    }
    if error.retry_after_seconds is not None:
        members["retry_after_seconds"] = error.retry_after_seconds
    body = _encode(members)
    opened = b"".join((_CONTENT, _encode(text), _STRUCTURED, body, _ENDED[True]))
    return Result(True, opened, len(body), text)


def _text_only(text: str) -> Result:
    opened = b"".join((_CONTENT, _encode(text), b'}],"isError":false'))
    return Result(False, opened, len(text.encode()), text, is_structured=False)


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


_CONVERTER = cattrs.Converter(unstruct_collection_overrides={Sequence: list, frozenset: list, tuple: list})
_CONVERTER.register_unstructure_hook_factory(attrs.has, _unstructurer)

# By the class of results; the converter itself takes longer to find its own.
_UNSTRUCTURE: dict[type, Callable[[Any], Any]] = {}


def _unstructure_hook(kind: type) -> Callable[[Any], Any]:
    hook = _UNSTRUCTURE[kind] = _CONVERTER.get_unstructure_hook(kind)
    return hook
