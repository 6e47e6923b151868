"""JSON Schema from attrs classes, small enough for a listing that a model reads.

Owns the two dialects that a tool needs, both plain JSON Schema 2020-12: of its arguments (flat,
closed) and of its result (open, also met by a failure). `msgspec.json.schema_components` does the
translation; what is added here is inlining, closing and leaving out what says nothing. Knows
nothing of values: see ``tools.arguments`` for what accepts them.

Why a result's schema also permits a failure: MCP exempts results with ``isError`` from the output
schema and the Python SDK's client honours that, but the client of the TypeScript SDK (1.x)
validates every structured content it receives, so that a stricter schema would put "does not match
the tool's output schema" in the place of our message, cause and next step
(modelcontextprotocol/typescript-sdk issue 1943).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

FAILURE = ("code", "message", "cause", "next_step")
"""The members of a failed call's structured content."""

Schema = dict[str, Any]


def arguments_schema(arguments: type[attrs.AttrsInstance]) -> Schema:
    """Return the input schema of a tool: flat, closed, without null.

    An argument that may be left out is one with a default. ``T | None = None`` is shown as an
    optional T: None means "not given", so null has no place among the values (see
    ``tools.arguments`` for how an explicit null is read).

    Raises:
        TypeError: An argument is itself a class, or may be null without having None as its default.
    """
    schema = _inlined(arguments)
    for name, member in schema["properties"].items():
        if "properties" in member or _admits_null(member):
            raise TypeError(f"{arguments.__name__}.{name}: an argument is flat, and null means not given")
    return {**schema, "additionalProperties": False}


def result_schema(result: type[attrs.AttrsInstance]) -> Schema:
    """Return the output schema of a tool: what a success must have, or a failure's members.

    It is open, so that a later version may add members. A member declared ``T | None = None`` is
    left out when it is None; one without a default is always present, be it null.

    Raises:
        TypeError: A member has the name of one of a failure's.
    """
    schema = _inlined(result)
    if clash := sorted(set(FAILURE) & set(schema["properties"])):
        raise TypeError(f"{result.__name__} has members that belong to failures: {clash}")
    _drop_defaults(schema)
    required = schema.pop("required", [])
    if required:
        schema["anyOf"] = [{"required": required}, {"required": list(FAILURE)}]
    return schema


def describe(schema: Schema) -> str:
    """Say in words which values a schema accepts, for error messages; "an integer from 1 to 100"."""
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe(choice) for choice in schema["anyOf"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(describe({**schema, "type": each}) for each in kind)
    match kind:
        case "boolean":
            return "true or false"
        case "integer" | "number":
            return ("an integer" if kind == "integer" else "a number") + _interval(schema)
        case "string":
            matching = f" matching {schema['pattern']}" if "pattern" in schema else ""
            return "a string" + _extent(schema, "Length", "character") + matching
        case "array":
            items = schema.get("items")
            each = f", each {describe(items)}" if items else ""
            return "a list" + _extent(schema, "Items", "item") + each
        case "object":
            values = schema.get("additionalProperties")
            each = f" whose values are each {describe(values)}" if values else ""
            return "an object" + _extent(schema, "Properties", "member") + each
        case "null":
            return "null"
        case _:
            return "any JSON value"


def _interval(schema: Schema) -> str:
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    bounds = [
        f"{word} {bound}"
        for word, bound in (("above", above), ("of at least", least), ("below", below), ("of at most", most))
        if bound is not None
    ]
    return " " + " and ".join(bounds) if bounds else ""


def _extent(schema: Schema, what: str, unit: str) -> str:
    least, most = schema.get(f"min{what}", 0), schema.get(f"max{what}")
    if most is None:
        return f" of at least {_counted(least, unit)}" if least else ""
    return f" of {least} to {_counted(most, unit)}" if least else f" of at most {_counted(most, unit)}"


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _inlined(cls: type[attrs.AttrsInstance]) -> Schema:
    (root,), components = msgspec.json.schema_components([cls])
    return _simplified(root, components, ())


def _simplified(schema: Schema, components: Mapping[str, Schema], inside: tuple[str, ...]) -> Schema:
    """Return ``schema`` with its references inlined and all that says nothing left out."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in inside:
            raise TypeError(f"{name} contains itself; a schema without $ref cannot say that")
        # A class's docstring and name are for people who read the code. What the model should know
        # of it stands where it is used, beside the reference.
        body = {key: value for key, value in components[name].items() if key not in ("title", "description")}
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**_simplified(body, components, (*inside, name)), **beside}
    result = {key: value for key, value in schema.items() if not _says_nothing(key, value)}
    for key in ("items", "additionalProperties"):
        if isinstance(result.get(key), dict):
            result[key] = _simplified(result[key], components, inside)
            if not result[key]:
                del result[key]
    if "properties" in result:
        result["properties"] = {
            name: _simplified(member, components, inside) for name, member in result["properties"].items()
        }
    if "anyOf" in result:
        choices = [_simplified(choice, components, inside) for choice in result.pop("anyOf")]
        if "default" in schema and schema["default"] is None:
            choices = [choice for choice in choices if choice != {"type": "null"}]
        result = {**_united(choices), **result}
    return result


def _says_nothing(key: str, value: object) -> bool:
    return key == "title" or (key == "default" and value in (None, (), [], {}))


def _united(choices: list[Schema]) -> Schema:
    """Return one schema for any of ``choices``, as a list of types where that says the same."""
    if len(choices) == 1:
        return choices[0]
    # Bounds apply to values of their own type only, so they may stand beside a list of types as
    # long as a single choice has any.
    types = [choice.get("type") for choice in choices]
    detailed = [choice for choice in choices if set(choice) != {"type"}]
    if all(isinstance(kind, str) for kind in types) and len(detailed) <= 1:
        return {**(detailed[0] if detailed else {}), "type": types}
    return {"anyOf": choices}


def _admits_null(schema: Schema) -> bool:
    for choice in schema.get("anyOf", (schema,)):
        kind = choice.get("type")
        if kind == "null" or (isinstance(kind, list) and "null" in kind) or None in choice.get("enum", ()):
            return True
    return False


def _drop_defaults(schema: Schema) -> None:
    """Remove defaults: of a result they say nothing, what is there is there."""
    schema.pop("default", None)
    for member in schema.get("properties", {}).values():
        _drop_defaults(member)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _drop_defaults(schema[key])
    for choice in schema.get("anyOf", ()):
        _drop_defaults(choice)
