"""Decodes the arguments of a plain call from their text, in one step.

What it decodes is what `arguments.Structurer` makes of the same text, at a fifth of the cost. Whatever is
unusual or wrong is left to that, which is the truth about arguments; a property test compares both.
"""

from __future__ import annotations

import typing
from typing import Any, Final

import attrs
import msgspec
from msgspec import UNSET

from redstreamd.strict_json import MAX_INTEGER, names_are_distinct


class ArgumentDecoder:
    """Decodes the arguments of one tool; compiled once."""

    def __init__(self, arguments: type[attrs.AttrsInstance]) -> None:
        """Compile the argument class of a tool, for which a `Structurer` can be made."""
        hints = typing.get_type_hints(arguments, include_extras=True)
        fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        defaults: list[tuple[str, Any]] = []
        for field in attrs.fields(arguments):
            if field.default is attrs.NOTHING:
                fields.append((field.name, hints[field.name]))
                continue
            # Null stands for an argument that is not given, so it must not be a value of its own.
            is_optional = field.default is None or type(None) not in typing.get_args(hints[field.name])
            self_made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
            if not is_optional or self_made:
                raise TypeError(
                    f"{arguments.__name__}.{field.name} has a default that null does not stand for"
                )
            fields.append((field.name, hints[field.name] | msgspec.UnsetType, UNSET))
            defaults.append((field.name, field.default))
        # Members without a default may follow others.
        self._struct: Final = msgspec.defstruct(
            arguments.__name__, fields, kw_only=True, forbid_unknown_fields=True
        )
        self._decoder: Final = msgspec.json.Decoder(self._struct)
        self._defaults: Final = tuple(defaults)
        self._integers: Final = tuple(name for name, hint in hints.items() if _may_be_integer(hint))

    def __call__(self, text: bytes) -> Any:
        """Return a value with the attributes of the argument class, or None if the text is not plain.

        Args:
            text: JSON for which `strict_json.text_is_plain` is true.
        """
        try:
            given = self._decoder.decode(text)
        except (msgspec.MsgspecError, ValueError):
            return None
        if not names_are_distinct(text, given):
            return None
        for name in self._integers:
            value = getattr(given, name)
            if type(value) is int and not -MAX_INTEGER <= value <= MAX_INTEGER:
                return None
        for name, default in self._defaults:
            if getattr(given, name) is UNSET:
                setattr(given, name, default)
        return given


def as_arguments(cls: type[attrs.AttrsInstance], given: Any) -> Any:
    """Return what an `ArgumentDecoder` decoded as an instance of the argument class, for a handler."""
    return cls(**{field.name: getattr(given, field.name) for field in attrs.fields(cls)})


def _may_be_integer(hint: Any) -> bool:
    if hint is int:
        return True
    return any(_may_be_integer(each) for each in typing.get_args(hint) if not isinstance(each, msgspec.Meta))
