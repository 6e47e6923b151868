"""Converts the JSON object of a call's arguments to an instance of the tool's argument class.

A call is accepted exactly when the tool's published input schema accepts it; a property test compares both
with `jsonschema`. An error names all invalid arguments at once, so that an agent needs one more attempt only.

Four rules hold for every tool in addition to the schema:

- An argument that the schema does not name is refused, because a misspelt one must not be ignored.
- A JSON text stands for its value where the schema has no string; see ``tools.json_text_arguments``.
- Null for an argument that exists means "not given". Clients that build a model class from the schema send
  null for every optional argument that was not given.
- JSON means I-JSON (RFC 7493): a repeated member name, a lone surrogate or a number outside the range of a
  double is refused. Payloads (`Any` in an argument's type) are passed on by identity, and checked where they
  are stored.
"""

from __future__ import annotations

import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import attrs
import cattrs
import msgspec
from cattrs.gen import make_dict_structure_fn, override

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.tools import json_text_arguments
from redstreamd.tools.argument_types import annotations_of, argument_type, contents_in
from redstreamd.tools.schema import arguments_schema, describe

ArgumentsT = TypeVar("ArgumentsT", bound=attrs.AttrsInstance)

# Characters of an invalid value that an error repeats.
_SHOWN = 80
# Unknown arguments that an error names.
_UNKNOWN_SHOWN = 5


class Structurer(Generic[ArgumentsT]):
    """Builds instances of one argument class; compiled once per tool.

    Attributes:
        schema: The input schema, JSON Schema 2020-12.
    """

    def __init__(
        self,
        arguments: type[ArgumentsT],
        *,
        max_nesting: int = strict_json.MAX_NESTING,
        max_values: int = strict_json.MAX_VALUES,
    ) -> None:
        """Compile ``arguments``, an attrs class annotated with JSON types and `msgspec.Meta`.

        Args:
            arguments: The class.
            max_nesting: How deep a message may be, including values given as JSON text.
            max_values: How many JSON values all texts of a call may hold.

        Raises:
            TypeError: For some annotation, schema and structuring could disagree.
        """
        hints = annotations_of(arguments)
        convert: dict[str, Callable[[Any, Any], Any]] = {}
        for field in attrs.fields(arguments):
            if field.alias != field.name:
                raise TypeError(f"{arguments.__name__}.{field.name} has another name in a call")
            convert[field.name] = _structure_hook(hints[field.name])
        hooks: dict[str, Any] = {name: override(struct_hook=hook) for name, hook in convert.items()}
        self._quick = _Quick(arguments, hints, convert)
        self.schema = arguments_schema(arguments)
        self._arguments = arguments
        self._contents = contents_in(arguments)
        self._max_nesting = max_nesting
        self._max_values = max_values
        self._properties: dict[str, dict[str, Any]] = self.schema["properties"]
        self._structure: Callable[[Mapping[str, Any], Any], ArgumentsT] = make_dict_structure_fn(
            arguments, cattrs.Converter(), _cattrs_forbid_extra_keys=True, **hooks
        )

    def __call__(self, given: object) -> ArgumentsT:
        """Return the arguments in ``given``, the ``arguments`` member of a call.

        Args:
            given: The decoded JSON, or None for a call without arguments. Not modified. Payloads in the
                result are the same objects, unless they were given as JSON text.

        Raises:
            BusError: INVALID_ARGUMENT, naming each invalid argument, what was given and what is allowed.
        """
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise _invalid([f"{_shown(given)} given; allowed: an object of named arguments"])
        if isinstance(given, strict_json.DuplicateNames):
            raise _invalid([f"the argument {_shown(given.name)} is given twice"])
        return self._quick(given) or self._whole(given)

    def _whole(self, given: Mapping[str, Any]) -> ArgumentsT:
        """Return the arguments in an object without a repeated name; see `__call__`."""
        if None in given.values():
            names = self._properties
            given = {name: value for name, value in given.items() if value is not None or name not in names}
        try:
            return self._structure(given, self._arguments)
        except cattrs.ClassValidationError as errors:
            _untie(errors)
            texts = json_text_arguments.Reader(self._max_values, self._max_nesting)
            given = texts.read(given, self._properties)
        try:
            return self._structure(given, self._arguments)
        except cattrs.ClassValidationError as errors:
            problems = list(self._problems(errors, given, texts.refusals))
            _untie(errors)
            raise _invalid(problems) from None

    def _problems(
        self, errors: cattrs.ClassValidationError, given: Mapping[str, Any], texts: Mapping[str, str]
    ) -> Iterator[str]:
        by_attribute, others = errors.group_exceptions()
        for problem, note in by_attribute:
            allowed = describe(self._properties[note.name])
            if note.name not in given:
                yield f"{note.name} is missing; it must be {allowed}"
            elif isinstance(problem, BusError):
                yield f"{note.name} is not I-JSON: {problem.cause.rstrip('.')}"
            elif isinstance(problem, msgspec.ValidationError):
                place, value = _invalid_item(given[note.name], str(problem))
                no_text = f", {texts[note.name + place]}" if note.name + place in texts else ""
                shown = _kind(value) if note.name in self._contents else _shown(value)
                yield f"{note.name}{place}: {shown} given{no_text}; allowed: {allowed}"
            else:
                raise problem
        for problem in others:
            if not isinstance(problem, cattrs.ForbiddenExtraKeysError):
                raise problem
            yield from self._unknown([name for name in given if name in problem.extra_fields])

    def _unknown(self, names: list[str]) -> Iterator[str]:
        for name in names[:_UNKNOWN_SHOWN]:
            nearest = ", ".join(nearest_names(name, self._properties)) or "none"
            yield f"{_shown(name)} is not an argument; allowed, nearest first: {nearest}"
        if len(names) > _UNKNOWN_SHOWN:
            yield f"{len(names) - _UNKNOWN_SHOWN} more that are not arguments"


