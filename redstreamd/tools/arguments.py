"""A tool's arguments: from the JSON object of a call to an instance of its argument class.

Owns one promise: a call is accepted exactly when the tool's published input schema accepts it (a
property test holds the two against each other with `jsonschema`), and a refusal names every
offending argument at once, so that an agent needs one more attempt and not five. Knows nothing of
MCP and of what the arguments mean.

Four rules stand above the schema and are the same for every tool:

- An argument that the schema does not name is refused: whoever misspells one must not lose its effect.
- A JSON text stands for its value where the schema has no string; see ``tools.json_texts``.
- An explicit null for an argument that exists is read as "not given". Clients that build a model
  class from the schema send every optional argument they were not given as null; refusing those
  calls would teach nobody anything.
- JSON means I-JSON (RFC 7493): a repeated member name, a lone surrogate or a number that a double
  cannot hold is refused. The content of payloads (`Any` in an argument's type) passes untouched,
  by identity, and is judged by who stores it.
"""

from __future__ import annotations

import json
import re
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
from redstreamd.tools.schema import arguments_schema, describe
from redstreamd.tools.type_shape import type_shape

ArgumentsT = TypeVar("ArgumentsT", bound=attrs.AttrsInstance)

# How much of a wrong value an error repeats: enough to recognise it, little enough that an error
# cannot carry a payload.
_SHOWN = 80
# A call with a thousand invented names gets as much of an answer as helps.
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
            max_nesting: How deep a message may be, also where a part of it is JSON text.
            max_values: How many JSON values all texts of a call may hold.

        Raises:
            TypeError: An annotation is one for which schema and structuring could disagree.
        """
        hints = typing.get_type_hints(arguments, include_extras=True)
        leaves: dict[str, Any] = {}
        for field in attrs.fields(arguments):
            if field.alias != field.name:
                raise TypeError(f"{arguments.__name__}.{field.name} has another name in a call")
            leaves[field.name] = override(struct_hook=_leaf(hints[field.name]))
        self.schema = arguments_schema(arguments)
        self._arguments = arguments
        self._max_nesting = max_nesting
        self._max_values = max_values
        self._properties: dict[str, dict[str, Any]] = self.schema["properties"]
        self._structure: Callable[[Mapping[str, Any], Any], ArgumentsT] = make_dict_structure_fn(
            arguments, cattrs.Converter(), _cattrs_forbid_extra_keys=True, **leaves
        )

    def __call__(self, given: object) -> ArgumentsT:
        """Return the arguments that ``given``, the ``arguments`` member of a call, holds.

        Args:
            given: What the JSON decoder produced, or None for a call without arguments. Never
                changed; payloads in the result are the same objects as in ``given``, unless they were
                given as JSON text.

        Raises:
            BusError: INVALID_ARGUMENT, naming each argument that is wrong, what was given and
                what is allowed.
        """
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise _refused([f"{_shown(given)} given; allowed: an object of named arguments"])
        if isinstance(given, strict_json.DuplicateNames):
            raise _refused([f"the argument {_shown(given.name)} is given twice"])
        if None in given.values():
            known = self._properties
            given = {name: value for name, value in given.items() if value is not None or name not in known}
        try:
            return self._structure(given, self._arguments)
        except cattrs.ClassValidationError:
            texts = json_text_arguments.Reader(self._max_values, self._max_nesting)
            given = texts.read(given, self._properties)
        try:
            return self._structure(given, self._arguments)
        except cattrs.ClassValidationError as refusal:
            raise _refused(list(self._problems(refusal, given, texts.refusals))) from None

    def _problems(
        self, refusal: cattrs.ClassValidationError, given: Mapping[str, Any], texts: Mapping[str, str]
    ) -> Iterator[str]:
        by_attribute, others = refusal.group_exceptions()
        for problem, note in by_attribute:
            allowed = describe(self._properties[note.name])
            if note.name not in given:
                yield f"{note.name} is missing; it must be {allowed}"
            elif isinstance(problem, BusError):
                yield f"{note.name} is not I-JSON: {problem.cause.rstrip('.')}"
            elif isinstance(problem, msgspec.ValidationError):
                place, value = _offending(given[note.name], str(problem))
                no_text = f", {texts[note.name + place]}" if note.name + place in texts else ""
                yield f"{note.name}{place}: {_shown(value)} given{no_text}; allowed: {allowed}"
            else:
                raise problem
        for problem in others:
            if not isinstance(problem, cattrs.ForbiddenExtraKeysError):
                raise problem
            yield from self._unknown([name for name in given if name in problem.extra_fields])

    def _unknown(self, names: list[str]) -> Iterator[str]:
        for name in names[:_UNKNOWN_SHOWN]:
            known = ", ".join(nearest_names(name, self._properties)) or "none"
            yield f"{_shown(name)} is not an argument; allowed, nearest first: {known}"
        if len(names) > _UNKNOWN_SHOWN:
            yield f"{len(names) - _UNKNOWN_SHOWN} more that are not arguments"


def _refused(problems: Iterable[str]) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        "; ".join(problems) + ".",
        cause="The arguments do not match the tool's input schema.",
        next_step="Correct what is named here and call again; nothing has been done.",
    )


def _leaf(hint: Any) -> Callable[[Any, Any], Any]:
    """Return the function that checks and converts values of one argument's type."""
    made = type_shape(hint)
    # A one-member struct, because msgspec compiles a struct's types once and any other at each call.
    box = msgspec.defstruct("Box", [("value", hint)])

    def convert(value: Any) -> Any:
        try:
            return msgspec.convert({"value": value}, box).value  # type: ignore[attr-defined]
        except UnicodeEncodeError:
            # Where msgspec looks at text of which it expected something else, a lone surrogate stops it.
            strict_json.check(value)
            raise

    def payload(value: Any, _: object) -> Any:
        # Checked, but not copied: msgspec would replace objects by plain dicts, and with them the
        # mark of a repeated member name.
        return tuple(value) if isinstance(convert(value), tuple) else value

    if made.payload:
        return payload

    def leaf(value: Any, _: object) -> Any:
        try:
            result = convert(value)
        except msgspec.ValidationError as error:
            # JSON Schema: 5.0 is an integer. Looked at only where that may be what is wrong, so that
            # refusing a value never takes longer than reading it did.
            if not made.integers or "got `float`" not in str(error):
                raise
            result = convert(_whole(value))
        # ASCII text, by far the most common value, is I-JSON at a glance.
        if type(value) is not str or not value.isascii():
            strict_json.check(value)
        return result

    return leaf


def _whole(value: Any) -> Any:
    """Return ``value`` with whole floats as integers, at any depth."""
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {name: _whole(member) for name, member in value.items()}
    return value


def _offending(value: Any, problem: str) -> tuple[str, Any]:
    """Return the place inside a list that msgspec complains about, and the value there."""
    place = ""
    for index in re.findall(r"\[(\d+)\]", problem.rpartition(" - at `$.value")[2]):
        if not isinstance(value, list):
            break
        place += f"[{index}]"
        value = value[int(index)]
    return place, value


def _shown(value: object) -> str:
    """Return the beginning of the value's JSON, safe to encode whatever it holds."""
    text = ""
    # Encoded piece by piece and no further than needed: the value may be megabytes.
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(
        value[:_SHOWN] if isinstance(value, str) else value
    ):
        text += piece[: _SHOWN + 1]
        if len(text) > _SHOWN:
            text = text[: _SHOWN - 1] + "…"
            break
    return text.encode("utf-8", "backslashreplace").decode()
