"""Arguments decoded from their text in one step are those that the structurer makes of them."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd import strict_json
from redstreamd.tools.argument_text import ONLY_REQUIRED, ArgumentDecoder, as_arguments
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Tool
from tests.support.json_lines import MUTATIONS, VALUES, Token, containers, tree, write
from tests.support.json_values import json_values

TOOLS = pytest.mark.parametrize("name", [tool.name for tool in REGISTRY])
DECODERS = {tool.name: ArgumentDecoder(tool.arguments) for tool in REGISTRY}
STRUCTURERS: dict[str, Structurer[Any]] = {tool.name: Structurer(tool.arguments) for tool in REGISTRY}
#: For each tool.
EXAMPLES = settings.default.max_examples // 2
chances = st.randoms(use_true_random=False)


def usual(tool: Tool[Any], chance: Random) -> dict[str, Any]:
    """Return arguments that fit the schema of a tool."""
    schema = STRUCTURERS[tool.name].schema
    return {
        name: chance.choice(values_of(member))
        for name, member in schema["properties"].items()
        if name in schema.get("required", ()) or chance.random() < 0.4
    }


def values_of(schema: dict[str, Any]) -> list[Any]:
    if "enum" in schema:
        return list(schema["enum"])
    kind = schema["type"]
    if kind == "array":
        return [[value] * max(1, schema.get("minItems", 0)) for value in values_of(schema["items"])]
    return {
        "boolean": [True, False],
        "integer": [schema.get("minimum", 0), schema.get("maximum", 2**53 - 1)],
        "number": [schema.get("minimum", 0), 2.5, 7],
        "string": ["k", "a:b", "\u00e9: x", 'quotes " \\ \n'],
        "object": [{"n": 1}, {"a:b": [{"c": None}, 1.5, "x:y"]}, {}],
    }[kind]


@TOOLS
@given(chance=chances)
@settings(max_examples=EXAMPLES)
def test_what_is_decoded_from_text_is_what_the_structurer_makes_of_it(name: str, chance: Random) -> None:
    tool = REGISTRY.get(name)
    arguments = tree(usual(tool, chance))
    for _ in range(chance.choice([0, 1, 1, 2])):
        chance.choice(MUTATIONS)(arguments, chance)
    text = write(arguments, chance.choice(["", " "])).encode("utf-8", "surrogatepass")
    if not strict_json.text_is_plain(text):
        return
    given_ = DECODERS[name](text)
    if given_ is None:
        return
    # Whatever is accepted is accepted there, too, with the same values of the same types.
    structured = STRUCTURERS[name](strict_json.decode(text.decode()))
    assert repr(as_arguments(tool.arguments, given_)) == repr(structured)


@TOOLS
@given(chance=chances)
@settings(max_examples=EXAMPLES)
def test_usual_arguments_are_decoded_from_text(name: str, chance: Random) -> None:
    tool = REGISTRY.get(name)
    arguments = usual(tool, chance)
    text = write(tree(arguments)).encode()
    decoded = DECODERS[name](text)
    assert decoded is not None
    assert as_arguments(tool.arguments, decoded) == STRUCTURERS[name](arguments)


@pytest.mark.parametrize("value", [Token("7"), *VALUES])
def test_no_value_in_any_place_is_decoded_otherwise(value: Any) -> None:
    for tool in REGISTRY:
        for argument in STRUCTURERS[tool.name].schema["properties"]:
            arguments = tree({**usual(tool, Random(0)), argument: 0})
            arguments[-1] = argument, value
            arguments = type(arguments)(dict(arguments).items())
            text = write(arguments).encode("utf-8", "surrogatepass")
            if strict_json.text_is_plain(text) and (found := DECODERS[tool.name](text)) is not None:
                structured = STRUCTURERS[tool.name](strict_json.decode(text.decode()))
                assert repr(as_arguments(tool.arguments, found)) == repr(structured), text


@TOOLS
def test_arguments_without_any_that_has_a_default_are_of_a_class_of_their_own(name: str) -> None:
    tool = REGISTRY.get(name)
    decoder, structure = ArgumentDecoder(tool.arguments), STRUCTURERS[name]
    schema = structure.schema
    every = {argument: values_of(member)[-1] for argument, member in schema["properties"].items()}
    required = {argument: every[argument] for argument in schema.get("required", ())}

    def decoded(arguments: dict[str, Any], space: str = "") -> type:
        text = write(tree(arguments), space).encode()
        found = decoder(text)
        assert as_arguments(tool.arguments, found) == structure(arguments)
        return type(found)

    short = decoded(required)
    assert short in ONLY_REQUIRED
    assert decoded(required, " ") is short
    more = every.keys() - required.keys()
    assert short not in {decoded(required | {each: every[each]}) for each in more}
    # It is not tried for each call where one has given more.
    after = [decoded(required) is short for _ in range(100)]
    calls = 64 - len(more) if more else -1
    assert after == [False] * (calls + 1) + [True] * (99 - calls)


def test_a_default_for_which_null_does_not_stand_has_no_decoder() -> None:
    @attrs.frozen
    class Odd:
        number: int | None = 5

    with pytest.raises(TypeError, match="null does not stand for"):
        ArgumentDecoder(Odd)


# --- Repeated names and plain text -------------------------------------------------------------


def has_repeated_names(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value, strict_json.DuplicateNames) or any(map(has_repeated_names, value.values()))
    return isinstance(value, list) and any(map(has_repeated_names, value))


@given(value=json_values(), chance=chances, long=st.sampled_from(["", "x" * 5_000, "a: " * 2_000]))
def test_names_are_distinct_exactly_where_no_object_repeats_one(
    value: Any, chance: Random, long: str
) -> None:
    # A long text is looked at in another way.
    value = tree([value, long] if long else value)
    if isinstance(value, list):
        for _ in range(chance.choice([0, 1, 2])):
            chance.choice(MUTATIONS)(value, chance)
        assert list(containers(value))
    text = write(value, chance.choice(["", " "])).encode("utf-8", "surrogatepass")
    if not strict_json.text_is_plain(text):
        return
    try:
        strictly = strict_json.decode(text.decode())
        quickly = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        # What one of them refuses is not taken on the direct path.
        return
    assert strict_json.names_are_distinct(text, quickly) == (not has_repeated_names(strictly))


@given(st.text("a:", max_size=300), st.integers(0, 2))
def test_a_character_is_counted_as_by_the_text_itself(start: str, repeated: int) -> None:
    for text in (start + "b" * 5_000 * repeated, (start + "b" * 50) * 100 * repeated):
        assert strict_json.count(text, ":") == text.count(":")
        assert strict_json.count(text.encode(), b":") == text.count(":")


@given(value=json_values(), ascii_only=st.booleans())
def test_plain_text_has_nothing_that_i_json_excludes_but_numbers(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    # Whatever is I-JSON is plain, unless it is written with escapes.
    assert strict_json.text_is_plain(text) == (b"\\u" not in text)


@pytest.mark.parametrize(
    "text",
    [
        *(b'"\\u003a"', b'"\\ud800"', b'"\\\\u0041"'),
        *('"\uffff"'.encode(), '"\ufdd0"'.encode(), '{"\U0001fffe":1}'.encode()),
    ],
)
def test_other_text_is_not_plain(text: bytes) -> None:
    assert not strict_json.text_is_plain(text)
