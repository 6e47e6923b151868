"""A long text that is decoded by itself makes no difference to what a message says."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd import long_texts, strict_json
from redstreamd.long_texts import MARK
from redstreamd.mcpio import plain_calls
from redstreamd.mcpio.limits import Limits
from redstreamd.strict_json import LONG
from redstreamd.tools import compiled_tools
from redstreamd.tools.argument_text import ArgumentDecoder, as_arguments
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from tests.support.json_lines import MUTATIONS, tree, write
from tests.support.mcp_client import ENVELOPE
from tests.tools.test_argument_text import usual

LIMITS = Limits()
DECODERS = {tool.name: ArgumentDecoder(tool.arguments) for tool in REGISTRY}
STRUCTURERS: dict[str, Structurer[Any]] = {tool.name: Structurer(tool.arguments) for tool in REGISTRY}
#: Stands for the long text while a line is made.
HERE = "HERE"
LONGS = (
    "x" * LONG,
    "a:b, " * LONG,
    'quotes " \\ \n' + "y" * LONG,
    "é" * LONG,
    'say "a:b", \\ and\n' * 1_000,
    MARK * LONG,
    f"{MARK}{'z' * LONG}",
)


def line_of(name: str, arguments: bytes, meta: Any = None) -> bytes:
    envelope = b"" if meta is None else b',"_meta":' + json.dumps(meta).encode()
    params = b'{"name":"%b","arguments":%b%b}' % (name.encode(), arguments, envelope)
    return b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":%b}' % params


def decoded(line: bytes) -> Any:
    """Decode a line and its arguments, as the direct path does."""
    call = plain_calls.decode(line, LIMITS)
    return call and DECODERS[call.tool](call.arguments, call.colons, call.long_text)


def with_text(value: Any, chance: Random) -> Any:
    """Put the text that is to be long into some place of a JSON value, perhaps as a name."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(list(value))
        if chance.random() < 0.2:
            return {HERE if each == name else each: member for each, member in value.items()}
        return {**value, name: with_text(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], with_text(value[place], chance), *value[place + 1 :]]
    return HERE


@pytest.mark.parametrize("name", [tool.name for tool in REGISTRY])
@given(chance=st.randoms(use_true_random=False), long=st.sampled_from(LONGS))
@settings(max_examples=settings.default.max_examples // 4)
def test_it_is_decoded_as_the_structurer_does_wherever_it_is(name: str, chance: Random, long: str) -> None:
    arguments = tree(with_text(usual(REGISTRY.get(name), chance), chance))
    for _ in range(chance.choice([0, 0, 1, 2])):
        chance.choice(MUTATIONS)(arguments, chance)
    given_ = write(arguments, chance.choice(["", " "])).encode("utf-8", "surrogatepass")
    if chance.random() < 0.2:
        given_ = given_.replace(b'"k"', json.dumps(MARK, ensure_ascii=False).encode())
    text = given_.replace(f'"{HERE}"'.encode(), json.dumps(long, ensure_ascii=False).encode())
    if not strict_json.text_is_plain(text):
        return
    found = decoded(line_of(name, text, chance.choice([None, ENVELOPE])))
    if found is not None:
        structured = STRUCTURERS[name](strict_json.decode(text.decode()))
        assert repr(as_arguments(REGISTRY.get(name).arguments, found)) == repr(structured)


@pytest.mark.parametrize("long", LONGS)
@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("stream_add", {"stream": "s", "entries": [{"a": 1, "b": HERE}]}),
        ("stream_add", {"stream": "s", "entries": [{"a": 1}, {"b": {"c": [None, HERE, ":"]}}]}),
        ("stream_add", {"stream": "s", "entries": [{HERE: 1}]}),
        ("stream_wait", {"streams": ["s"], "filter": {"a": HERE}}),
        ("work_done", {"lease": "l", "reply": {"a": HERE}}),
    ],
)
def test_usual_calls_with_it_take_the_direct_path(name: str, template: Any, long: str) -> None:
    arguments = json.loads(json.dumps(template).replace(f'"{HERE}"', json.dumps(long)))
    line = line_of(name, json.dumps(arguments, ensure_ascii=False).encode(), ENVELOPE)
    found = decoded(line)
    assert found is not None
    assert as_arguments(REGISTRY.get(name).arguments, found) == STRUCTURERS[name](arguments)
    call = plain_calls.decode(line, LIMITS)
    assert call is not None
    assert call.long_text is not None
    assert call.long_text.text == long