def _untie(errors: cattrs.ClassValidationError) -> None:
    """Let go of the frame of the generated function, which has a list of these errors: a cycle."""
    for each in errors.exceptions:
        each.__traceback__ = None


class _Quick(Generic[ArgumentsT]):
    """A first attempt at the usual call, at half the cost.

    All scalar arguments are converted at once, lists and objects by the functions that the whole way uses.
    Whatever is unusual or wrong is left to the whole way, which is the truth; a property test compares both.
    """

    def __init__(
        self,
        arguments: type[ArgumentsT],
        hints: Mapping[str, Any],
        convert: Mapping[str, Callable[[Any, Any], Any]],
    ) -> None:
        self._arguments = arguments
        self._others = {name: convert[name] for name, hint in hints.items() if not _is_scalar(hint)}
        fields = [
            (name, Any if name in self._others else hints[name], *self._default(field.default))
            for name, field in attrs.fields_dict(arguments).items()
        ]
        # Members without a default may follow others here.
        self._scalars = msgspec.defstruct("Scalars", fields, kw_only=True, forbid_unknown_fields=True)

    @staticmethod
    def _default(default: Any) -> tuple[Any, ...]:
        # The value is not used: the default of the argument class is.
        return () if default is attrs.NOTHING else (None,)

    def __call__(self, given: dict[str, Any]) -> ArgumentsT | None:
        """Return the arguments, or None if the whole way has to be taken."""
        values: dict[str, Any] = {}
        try:
            scalars = msgspec.convert(given, self._scalars)
            for name, value in given.items():
                if name in self._others:
                    if value is None:
                        return None
                    values[name] = self._others[name](value, None)
                elif type(value) is str:
                    if not value.isascii():
                        return None
                    values[name] = value
                elif value is None:
                    return None
                else:
                    strict_json.check(value)
                    values[name] = getattr(scalars, name)
        except (msgspec.ValidationError, BusError, UnicodeError):
            return None
        return self._arguments(**values)


def _is_scalar(hint: Any) -> bool:
    """Whether the values of a type are no lists and no objects."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_scalar(inner[0])
    if inner:
        return origin in (typing.Union, types.UnionType) and all(map(_is_scalar, inner))
    return hint in (str, int, float, bool, type(None))


def _invalid(problems: Iterable[str]) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        "; ".join(problems) + ".",
        cause="The arguments do not match the tool's input schema.",
        next_step="Correct the arguments named here and call again; nothing has been done.",
    )


def _structure_hook(hint: Any) -> Callable[[Any, Any], Any]:
    """Return the function that checks and converts values of one argument's type."""
    traits = argument_type(hint)
    # A struct with one member, because msgspec compiles a struct's types once and any other at each call.
    box = msgspec.defstruct("Box", [("value", hint)])

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert({"value": value}, box).value  # type: ignore[attr-defined]
        except UnicodeEncodeError:
            # msgspec fails with this for a lone surrogate in a text where it expected another type.
            strict_json.check(value)
            raise

    def structure_payload(value: Any, _: object) -> Any:
        # Checked, but not copied: msgspec would replace objects by plain dicts, which do not record a
        # repeated member name.
        return tuple(value) if isinstance(convert(value), tuple) else value

    if traits.is_payload:
        return structure_payload

    def structure(value: Any, _: object) -> Any:
        try:
            result = convert(value)
        except msgspec.ValidationError as error:
            # JSON Schema: 5.0 is an integer. Tried only for this error, to keep refusing values cheap.
            if not traits.has_integers or "got `float`" not in str(error):
                raise
            result = convert(_with_integers(value))
        # ASCII text, by far the most common value, is always I-JSON.
        if type(value) is not str or not value.isascii():
            strict_json.check(value)
        return result

    return structure


def _with_integers(value: Any) -> Any:
    """Return ``value`` with whole floats as integers, at any depth."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: _with_integers(member) for name, member in value.items()}
    return value


def _invalid_item(value: Any, problem: str) -> tuple[str, Any]:
    """Return the place inside a list that msgspec's error names, and the value there."""
    place = ""
    for index in re.findall(r"\[(\d+)\]", problem.rpartition(" - at `$.value")[2]):
        if not isinstance(value, list):
            break
        place += f"[{index}]"
        value = value[int(index)]
    return place, value


def _kind(value: object) -> str:
    """Return what kind of JSON a value is, and its size, in the place of the value."""
    if isinstance(value, str):
        return f"a string of {len(value):,} characters" if value else '""'
    if isinstance(value, list):
        return f"a list of {len(value):,} items" if value else "[]"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "a number"


def _shown(value: object) -> str:
    """Return the beginning of the value's JSON; lone surrogates are escaped."""
    if isinstance(value, dict | list):
        text = ""
        # Encoded piece by piece and no further than needed, because the value may have megabytes.
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
            text += piece[: _SHOWN + 1]
            if len(text) > _SHOWN:
                break
    else:
        text = json.dumps(value[:_SHOWN] if isinstance(value, str) else value, ensure_ascii=False)
    if len(text) > _SHOWN:
        text = text[: _SHOWN - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode()
