"""JSON text is read as its value for every argument of every tool, where no string belongs and only there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import attrs
import pytest

from redstreamd.errors import BusError
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.limits import Limits
from redstreamd.streams.bus import Bus
from redstreamd.strict_json import MAX_NESTING, MAX_VALUES, DuplicateNames
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Tool
from redstreamd.tools.schema import arguments_schema
from tests.support.buses import ON_REDIS
from tests.support.calls import call, refusal
from tests.support.measured import measured
from tests.support.servers import Server

Schema = Mapping[str, Any]

#: Strings that look like something else.
LOOKALIKES = ["5", "-0.5", "true", "false", "null", "[]", '["a"]', "{}", '{"a":1}', '"a"', "1e3"]
#: The content of an entry: each member a string, whatever it looks like.
CONTENT = {f"member{number}": text for number, text in enumerate(LOOKALIKES)}


def sample(schema: Schema) -> Any:
    """Return a value that a schema accepts, with an edge to it where there is one."""
    match schema["type"]:
        case "string":
            return schema["enum"][0] if "enum" in schema else "a"
        case "integer":
            return schema.get("maximum", 7)
        case "number":
            return max(1.5, schema.get("minimum", 0))
        case "boolean":
            return not schema.get("default", False)
        case "array":
            return [sample(schema["items"])] * 2
        case _:
            return CONTENT


@attrs.frozen
class Argument:
    """An argument of a tool.

    Attributes:
        tool: The tool.
        name: Its name.
        schema: Its schema.
        others: What else a call has to give.
    """

    tool: Tool[Any]
    name: str
    schema: Schema
    others: dict[str, Any]

    @property
    def is_text(self) -> bool:
        return bool(self.schema["type"] == "string")

    def taken(self, value: Any) -> Any:
        """Return what the tool is given where a call has this value."""
        return getattr(structurer(self.tool.name)({**self.others, self.name: value}), self.name)

    def refused(self, value: Any) -> str:
        with pytest.raises(BusError) as caught:
            self.taken(value)
        message = caught.value.message
        assert message.startswith(self.name), message
        return message


@cache
def structurer(tool: str) -> Structurer[Any]:
    return Structurer(REGISTRY.get(tool).arguments)


def arguments() -> list[Argument]:
    found = []
    for tool in REGISTRY:
        schema = arguments_schema(tool.arguments)
        for name, member in schema["properties"].items():
            others = {other: sample(schema["properties"][other]) for other in schema["required"]}
            found.append(Argument(tool, name, member, others))
    return found


ARGUMENTS = arguments()


def each(*, text: bool) -> pytest.MarkDecorator:
    chosen = [argument for argument in ARGUMENTS if argument.is_text == text]
    assert len(chosen) > 30
    return pytest.mark.parametrize(
        "argument", [pytest.param(one, id=f"{one.tool.name}-{one.name}") for one in chosen]
    )


# --- Every argument ----------------------------------------------------------------------------


@each(text=False)
def test_json_text_stands_for_its_value_where_the_schema_has_no_string(argument: Argument) -> None:
    value = sample(argument.schema)
    direct = argument.taken(value)
    for text in (json.dumps(value), json.dumps(value, indent=2), f" {json.dumps(value)}\n"):
        structured = argument.taken(text)
        assert structured == direct
        assert type(structured) is type(direct)


@each(text=False)
def test_what_is_no_json_text_of_exactly_that_type_is_refused(argument: Argument) -> None:
    value = sample(argument.schema)
    kind = argument.schema["type"]
    others = {
        "integer": ["5.5", "true"],
        "number": ["true"],
        "boolean": ["1", "True"],
        "array": ['{"a":1}'],
        "object": ['["a"]'],
    }
    # Text of text, no JSON at all, and JSON of other types.
    for text in (
        json.dumps(json.dumps(value)),
        "",
        " ",
        "a",
        "None",
        "null",
        '"a"',
        "NaN",
        "{'a': 1}",
        "[1,",
    ):
        argument.refused(text)
    for text in others[kind]:
        argument.refused(text)
    if kind in ("array", "object"):
        assert "which is not JSON: " in argument.refused("{'a': 1}")


@each(text=True)
def test_a_text_argument_is_never_parsed(argument: Argument) -> None:
    for text in LOOKALIKES:
        if "enum" in argument.schema:
            argument.refused(json.dumps(argument.schema["enum"][0]))
            argument.refused(text)
        else:
            assert argument.taken(text) == text


@each(text=False)
def test_bounds_hold_for_a_value_that_came_as_text(argument: Argument) -> None:
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in argument.schema:
            argument.refused(json.dumps(argument.schema[bound] + step))
            argument.taken(json.dumps(argument.schema[bound]))
    if argument.schema["type"] == "array":
        item = sample(argument.schema["items"])
        argument.refused("[]")
        argument.refused(json.dumps([item] * (argument.schema["maxItems"] + 1)))


@each(text=False)
def test_content_is_never_parsed_and_an_item_that_is_an_object_may_be_a_text(argument: Argument) -> None:
    kind = argument.schema["type"]
    if kind == "object":
        nested = {**CONTENT, "deep": [CONTENT, {"list": LOOKALIKES}]}
        assert argument.taken(nested) is nested
        assert argument.taken(json.dumps(nested)) == nested
    elif kind == "array" and argument.schema["items"]["type"] == "object":
        mixed = [CONTENT, json.dumps(CONTENT)]
        for given in (mixed, json.dumps(mixed)):
            assert list(argument.taken(given)) == [CONTENT, CONTENT]
        assert f"{argument.name}[1]: " in argument.refused([CONTENT, "5"])
        assert "[1]" in argument.refused([CONTENT, json.dumps(json.dumps(CONTENT))])
    elif kind == "array":
        assert list(argument.taken(LOOKALIKES)) == LOOKALIKES
        assert list(argument.taken(json.dumps(LOOKALIKES))) == LOOKALIKES


# --- What holds for a message holds for a text --------------------------------------------------

ADD = Structurer(REGISTRY.get("stream_add").arguments)


def add(entries: Any) -> Any:
    return ADD({"stream": "s", "entries": entries}).entries  # type: ignore[attr-defined]


def why_not(entries: Any) -> str:
    with pytest.raises(BusError) as caught:
        add(entries)
    return caught.value.message


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("levels", range(MAX_NESTING - 8, MAX_NESTING + 2))
def test_a_text_may_be_nested_as_deeply_as_the_same_value_in_its_place(levels: int) -> None:
    value = f'[{{"a":{nested(levels)}}}]'
    line = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"arguments":{{"entries":{value}}}}}}}'
    in_place = isinstance(jsonrpc.decode(line.encode(), Limits()), jsonrpc.Request)
    texts: list[Any] = [value, [value[1:-1]], json.dumps([value[1:-1]])]
    for text in texts:
        if in_place:
            assert add(text) == json.loads(value)
        else:
            assert f"more than {MAX_NESTING} levels deep" in why_not(text)


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_all_texts_of_a_call_together_hold_so_many_values_and_no_more(pieces: int) -> None:
    each_holds = MAX_VALUES // pieces
    # The entry, its list and the name count as three each, and each comma as one.
    text = '{"a":[' + "0," * (each_holds - 9) + "0]}"
    assert len(add([text] * pieces)) == pieces
    too_many = '{"a":[' + "0," * (each_holds + pieces) + "0]}"
    assert "too many values" in why_not([text] * (pieces - 1) + [too_many])


@pytest.mark.parametrize("unit", ["[],", "{},", "1,", '"",', '{"a":1},', "[[]],"])
def test_a_text_as_long_as_a_message_is_refused_soon(unit: str) -> None:
    size = Limits().max_message_bytes
    text = "[" + unit * (size // len(unit)) + "0]"
    took = []
    for _ in range(3):
        began = time.process_time()
        assert "too many values" in why_not(text)
        took.append(time.process_time() - began)
    # As for a message; see tests/mcpio/test_jsonrpc.py.
    with measured:
        assert min(took) < 0.4


def test_a_repeated_name_in_a_text_is_still_noticed() -> None:
    (entry,) = add('[{"a":1,"a":2}]')
    assert isinstance(entry, DuplicateNames)
    assert entry.name == "a"


def test_an_integer_of_more_digits_than_python_reads_is_refused() -> None:
    assert "which is not JSON" in why_not('[{"a":' + "9" * 5_000 + "}]")


@ON_REDIS
async def test_texts_reach_redis_as_the_values_they_stand_for_and_no_further(
    bus: Bus, server: Server
) -> None:
    content = {"count": "5", "list": "[1]", "flag": "true", "number": 5}
    added = await call(bus, "stream_add", stream="s", entries=json.dumps([content]), max_length="10")
    page = await call(
        bus, "stream_read", stream="s", count="5", filter=json.dumps({"count": "5", "number": 5})
    )
    assert [entry["fields"] for entry in page["entries"]] == [content]
    none = await call(bus, "stream_read", stream="s", filter={"count": 5})
    assert none["entries"] == []
    planned = await call(
        bus,
        "stream_manage",
        stream="s",
        action="delete_entries",
        entry_ids=json.dumps(added["ids"]),
        dry_run="true",
    )
    assert planned["dry_run"] is True
    twice = await refusal(bus, "stream_add", stream="s", entries='[{"a":1,"a":2}]')
    assert "twice" in twice["cause"]
    large = await refusal(bus, "stream_add", stream="s", entries='[{"a":9007199254740993}]')
    assert "beyond" in large["cause"]
    assert server.command("XLEN", "s") == 1
