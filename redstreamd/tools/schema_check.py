"""Checks published schemas against the dialect that every provider of models takes.

``tools.schema_dialect`` has the rules. What is checked are plain JSON values, not Python types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from redstreamd.tools.schema_dialect import (
    MAX_DEPTH,
    MAX_DESCRIPTION,
    MAX_ITEMS,
    MAX_NAMES,
    MAX_PROPERTIES,
    MAX_TOOLS,
    PROPERTY_NAME,
    TOOL_NAME,
)

#: The keywords that a schema of each type may have, in addition to the common ones.
KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"default", "enum", "minLength", "maxLength"}),
    "integer": frozenset({"default", "minimum", "maximum"}),
    "number": frozenset({"default", "minimum", "maximum"}),
    "boolean": frozenset({"default"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "object": frozenset({"properties", "required"}),
}
_COMMON = frozenset({"type", "description"})
_KNOWN = _COMMON.union(*KEYWORDS.values())
_UNIONS = frozenset({"anyOf", "oneOf", "allOf", "not", "if", "then", "else"})
_REFERENCES = frozenset({"$ref", "$defs", "definitions", "$dynamicRef", "$id", "$anchor"})
_PYTHON: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


class Fault(msgspec.Struct, frozen=True):
    """A violation of a rule.

    Attributes:
        rule: The name of the `Rule`.
        place: Where in the schema: ``properties.count``, or "" for the root.
        problem: What was found there.
    """

    rule: str
    place: str
    problem: str

    def __str__(self) -> str:
        """Return it as one line."""
        return f"{self.place or 'root'}: {self.problem} (rule: {self.rule})"


def listing_faults(listing: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """Check the tools of one ``tools/list``."""
    count = 0
    for count, tool in enumerate(listing, 1):  # noqa: B007 - the last number is the count
        yield from tool_faults(tool)
    if count > MAX_TOOLS:
        yield Fault("size", "", f"{count} tools")


def tool_faults(tool: Mapping[str, Any]) -> Iterator[Fault]:
    """Check one tool as it is listed."""
    if not TOOL_NAME.fullmatch(tool["name"]):
        yield Fault("tool name", "", repr(tool["name"]))
    yield from _description_faults(tool, "")
    if "description" not in tool:
        yield Fault("description", "", "none")
    for schema in ("inputSchema", "outputSchema"):
        if schema in tool:
            for fault in schema_faults(tool[schema]):
                yield msgspec.structs.replace(fault, place=f"{tool['name']}.{schema} {fault.place}")


def schema_faults(schema: Any) -> Iterator[Fault]:
    """Check an input or output schema: a plain JSON value."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object" or not schema.get("properties"):
        yield Fault("root", "", "no object with properties")
    size = _Size()
    yield from _node_faults(schema, "", 1, size)
    if size.properties > MAX_PROPERTIES or size.characters > MAX_NAMES:
        yield Fault("size", "", f"{size.properties} properties, {size.characters} characters")


class _Size(msgspec.Struct):
    properties: int = 0
    characters: int = 0


def _node_faults(node: Any, place: str, depth: int, size: _Size) -> Iterator[Fault]:
    if not isinstance(node, Mapping):
        yield Fault("type", place, f"{node!r} is not a schema")
        return
    yield from _description_faults(node, place)
    kind = node.get("type")
    if not isinstance(kind, str) or kind not in KEYWORDS:
        yield Fault("union" if isinstance(kind, list) else "type", place, f"type {kind!r}")
        kind = None
    allowed = _KNOWN if kind is None else _COMMON | KEYWORDS[kind]
    for keyword in node:
        if keyword in _UNIONS:
            yield Fault("union", place, keyword)
        elif keyword in _REFERENCES:
            yield Fault("reference", place, keyword)
        elif keyword not in allowed:
            yield Fault("keyword" if keyword != "enum" else "enum", place, f"{keyword} at {kind!r}")
    if kind == "string" and "enum" in node:
        yield from _enum_faults(node["enum"], place, size)
    if "default" in node and kind in _PYTHON:
        yield from _default_faults(node, place)
    if kind in ("array", "object") and depth > MAX_DEPTH:
        yield Fault("depth", place, f"level {depth}")
    elif kind == "array":
        yield from _array_faults(node, place, depth, size)
    elif kind == "object":
        yield from _object_faults(node, place, depth, size)


def _description_faults(node: Mapping[str, Any], place: str) -> Iterator[Fault]:
    text = node.get("description", "-")
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_DESCRIPTION:
        yield Fault(
            "description", place, "no text" if not isinstance(text, str) else f"{len(text)} characters"
        )


def _enum_faults(values: Any, place: str, size: _Size) -> Iterator[Fault]:
    texts = isinstance(values, list) and all(isinstance(value, str) and value for value in values)
    if not texts or not values or len(set(values)) < len(values):
        yield Fault("enum", place, f"enum {values!r}")
    else:
        size.characters += sum(map(len, values))


def _default_faults(node: Mapping[str, Any], place: str) -> Iterator[Fault]:
    value = node["default"]
    wrong = not isinstance(value, _PYTHON[node["type"]]) or isinstance(value, bool) != (
        node["type"] == "boolean"
    )
    if wrong or ("enum" in node and value not in node["enum"]):
        yield Fault("default", place, f"default {value!r}")


def _array_faults(node: Mapping[str, Any], place: str, depth: int, size: _Size) -> Iterator[Fault]:
    if node.get("maxItems", 0) > MAX_ITEMS:
        yield Fault("items", place, f"maxItems {node['maxItems']}")
    if "items" not in node:
        yield Fault("items", place, "no items")
        return
    items = node["items"]
    if not isinstance(items, Mapping) or items.get("type") == "array":
        yield Fault("items", place, f"items {items!r}")
    yield from _node_faults(items, f"{place}[]", depth + 1, size)


def _object_faults(node: Mapping[str, Any], place: str, depth: int, size: _Size) -> Iterator[Fault]:
    properties = node.get("properties", {})
    if not isinstance(properties, Mapping) or ("properties" in node and not properties):
        yield Fault("properties", place, f"properties {properties!r}")
        properties = {}
    required = node.get("required")
    if not isinstance(required, list) or len(set(map(str, required))) < len(required):
        yield Fault("required", place, f"required {required!r}")
    elif unknown := [name for name in required if name not in properties]:
        yield Fault("required", place, f"required {unknown}, which are not properties")
    for name, member in properties.items():
        size.properties += 1
        size.characters += len(name)
        inside = f"{place}.{name}" if place else name
        if not PROPERTY_NAME.fullmatch(name):
            yield Fault("property name", inside, repr(name))
        yield from _node_faults(member, inside, depth + 1, size)
