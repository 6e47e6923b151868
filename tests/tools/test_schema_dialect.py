"""Every provider of models takes every schema of every tool; the rules detect schemas that some refuse."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jsonschema
import msgspec
import pytest

from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile, Tool
from redstreamd.tools.schema_check import listing_faults, schema_faults, tool_faults
from redstreamd.tools.schema_dialect import MAX_DESCRIPTION, MAX_TOOLS, RULES
from redstreamd.tools.tool_listing import listed

TOOLS = [pytest.param(tool, id=tool.name) for tool in REGISTRY]
Schema = dict[str, Any]


def published(tool: Tool[Any]) -> dict[str, Any]:
    """Return the tool as a client reads it."""
    as_read: dict[str, Any] = json.loads(json.dumps(listed(tool)))
    return as_read


def schemas(tool: Tool[Any]) -> Iterator[Schema]:
    return (schema for key, schema in published(tool).items() if key in ("inputSchema", "outputSchema"))


# --- The tools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_breaks_no_rule(tool: Tool[Any]) -> None:
    assert list(map(str, tool_faults(published(tool)))) == []


@pytest.mark.parametrize(
    "profiles",
    [
        pytest.param(chosen, id="+".join(chosen) or "none")
        for count in range(len(Profile) + 1)
        for chosen in itertools.combinations(Profile, count)
    ],
)
def test_the_listing_of_any_profiles_breaks_no_rule(profiles: tuple[Profile, ...]) -> None:
    assert not list(listing_faults(map(published, REGISTRY.for_profiles(profiles))))


@pytest.mark.parametrize("tool", TOOLS)
def test_schemas_are_json_schema_of_the_drafts_that_clients_validate_with(tool: Tool[Any]) -> None:
    for schema in schemas(tool):
        for draft in (
            jsonschema.Draft6Validator,
            jsonschema.Draft7Validator,
            jsonschema.Draft201909Validator,
            jsonschema.Draft202012Validator,
        ):
            draft.check_schema(schema)


class GoogleSchema(msgspec.Struct, forbid_unknown_fields=True):
    """Google's `Schema` message, which the field `parameters` of a function is read into.

    A member that it does not have, or of another type, makes the API answer 400. Written from its reference
    (https://ai.google.dev/api/caching#Schema), not from our rules.
    """

    type: Literal["string", "number", "integer", "boolean", "array", "object"]
    format: Literal["float", "double", "int32", "int64", "enum", "date-time"] | None = None
    title: str | None = None
    description: str | None = None
    nullable: bool | None = None
    enum: list[str] | None = None
    maxItems: int | None = None  # noqa: N815 - the message's own names
    minItems: int | None = None  # noqa: N815
    properties: dict[str, GoogleSchema] | None = None
    required: list[str] | None = None
    minProperties: int | None = None  # noqa: N815
    maxProperties: int | None = None  # noqa: N815
    minLength: int | None = None  # noqa: N815
    maxLength: int | None = None  # noqa: N815
    pattern: str | None = None
    example: Any = None
    anyOf: list[GoogleSchema] | None = None  # noqa: N815
    propertyOrdering: list[str] | None = None  # noqa: N815
    default: Any = None
    items: GoogleSchema | None = None
    minimum: float | None = None
    maximum: float | None = None


@pytest.mark.parametrize("tool", TOOLS)
def test_schemas_are_messages_of_googles_api(tool: Tool[Any]) -> None:
    for schema in schemas(tool):
        msgspec.convert(schema, GoogleSchema)
    for wrong in (
        {"enum": ["a"]},
        {"type": ["string", "null"]},
        {"type": "object", "additionalProperties": False},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, GoogleSchema)


# --- The rules ---------------------------------------------------------------------------------


def root(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": []}


def deep(levels: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(levels - 1):
        schema = root(a=schema)
    return root(a=schema)


#: What was refused, as it was reported: the sources of each rule in tools/schema_dialect.py.
REFUSED: Mapping[str, list[Any]] = {
    "root": [
        {"type": "array", "items": {"type": "string"}},
        {"type": "object", "properties": {}, "required": []},
        {"type": "object", "required": []},
        {"anyOf": [root(a={"type": "string"})]},
        {},
        True,
    ],
    "type": [
        root(keyValueType={"enum": ["a", "b"]}),
        root(truncateMode={"description": "How."}),
        root(a={"type": "null"}),
        root(a={"type": "any"}),
        root(a={"type": {}}),
        root(a={}),
        root(a=True),
        root(a={"type": "array", "items": {}}),
    ],
    "union": [
        {**root(route={"type": "string"}), "anyOf": [{"required": ["route"]}]},
        {**root(a={"type": "string"}), "oneOf": [root()]},
        {**root(a={"type": "string"}), "allOf": [{"if": {}, "then": {}}]},
        root(a={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        root(a={"type": ["string", "null"]}),
        root(rows={"type": "array", "items": {"type": ["string", "number"]}}),
    ],
    "reference": [
        root(a={"$ref": "#/$defs/b"}),
        {**root(a={"type": "string"}), "$defs": {"b": {"type": "string"}}},
        {**root(a={"type": "string"}), "$id": "a"},
    ],
    "keyword": [
        {**root(a={"type": "string"}), "additionalProperties": False},
        root(a={"type": "object", "required": [], "additionalProperties": {"type": "string"}}),
        {**root(a={"type": "string"}), "$schema": "http://json-schema.org/draft-07/schema#"},
        root(a={"type": "integer", "exclusiveMinimum": 0}),
        root(a={"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        root(a={"type": "string", "const": "insert_text"}),
        root(a={"type": "string", "format": "uri"}),
        root(a={"type": "string", "pattern": "^(?!a)b"}),
        root(a={"type": "string", "title": "A"}),
        root(a={"type": "string", "nullable": True}),
        root(data={"type": "string", "properties": {"a": {"type": "string"}}}),
        root(data={"type": "string", "required": []}),
        root(data={"type": "string", "maximum": 1}),
    ],
    "enum": [
        root(a={"type": "integer", "enum": [0, 1, 2]}),
        root(a={"type": "boolean", "enum": [True]}),
        root(a={"type": "string", "enum": [1, "b"]}),
        root(a={"type": "string", "enum": ["", "desktop"]}),
        root(a={"type": "string", "enum": ["a", None]}),
        root(a={"type": "string", "enum": ["a", "a"]}),
        root(a={"type": "string", "enum": []}),
    ],
    "items": [
        root(status={"type": "array"}),
        root(rows={"type": "array", "items": {"type": "array", "items": {"type": "string"}}}),
        root(figsize={"type": "array", "prefixItems": [{"type": "number"}]}),
        root(a={"type": "array", "items": True}),
        root(a={"type": "array", "items": [{"type": "string"}]}),
        root(a={"type": "array", "items": {"type": "string"}, "maxItems": 1_000}),
    ],
    "required": [
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {**root(a={"type": "string"}), "required": None},
        {**root(a={"type": "string"}), "required": "a"},
        {**root(a={"type": "string"}), "required": ["b"]},
        {**root(a={"type": "string"}), "required": ["a", "a"]},
        root(a={"type": "object"}),
        root(a={"type": "array", "items": {"type": "object", "required": ["name"]}}),
    ],
    "properties": [
        root(go_back={"type": "object", "properties": {}, "required": []}),
        root(go_back={"type": "object", "properties": [], "required": []}),
    ],
    "default": [
        root(a={"type": "string", "default": None}),
        root(a={"type": "integer", "default": "5"}),
        root(a={"type": "integer", "default": True}),
        root(a={"type": "boolean", "default": 0}),
        root(a={"type": "string", "enum": ["a"], "default": "b"}),
    ],
    "property name": [
        root(**{"uids[]": {"type": "string"}}),
        root(**{"projects.any": {"type": "string"}}),
        root(**{"a" * 65: {"type": "string"}}),
        root(**{"1st": {"type": "string"}}),
        root(**{"": {"type": "string"}}),
    ],
    "description": [
        root(a={"type": "string", "description": "x" * (MAX_DESCRIPTION + 1)}),
        root(a={"type": "string", "description": None}),
        root(a={"type": "string", "description": ""}),
    ],
    "depth": [deep(5), deep(50)],
    "size": [
        root(**{f"a{number}": {"type": "string"} for number in range(101)}),
        root(a={"type": "string", "enum": [f"{number:010}" for number in range(1_501)]}),
    ],
}


@pytest.mark.parametrize(
    ("rule", "schema"),
    [
        pytest.param(rule, schema, id=f"{rule}-{number}")
        for rule, refused in REFUSED.items()
        for number, schema in enumerate(refused)
    ],
)
def test_a_schema_that_a_provider_refused_breaks_the_rule_that_says_so(rule: str, schema: Any) -> None:
    assert rule in {fault.rule for fault in schema_faults(schema)}


@pytest.mark.parametrize("name", ["", "a", "Add", "a-b", "a.b", "1a", "a b", "a" * 41, "é" * 4])
def test_a_name_that_a_client_refused_breaks_a_rule(name: str) -> None:
    tool = {"name": name, "description": "Add.", "inputSchema": root(a={"type": "string"})}
    assert [fault.rule for fault in tool_faults(tool)] == ["tool name"]


def test_a_tool_needs_a_description_of_bounded_length_and_schemas_that_keep_the_rules() -> None:
    good = {"name": "add", "description": "Add.", "inputSchema": root(a={"type": "string"})}
    assert not list(tool_faults(good))
    for description in ("", "x" * (MAX_DESCRIPTION + 1)):
        assert [one.rule for one in tool_faults({**good, "description": description})] == ["description"]
    del good["description"]
    assert [fault.rule for fault in tool_faults(good)] == ["description"]
    good |= {"description": "Add.", "outputSchema": {"type": "array", "items": {"type": "string"}}}
    (fault,) = tool_faults(good)
    assert str(fault) == "add.outputSchema : no object with properties (rule: root)"


def test_a_listing_may_have_so_many_tools_and_no_more() -> None:
    tool = {"name": "add", "description": "Add.", "inputSchema": root(a={"type": "string"})}
    assert not list(listing_faults([tool] * MAX_TOOLS))
    assert [fault.rule for fault in listing_faults([tool] * (MAX_TOOLS + 1))] == ["size"]


def test_every_rule_is_shown_to_notice_something_and_says_where_it_comes_from() -> None:
    names = [rule.name for rule in RULES]
    assert set(names) == {*REFUSED, "tool name"}
    assert len(set(names)) == len(names)
    assert all(rule.text.endswith(".") and rule.sources for rule in RULES)


# --- No place is overlooked --------------------------------------------------------------------


def places(schema: Schema) -> Iterator[Schema]:
    """Iterate over a schema and all schemas in it."""
    yield schema
    for member in schema.get("properties", {}).values():
        yield from places(member)
    if "items" in schema:
        yield from places(schema["items"])


def put(**changes: Any) -> Callable[[Schema], None]:
    return lambda node: node.update(changes)


def drop(name: str) -> Callable[[Schema], None]:
    return lambda node: node.pop(name)


#: What a slip of the hand, or another generator of schemas, would make of a place: for places of which type.
SLIPS: list[tuple[str, str | None, Callable[[Schema], None]]] = [
    ("no type", None, drop("type")),
    ("a list of types", None, lambda node: node.update(type=[node["type"], "null"])),
    ("null", None, put(type="null")),
    ("anyOf", None, put(anyOf=[{"type": "string"}])),
    ("oneOf", None, put(oneOf=[])),
    ("$ref", None, put(**{"$ref": "#"})),
    ("$schema", None, put(**{"$schema": "https://json-schema.org/draft/2020-12/schema"})),
    ("title", None, put(title="A")),
    ("format", None, put(format="date-time")),
    ("nullable", None, put(nullable=True)),
    ("const", None, put(const=1)),
    ("null by default", None, put(default=None)),
    ("a long description", None, put(description="x" * 2_000)),
    ("no items", "array", drop("items")),
    ("any items", "array", put(items={})),
    ("items that are true", "array", put(items=True)),
    ("a tuple", "array", put(prefixItems=[])),
    ("different items", "array", put(uniqueItems=True)),
    ("closed", "object", put(additionalProperties=False)),
    ("open", "object", put(additionalProperties=True)),
    ("without required", "object", drop("required")),
    ("required: null", "object", put(required=None)),
    ("required without a property", "object", put(required=["nothing"])),
    ("no properties", "object", put(properties={})),
    ("a pattern", "string", put(pattern="^a")),
    ("an enum of numbers", "string", put(enum=[1])),
    ("an enum of nothing", "string", put(enum=[""])),
    ("an exclusive bound", "integer", put(exclusiveMinimum=0)),
    ("an enum of integers", "integer", put(enum=[1, 2])),
    ("an exclusive bound", "number", put(exclusiveMaximum=9)),
]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_slip_at_any_place_of_any_schema_is_noticed(tool: Tool[Any]) -> None:
    tried = 0
    for schema in schemas(tool):
        for number, place in enumerate(places(schema)):
            for what, kind, slip in SLIPS:
                if kind in (None, place["type"]):
                    changed = copy.deepcopy(schema)
                    slip(next(itertools.islice(places(changed), number, None)))
                    assert list(schema_faults(changed)), (what, place)
                    tried += 1
    assert tried > 20
