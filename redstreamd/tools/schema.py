"""JSON Schema 2020-12 for a tool's arguments and its result, from attrs classes.

`msgspec.json.schema_components` translates the classes. This module inlines references, removes redundant
keywords, and checks the result against the dialect that every provider of models takes
(``tools.schema_dialect``). ``tools.arguments`` checks values.

The dialect cannot express:

- That an argument of another name is refused. Google's API does not take ``additionalProperties``.
- Which members a successful result always has. MCP exempts results with ``isError`` from the output schema,
  but the client of the TypeScript SDK (1.x) validates every structured content that it receives. With a
  schema that requires members, it would replace our message, cause and next step by "does not match the
  tool's output schema" (modelcontextprotocol/typescript-sdk issue 1943). A union is not in the dialect.
  Tests and documentation use `always_present` instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from redstreamd.tools.schema_check import schema_faults

FAILURE = ("code", "message", "cause", "next_step")
"""The members of a failed call's structured content."""

Schema = dict[str, Any]


def arguments_schema(arguments: type[attrs.AttrsInstance]) -> Schema:
    """Return the input schema of a tool: flat, without null.

    Arguments with a default are optional. ``T | None = None`` is an optional T, since None means "not given".

    Raises:
        TypeError: An argument is itself a class, or cannot be expressed in the dialect.
    """
    schema = _inlined(arguments)
    for name, member in schema["properties"].items():
        if "properties" in member:
            raise TypeError(f"{arguments.__name__}.{name}: an argument is flat")
    return _checked(arguments, schema)


def result_schema(result: type[attrs.AttrsInstance]) -> Schema:
    """Return the output schema of a tool.

    It is open, so that a later version may add members, and requires no members at its root, so that a
    failure matches it, too. A member declared ``T | None = None`` is left out when it is None.

    Raises:
        TypeError: A member has the name of a failure's member, or cannot be expressed in the dialect.
    """
    schema = _inlined(result)
    if clash := sorted(set(FAILURE) & set(schema["properties"])):
        raise TypeError(f"{result.__name__} has members that belong to failures: {clash}")
    _open(schema)
    return _checked(result, {**schema, "required": []})


def always_present(result: type[attrs.AttrsInstance]) -> tuple[str, ...]:
    """Return the members that every successful result of this class has."""
    return tuple(field.name for field in attrs.fields(result) if field.default is not None)


def describe(schema: Schema) -> str:
    """Describe the values that a schema accepts, for error messages: "an integer from 1 to 100"."""
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer":
            return "an integer" + _interval(schema)
        case "number":
            return "a number" + _interval(schema)
        case "string":
            return "a string" + _extent(schema, "Length", "character")
        case "array":
            return f"a list{_extent(schema, 'Items', 'item')}, each {describe(schema['items'])}"
        case _:
            return "an object"


def _interval(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    if least is not None:
        return f" of at least {least}"
    return "" if most is None else f" of at most {most}"


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
    """Return ``schema`` with references inlined, without null and redundant keywords."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name in inside:
            raise TypeError(f"{name} contains itself; a schema without $ref cannot express that")
        # A class's docstring and name are for readers of the code. The description for the model is beside
        # the reference.
        body = {key: value for key, value in components[name].items() if key not in ("title", "description")}
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**_simplified(body, components, (*inside, name)), **beside}
    result = {key: value for key, value in schema.items() if not _is_redundant(key, value)}
    if "anyOf" in result and schema.get("default", ...) is None:
        choices = [choice for choice in result["anyOf"] if choice != {"type": "null"}]
        if len(choices) == 1:
            del result["anyOf"]
            return {**_simplified(choices[0], components, inside), **result}
    if "enum" in result and all(isinstance(value, str) for value in result["enum"]):
        result = {"type": "string", **result}
    if isinstance(result.get("items"), dict):
        result["items"] = _simplified(result["items"], components, inside)
    if "properties" in result:
        result["properties"] = {
            name: _simplified(member, components, inside) for name, member in result["properties"].items()
        }
    if result.get("type") == "object":
        result.setdefault("required", [])
    return result


def _is_redundant(key: str, value: object) -> bool:
    return key == "title" or (key == "default" and value in (None, (), [], {}))


def _open(schema: Schema) -> None:
    """Remove defaults, which mean nothing in a result, and the types of a map's values."""
    schema.pop("default", None)
    schema.pop("additionalProperties", None)
    for member in schema.get("properties", {}).values():
        _open(member)
    if "items" in schema:
        _open(schema["items"])


def _checked(cls: type, schema: Schema) -> Schema:
    if faults := list(schema_faults(schema)):
        raise TypeError(f"{cls.__name__}: not every provider of models takes {'; '.join(map(str, faults))}")
    return schema
