"""Decodes the arguments of a plain call from their text, in one step.

What it decodes is what `arguments.Structurer` makes of the same text, at a fifth of the cost. Whatever is
unusual or wrong is left to that, which is the truth about arguments; a property test compares both.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final

import attrs
import msgspec
from msgspec import UNSET, Meta

from redstreamd import long_texts
from redstreamd.long_texts import LongText
from redstreamd.strict_json import MAX_INTEGER, count
from redstreamd.strict_json import colons as colons_in

_encode_into: Final = msgspec.json.Encoder().encode_into
#: What was encoded last. To make a new object each time takes a fifth more. Nothing that is encoded names a
#: member twice: so a text that equals it does not either, whoever encoded it.
_ENCODED: Final = bytearray()

#: So many calls are decoded with all members, once one had a member that has a default.
_CALLS_WITH_ALL: Final = 64

#: The classes of what was decoded from a text without members that have a default. They hold the others, and
#: have the defaults as attributes of the class: so who looks for more than those is spared that by the class.
ONLY_REQUIRED: Final[set[type]] = set()


class ArgumentDecoder:
    """Decodes the arguments of one tool; compiled once.

    A decoder keeps the last of two members of the same name. So no name is repeated if what was decoded,
    encoded again, is the text. It need not be, if the text has spaces or another order: but each member of a
    plain text has one colon, and every other is in a string, so no name is repeated if both have as many.

    Most calls of most tools give nothing that has a default. Such a text is decoded in less time to an object
    with fewer members.
    """

    def __init__(self, arguments: type[attrs.AttrsInstance]) -> None:
        """Compile the argument class of a tool, for which a `Structurer` can be made."""
        hints = {
            name: _bounded(hint)
            for name, hint in typing.get_type_hints(arguments, include_extras=True).items()
        }
        usual: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        exact: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        defaults: list[tuple[str, Any]] = []
        for field in attrs.fields(arguments):
            name, hint, default = field.name, hints[field.name], field.default
            if default is attrs.NOTHING:
                usual.append((name, hint))
                exact.append((name, hint))
                continue
            # Null stands for an argument that is not given, so it must not be a value of its own.
            is_optional = default is None or type(None) not in typing.get_args(hint)
            if not is_optional or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
                raise TypeError(f"{arguments.__name__}.{name} has a default that null does not stand for")
            usual.append((name, hint, default))
            exact.append((name, hint | msgspec.UnsetType, UNSET))
            defaults.append((name, default))
        # In the usual form a member that was not given has its default, and is not encoded again. Neither is
        # a default that was given: then the exact form tells whether a name is repeated. Members without a
        # default may follow others.
        options: dict[str, Any] = {"kw_only": True, "forbid_unknown_fields": True}
        name = arguments.__name__
        required = [each for each in usual if len(each) == 2]
        only_required = msgspec.defstruct(name, required, namespace=dict(defaults), **options)
        ONLY_REQUIRED.add(only_required)
        self._only_required: Final = _decoder(only_required)
        # How many calls are decoded with all members before it is tried again without.
        self._with_all = 0
        self._usual: Final = _decoder(msgspec.defstruct(name, usual, omit_defaults=True, **options))
        self._exact: Final = _decoder(msgspec.defstruct(name, exact, **options))
        self._defaults: Final = tuple(defaults)
        # The arguments in which any text may be, of any length.
        self._payloads: Final = tuple(name for name, hint in hints.items() if _holds_objects(hint))

    def __call__(
        self, text: bytes | msgspec.Raw, colons: int | None = None, long_text: LongText | None = None
    ) -> Any:
        """Return a value with the attributes of the argument class, or None if the text is not plain.

        Args:
            text: JSON for which `strict_json.text_is_plain` is true.
            colons: How many colons it has; None if they were not counted.
            long_text: Was taken out of the text, see ``long_texts``.
        """
        if long_text is not None:
            given = self(text)
            if given is not None and long_texts.put_in(
                map(given.__getattribute__, self._payloads), long_text.text
            ):
                return given
            whole = long_texts.put_back(bytes(text), long_text)
            return self(whole, count(whole, b":"))
        try:
            # A long text is decoded once.
            if self._with_all or colons is not None:
                given = self._usual(text)
                self._with_all -= self._with_all > 0
            else:
                try:
                    given = self._only_required(text)
                except msgspec.ValidationError:
                    self._with_all = _CALLS_WITH_ALL
                    given = self._usual(text)
            if colons is None:
                _encode_into(given, _ENCODED)
                if text == _ENCODED:  # type: ignore[comparison-overlap] # bytes may equal it
                    return given
                colons = bytes(text).count(b":")
            if colons_in(given, text) == colons:
                return given
            given = self._exact(text)
        except (msgspec.MsgspecError, ValueError):
            return None
        if colons_in(given, text) != colons:
            return None
        for name, default in self._defaults:
            if getattr(given, name) is UNSET:
                setattr(given, name, default)
        return given


def as_arguments(cls: type[attrs.AttrsInstance], given: Any) -> Any:
    """Return what an `ArgumentDecoder` decoded as an instance of the argument class, for a handler."""
    return cls(**{field.name: getattr(given, field.name) for field in attrs.fields(cls)})


def _holds_objects(hint: Any) -> bool:
    """Return whether a value of this type is, or holds, objects with any members."""
    return typing.get_origin(hint) is dict or any(map(_holds_objects, typing.get_args(hint)))


def _decoder(kind: type) -> Callable[[bytes | msgspec.Raw], Any]:
    return msgspec.json.Decoder(kind).decode


def _bounded(hint: Any) -> Any:
    """Return a type whose integers are those of I-JSON."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and inner[0] is int:
        metas = [each for each in inner[1:] if isinstance(each, Meta)]
        lowest = max((each.ge for each in metas if each.ge is not None), default=-MAX_INTEGER)
        highest = min((each.le for each in metas if each.le is not None), default=MAX_INTEGER)
        return Annotated[int, Meta(ge=lowest, le=highest)]
    if hint is int:
        return Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(map(_bounded, inner))]  # noqa: UP007 - of as many as there are
    return hint