@pytest.mark.parametrize("entry", [{"a": MARK, "b": HERE}, {"a": HERE, "b": [MARK]}, {MARK: HERE}])
def test_who_sends_the_mark_gets_it_back(entry: Any) -> None:
    arguments = {"stream": "s", "entries": json.loads(json.dumps([entry]).replace(HERE, "x" * LONG))}
    found = decoded(line_of("stream_add", json.dumps(arguments, ensure_ascii=False).encode()))
    assert found is not None
    assert found.entries == arguments["entries"]


@pytest.mark.parametrize("behind", range(2_000, 2_060))
def test_it_is_found_wherever_its_escaped_characters_are(behind: int) -> None:
    long = "x" * LONG + '"\\' * 5 + "y" * behind
    found = decoded(line_of("stream_add", json.dumps({"stream": "s", "entries": [{"a": long}]}).encode()))
    assert found.entries == [{"a": long}]
    data = json.dumps([long]).encode()
    assert long_texts.place(data) == (1, len(data) - 2)


def test_waits_that_differ_in_it_alone_do_not_share_their_arguments() -> None:
    decode = compiled_tools._decode_of(REGISTRY.get("stream_wait"))
    for letter in ("x", "y", "x"):
        arguments = json.dumps({"streams": ["s"], "filter": {"a": letter * LONG}}).encode()
        call = plain_calls.decode(line_of("stream_wait", arguments), LIMITS)
        assert call is not None
        assert call.long_text is not None
        found = decode(call.arguments, call.colons, call.long_text)
        assert found.filter == {"a": letter * LONG}


@pytest.mark.parametrize("long", ["x" * LONG, "a:b" * LONG])
@pytest.mark.parametrize(
    ("line", "member"),
    [
        ('{"jsonrpc":"2.0","id":"HERE","method":"tools/call","params":{"name":"a"}}', "id"),
        ('{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"HERE"}}', "tool"),
        (
            '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":"HERE"}}}',
            "progress_token",
        ),
    ],
)
def test_outside_of_the_arguments_it_stays_where_it_is(line: str, member: str, long: str) -> None:
    call = plain_calls.decode(line.replace(HERE, long).encode(), LIMITS)
    assert call is not None
    assert call.long_text is None
    assert getattr(call, member) == long


@pytest.mark.parametrize(
    "wrong", [b"\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\\x", b"\\u003a", "￿".encode()]
)
@pytest.mark.parametrize("at", [0, LONG // 2, LONG])
def test_what_is_no_text_of_i_json_is_for_the_kernel(wrong: bytes, at: int) -> None:
    text = b"x" * LONG
    arguments = b'{"stream":"s","entries":[{"a":"%b"}]}'
    assert decoded(line_of("stream_add", arguments % text)) is not None
    assert decoded(line_of("stream_add", arguments % (text[:at] + wrong + text[at:]))) is None


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_name_twice_is_found_beside_it(place: str) -> None:
    long = '"%s"' % ("a:" * LONG)
    twice = {"before": f'{{"a":1,"a":{long}}}', "behind": f'{{"a":{long},"a":1}}'}[place]
    assert decoded(line_of("stream_add", f'{{"stream":"s","entries":[{twice}]}}'.encode())) is None


@given(st.text('"\\:[{,]}a\x7f', max_size=20), st.text('"\\:[{,]}a\x7f', max_size=20))
def test_what_is_taken_out_and_put_back_is_what_it_was(before: str, behind: str) -> None:
    value = [before, {"a": "x" * LONG, f"b{behind}": behind}]
    data = json.dumps(value, ensure_ascii=False).encode()
    if (place := long_texts.place(data)) is None:
        return
    rest = long_texts.marked(data, *place)
    assert rest is not None
    assert len(rest) < 500
    text = long_texts.text_at(data, *place)
    assert json.loads(long_texts.put_back(rest, text)) == value
    marked = msgspec.json.decode(rest)
    assert long_texts.put_in([marked], text.text)
    assert marked == value
