"""Bytes to messages and back, without I/O."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.json_cost import measure_structure
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.jsonrpc import (
    Batch,
    DuplicateNames,
    Message,
    Notification,
    Rejection,
    Request,
    Response,
    structure_error,
)
from redstreamd.mcpio.limits import Limits
from tests.support.measured import measured

LIMITS = Limits()
PARSE, INVALID = -32700, -32600


def decode(text: str | bytes, limits: Limits = LIMITS) -> Message | Batch:
    return jsonrpc.decode(text if isinstance(text, bytes) else text.encode(), limits)


def refused(text: str | bytes, limits: Limits = LIMITS) -> tuple[int, Any]:
    """Return the error code and id that a line is refused with."""
    message = decode(text, limits)
    assert isinstance(message, Rejection), message
    assert message.message
    return message.code, message.id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"jsonrpc":"2.0","id":1,"method":"a"}', Request(1, "a", None)),
        ('{"jsonrpc":"2.0","id":"1","method":"a"}', Request("1", "a", None)),
        ('{"jsonrpc":"2.0","id":"","method":""}', Request("", "", None)),
        ('{"jsonrpc":"2.0","id":-7,"method":"a","params":{}}', Request(-7, "a", {})),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":null}', Request(1, "a", None)),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":{"b":[1,null]}}', Request(1, "a", {"b": [1, None]})),
        # Unknown members are the future's business.
        ('{"jsonrpc":"2.0","id":1,"method":"a","extra":1}', Request(1, "a", None)),
        (' \t{"jsonrpc":"2.0","id":1,"method":"a"}\r', Request(1, "a", None)),
        ('{"jsonrpc":"2.0","id":"\\u00e9","method":"é"}', Request("é", "é", None)),
        ('{"jsonrpc":"2.0","method":"a"}', Notification("a", None)),
        ('{"jsonrpc":"2.0","method":"a","params":{"b":1}}', Notification("a", {"b": 1})),
        ('[{"jsonrpc":"2.0","method":"a"},{"id":1,"error":1}]', Batch((Notification("a", None), Response()))),
        ('{"jsonrpc":"2.0","id":1,"result":{}}', Response()),
        ('{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":""}}', Response()),
        # Never answer an answer, however wrong it is.
        ('{"result":1}', Response()),
        ('{"id":1.5,"error":1}', Response()),
    ],
)
def test_messages_are_told_apart(text: str, message: Message | Batch) -> None:
    assert decode(text) == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\r",
        "{",
        "}",
        '{"jsonrpc":"2.0","id":1,"method":"a"',
        '{"jsonrpc":"2.0","id":1,"method":"a"}}',
        '{"jsonrpc":"2.0","id":1,"method":"a"} {}',
        "{'jsonrpc':'2.0'}",
        '{"a":1,}',
        '{"a":01}',
        '{"a":"\t"}',
        '{"a":"\\x"}',
        '{"a":tru}',
        "hello",
        "\ufeff{}",
        b"\xff",
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\xaf"}',
        '{"jsonrpc":"2.0","id":1,"method":"a"}'.encode("utf-16"),
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":-Infinity}',
        "NaN",
    ],
)
def test_what_is_no_json_is_a_parse_error_without_an_id(text: str | bytes) -> None:
    assert refused(text) == (PARSE, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"jsonrpc', "Unterminated string starting at character 1"),
        ('{"a":"\t"}', "Invalid control character at character 6"),
        ("", "Expecting value at character 0"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: str, told: str) -> None:
    rejection = decode(text)
    assert isinstance(rejection, Rejection)
    assert rejection.message == f"the message is not valid JSON: {told}"


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ("1", None),
        ("null", None),
        ('"text"', None),
        ("true", None),
        ("{}", None),
        ("[]", None),
        ('{"jsonrpc":"2.0","id":1}', 1),
        ('{"jsonrpc":"2.0","id":null,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":1.5,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":1.0,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":1e400,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":true,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":false,"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":[1],"method":"a"}', None),
        ('{"jsonrpc":"2.0","id":{},"method":"a"}', None),
        ('{"id":1,"method":"a"}', 1),
        ('{"jsonrpc":"1.0","id":1,"method":"a"}', 1),
        ('{"jsonrpc":2.0,"id":1,"method":"a"}', 1),
        ('{"jsonrpc":"2.0","id":1,"method":1}', 1),
        ('{"jsonrpc":"2.0","id":1,"method":null}', 1),
        ('{"jsonrpc":"2.0","id":"x","method":["a"]}', "x"),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":"b"}', 1),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":false}', 1),
        ('{"jsonrpc":"2.0","method":1}', None),
    ],
)
def test_what_is_no_message_is_an_invalid_request_with_its_id_where_there_is_one(
    text: str, request_id: Any
) -> None:
    assert refused(text) == (INVALID, request_id)


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":[1]}', 1),
        ('{"jsonrpc":"2.0","method":"a","params":[]}', None),
    ],
)
def test_parameters_by_position_are_invalid_params(text: str, request_id: Any) -> None:
    assert refused(text) == (-32602, request_id)
    assert "params must be an object" in str(decode(text))


@pytest.mark.parametrize(
    ("text", "request_id"),
    [
        ('{"jsonrpc":"2.0","id":1,"method":"a","method":"a"}', 1),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":{},"params":{}}', 1),
        # Which of the two would it be?
        ('{"jsonrpc":"2.0","id":1,"id":2,"method":"a"}', None),
        ('{"jsonrpc":"2.0","jsonrpc":"2.0","result":{}}', None),
    ],
)
def test_a_message_that_repeats_a_member_is_refused(text: str, request_id: Any) -> None:
    assert refused(text) == (INVALID, request_id)


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ('"params":{"a":1,"a":1}', "params.a"),
        ('"params":{"b":{"c":1,"d":2,"c":3}}', "params.b.c"),
        ('"params":{"b":[[],{"":{"e":1,"e":1}}]}', "params.b[1]..e"),
        ('"params":{"_meta":{"progressToken":1,"progressToken":1}}', "params._meta.progressToken"),
        ('"params":{"arguments":{},"arguments":{}}', "params.arguments"),
        ('"extra":{"a":1,"a":1}', "extra.a"),
        # In the JSON of a name all forms of a character are the same.
        ('"params":{"a":1,"\\u0061":1}', "params.a"),
    ],
)
@pytest.mark.parametrize("request_id", [7, None])
def test_a_name_that_is_repeated_at_any_depth_is_refused_with_its_place(
    members: str, path: str, request_id: Any
) -> None:
    member = "" if request_id is None else f'"id":{request_id},'
    text = f'{{"jsonrpc":"2.0",{member}"method":"tools/call",{members}}}'
    message = decode(text)
    assert message == Rejection(INVALID, f"the message names its member {path!r} twice", request_id)
    assert decode(f"[{text}]") == Batch((message,))


def test_a_repeated_name_in_the_arguments_of_a_tool_is_left_visible() -> None:
    arguments = '{"b":{"c":1,"d":2,"c":3},"e":[{"f":1}]}'
    text = '{"jsonrpc":"2.0","id":1,"method":"%s","params":{"arguments":%s}}'
    message = decode(text % ("tools/call", arguments))
    assert isinstance(message, Request)
    assert message.params is not None
    inner = message.params["arguments"]["b"]
    assert isinstance(inner, DuplicateNames)
    assert inner.name == "c"
    assert inner == {"c": 3, "d": 2}
    assert type(message.params["arguments"]["e"][0]) is dict
    # Of others nobody else would look.
    assert refused(text % ("prompts/get", arguments)) == (INVALID, 1)


def test_names_of_megabytes_are_cut_in_errors_and_are_not_copied_for_each_value() -> None:
    long = "x" * 4_000_000
    values = ",".join(["{}"] * 30_000)
    for text in (
        f'{{"jsonrpc":"2.0","id":1,"{long}":1,"{long}":2}}',
        f'{{"jsonrpc":"2.0","id":1,"method":"a","params":{{"{long}":[{{"a":1,"a":1}},{values}]}}}}',
    ):
        message = decode(text)
        assert isinstance(message, Rejection)
        assert len(message.message) < 300


def nested(depth: int, kind: str = "list") -> str:
    """Build a message of so many levels, itself included."""
    opening, closing = ("[", "]") if kind == "list" else ('{"a":', "}")
    return (
        '{"jsonrpc":"2.0","id":1,"method":"a","params":{"p":'
        + opening * (depth - 2)
        + "1"
        + closing * (depth - 2)
        + "}}"
    )


@pytest.mark.parametrize("kind", ["list", "object"])
def test_nesting_is_accepted_up_to_the_limit_and_refused_beyond(kind: str) -> None:
    limits = Limits(max_nesting=20)
    assert isinstance(decode(nested(20, kind), limits), Request)
    assert refused(nested(21, kind), limits) == (INVALID, 1)
    assert "limits.max_nesting" in str(decode(nested(21, kind), limits))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        '{"a":' * 1_000_000,
        "[" * 500_000 + "]" * 500_000,
        nested(100_000),
        nested(100_000, "object"),
        '{"jsonrpc":"2.0","id":1,"method":"' + "[" * 200 + '","params":' + "[" * 5000,
    ],
)
def test_no_depth_of_nesting_exhausts_the_stack(text: str) -> None:
    assert refused(text) == (INVALID, 1 if text.startswith('{"jsonrpc"') else None)


def test_no_setting_of_the_limit_exhausts_the_stack() -> None:
    deep = nested(sys.getrecursionlimit() * 20)
    assert refused(deep, Limits(max_nesting=10**9, max_values=10**9)) == (INVALID, 1)


@pytest.mark.parametrize(
    "tricky",
    [
        "[" * 300,
        '\\"' + "[" * 300,
        "\\\\",
        '\\\\\\"[{',
        "{" * 300 + "\\\\" + "," * 300,
        "]}" * 200,
        '\\u0022[{\\"',
    ],
)
def test_brackets_in_strings_are_no_nesting(tricky: str) -> None:
    text = '{"jsonrpc":"2.0","id":1,"method":"a","params":{"p":["' + tricky + '","' + tricky + '"]}}'
    assert isinstance(decode(text, Limits(max_nesting=3, max_values=50)), Request)
    assert refused(text, Limits(max_nesting=2, max_values=50)) == (INVALID, 1)


def test_values_are_accepted_up_to_the_limit_and_refused_beyond() -> None:
    def message(count: int) -> str:
        return '{"jsonrpc":"2.0","id":1,"method":"a","params":{"p":[' + ",".join(["1"] * count) + "]}}"

    # Three commas, three brackets and five names are the message's own.
    limits = Limits(max_values=100)
    assert isinstance(decode(message(74), limits), Request)
    assert refused(message(75), limits) == (INVALID, 1)
    assert "than 100 JSON values (limits.max_message_values" in str(decode(message(75), limits))


@pytest.mark.parametrize(
    ("line", "request_id"),
    [
        ('{"jsonrpc":"2.0","id":7,"method":"a","params":%s}', 7),
        ('{ "id" : "seven" , "jsonrpc" : "2.0" , "method":"a","params":%s}', "seven"),
        ('{"method":"a","params":%s,"jsonrpc":"2.0","id":-7}', -7),
        ('{"method":"a","params":%s,"id":"7","jsonrpc":"2.0"} ', "7"),
        # Somebody else's.
        ('{"jsonrpc":"2.0","method":"a","params":{"id":7,"p":%s}}', None),
        ('{"jsonrpc":"2.0","method":"a","params":{"p":%s,"id":7}}', None),
        ('{"jsonrpc":"2.0","method":"a","params":[%s,",\\"id\\":7}"]}', None),
        ('{"id":null,"method":"a","params":%s}', None),
        ('{"id":1.5,"method":"a","params":%s}', None),
    ],
)
def test_a_message_that_is_too_much_to_decode_still_has_its_id(line: str, request_id: Any) -> None:
    assert refused(line % ("[" + "1," * 200 + "1]"), Limits(max_values=100)) == (INVALID, request_id)


@pytest.mark.parametrize("unit", ["[],", "{},", "1,", '"",', '"\\\\\\"",', '{"a":1},', "[[]],"])
def test_no_message_within_the_limits_takes_long_to_decode(unit: str) -> None:
    body = unit * ((LIMITS.max_message_bytes - 100) // len(unit))
    line = ('{"jsonrpc":"2.0","id":1,"method":"a","params":{"p":[' + body[:-1] + "]}}").encode()
    assert len(line) <= LIMITS.max_message_bytes
    took = []
    for _ in range(3):
        began = time.process_time()
        assert refused(line) == (INVALID, 1)
        took.append(time.process_time() - began)
    # Half a second and more without the limit on values; 20 ms here, on a machine that was busy. The least
    # of three, because what a virtual machine was stopped for counts as well.
    with measured:
        assert min(took) < 0.3


def test_integers_of_any_size_that_can_be_read_can_be_ids() -> None:
    number = 10**4000
    message = decode('{"jsonrpc":"2.0","id":' + str(number) + ',"method":"a"}')
    assert message == Request(number, "a", None)
    assert json.loads(jsonrpc.result(number, {}))["id"] == number


def test_a_number_of_too_many_digits_is_a_parse_error() -> None:
    assert refused('{"jsonrpc":"2.0","id":' + "1" * 5000 + ',"method":"a"}') == (PARSE, None)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
JSON_OBJECTS = st.dictionaries(st.text(alphabet=st.characters()), JSON_VALUES, max_size=4)


@given(st.integers() | st.text(alphabet=st.characters()), st.text(), JSON_OBJECTS)
def test_every_request_is_read_as_it_was_meant(request_id: int | str, method: str, params: Any) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()
    assert decode(line) == Request(request_id, method, params)


@given(st.integers() | st.text(alphabet=st.characters()), JSON_OBJECTS)
def test_every_result_is_one_line_that_says_what_was_meant(request_id: int | str, value: Any) -> None:
    line = jsonrpc.result(request_id, value)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"jsonrpc": "2.0", "id": request_id, "result": value}


@given(st.binary())
def test_no_bytes_make_the_decoder_raise(line: bytes) -> None:
    decode(line)


@given(st.text(alphabet='{}[]",:\\ 1atrue'))
def test_no_jumble_of_json_makes_the_decoder_raise_or_miss_the_depth(text: str) -> None:
    message = decode(text, Limits(max_nesting=3))
    try:
        value = json.loads(text)
    except ValueError:
        assert isinstance(message, Rejection)
    else:
        deep = depth_of(value) > 3
        assert deep == (isinstance(message, Rejection) and "nested" in message.message)


@given(
    st.recursive(
        st.sampled_from([1, "},{", "}, {", "[{"]),
        lambda inner: st.lists(inner, max_size=6) | st.fixed_dictionaries({"a": inner}),
        max_leaves=30,
    ),
    st.sampled_from([(",", ":"), (", ", ": ")]),
    st.integers(1, 8),
)
def test_objects_side_by_side_hide_no_depth(value: Any, separators: tuple[str, str], limit: int) -> None:
    message = decode(json.dumps(value, separators=separators), Limits(max_nesting=limit))
    deep = isinstance(message, Rejection) and "nested" in message.message
    assert deep == (depth_of(value) > limit)


@pytest.mark.parametrize(
    ("number", "count", "is_allowed"),
    [
        ("9" * 4_000, 45, True),
        ("9" * 4_000, 100, False),
        ("0." + "1" * 400, 9_000, False),
        ("-1.2345678901234567e-300", 11_000, True),
        ("1", 11_000, True),
        (" \n\t\r" * 50 + "1", 11_000, True),
    ],
)
def test_long_numbers_cost_what_their_digits_do(number: str, count: int, *, is_allowed: bool) -> None:
    line = '{"jsonrpc":"2.0","id":1,"method":"a","params":{"n":[' + ",".join([number] * count) + "]}}"
    message = decode(line)
    assert isinstance(message, Request) == is_allowed
    assert is_allowed or (isinstance(message, Rejection) and "digits" in message.message)


def test_digits_cost_as_much_in_a_short_message() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"a","params":{"n":' + b"1" * 4_000 + b"}}"
    least = next(each for each in range(1, 400) if structure_error(line, Limits(max_values=each)) is None)
    assert least == measure_structure(line, 1_000)[0]
    assert least > 240


def test_a_list_of_many_objects_is_not_looked_at_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(jsonrpc, "measure_structure")
    for separators in ((",", ":"), (", ", ": ")):
        request = {"jsonrpc": "2.0", "id": 1, "method": "a", "params": {"entries": [{"n": "1"}] * 1_000}}
        assert isinstance(decode(json.dumps(request, separators=separators)), Request)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def test_errors_and_notifications_hold_what_json_rpc_asks_for() -> None:
    assert json.loads(jsonrpc.error(None, -32700, "no")) == {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32700, "message": "no"},
    }
    assert json.loads(jsonrpc.error(1, 2, "no", data=None))["error"] == {
        "code": 2,
        "message": "no",
        "data": None,
    }
    assert json.loads(jsonrpc.notification("a", None)) == {"jsonrpc": "2.0", "method": "a"}
    assert json.loads(jsonrpc.notification("a", {})) == {"jsonrpc": "2.0", "method": "a", "params": {}}


@pytest.mark.parametrize("value", [object(), {"a": {1, object()}}, {"\ud800": float("nan")}])
def test_what_json_has_no_form_for_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsonrpc.result(1, {"value": value})


@pytest.mark.parametrize(
    "request_id", [7, None, "a", 'x,"error":{"code":5', 'x,"result":', '"\\' * 9, "x" * 100_000]
)
def test_the_code_of_an_error_is_found_in_its_line(request_id: Any) -> None:
    nested = {"error": {"code": 1}, "result": {"error": {"code": 2}}}
    assert jsonrpc.error_code(jsonrpc.error(request_id, -32601, "no", data=nested)) == -32601
    if request_id is not None:
        assert jsonrpc.error_code(jsonrpc.result(request_id, nested)) is None
