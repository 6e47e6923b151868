"""Calls that are recognised by their form are plain calls, whatever is in the place of their parts."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.mcpio import call_forms, plain_calls
from redstreamd.mcpio.call_forms import CallForms
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.plain_calls import PlainCall
from redstreamd.strict_json import LONG
from tests.support.json_lines import LINES, VALUES, tree, write
from tests.support.mcp_client import ENVELOPE

LIMITS = Limits()
ARGUMENTS = {"stream": "s", "entries": [{"n": 1, "id": 5, "text": "a:b"}]}
#: How clients write a call: with spaces or without, the envelope behind the arguments or before them, the id
#: before both or behind them.
SHAPES = [
    pytest.param(params, separators, is_id_last, id=f"{name}, id {'last' if is_id_last else 'first'}")
    for is_id_last in (False, True)
    for name, params, separators in (
        ("handshake", {"arguments": ARGUMENTS}, (",", ":")),
        ("handshake, spaces", {"arguments": ARGUMENTS}, (", ", ": ")),
        ("modern", {"arguments": ARGUMENTS, "_meta": ENVELOPE}, (",", ":")),
        ("modern, envelope first", {"_meta": ENVELOPE, "arguments": ARGUMENTS}, (", ", ": ")),
    )
]


def line_of(
    params: dict[str, Any],
    separators: tuple[str, str] = (",", ":"),
    call_id: Any = 7,
    *,
    is_id_last: bool = False,
) -> bytes:
    message: dict[str, Any] = {"method": "tools/call", "params": {"name": "a_tool", **params}}
    begin = {"jsonrpc": "2.0", "id": call_id}
    message = message | begin if is_id_last else begin | message
    return json.dumps(message, separators=separators, ensure_ascii=False).encode()


class Decoded:
    """Counts what is decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[bytes] = []
        monkeypatch.setattr(call_forms, "decode", self._decode)

    def _decode(self, line: bytes, limits: Limits) -> PlainCall | None:
        self.lines.append(line)
        return plain_calls.decode(line, limits)


def taught(line: bytes) -> CallForms:
    """Return what has seen so many calls of a form that it knows it."""
    forms = CallForms()
    for _ in range(call_forms._ALIKE):
        assert forms.decode(line, LIMITS) == plain_calls.decode(line, LIMITS) is not None
    return forms


def is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def check(forms: CallForms, line: bytes, limits: Limits = LIMITS) -> None:
    """Check that a line is taken for the call that it is, or for one without arguments, to be refused."""
    found, plain = forms.decode(line, limits), plain_calls.decode(line, limits)
    if found is not None and plain is not None and found != plain:
        # Spaces around the arguments may be taken for a part of them.
        found = msgspec.structs.replace(found, arguments=bytes(found.arguments).strip(b" \t\r\n"))
    assert found == plain or (found is not None and not is_json(bytes(found.arguments)))


@pytest.mark.parametrize(("params", "separators", "is_id_last"), SHAPES)
def test_a_call_like_those_before_it_is_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, Any],
    separators: tuple[str, str],
    is_id_last: bool,
) -> None:
    forms = taught(line_of(params, separators, is_id_last=is_id_last))
    decoded = Decoded(monkeypatch)
    arguments: Any
    for call_id, arguments in (
        (8, {}),
        (10**14, ARGUMENTS),
        (9, {"é": [[{"a": "\n"}]], "long": "x" * 2_000}),
    ):
        line = line_of(params | {"arguments": arguments}, separators, call_id, is_id_last=is_id_last)
        found = forms.decode(line, LIMITS)
        assert decoded.lines == []
        assert found == plain_calls.decode(line, LIMITS) is not None


@pytest.mark.parametrize(
    ("params", "call_id"),
    [
        *(({"arguments": ARGUMENTS}, each) for each in ("7", "x")),
        ({"arguments": ARGUMENTS, "_meta": {"progressToken": 7}}, 7),
        ({}, 7),
        ({"arguments": {"long": "x" * LONG}}, 7),
        # What is kept of it is bounded.
        ({"name": "a" * 1_000, "arguments": {}}, 7),
    ],
)
def test_a_call_of_another_kind_is_decoded_each_time(params: dict[str, Any], call_id: Any) -> None:
    line = line_of(params, call_id=call_id)
    forms = taught(line)
    assert forms._form is None
    for _ in range(20):
        check(forms, line)


def test_a_form_that_cannot_be_found_is_looked_for_in_vain_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # What stands behind the arguments is taken for the id.
    envelope = json.dumps(ENVELOPE).replace('"version": ', '"title": "id", "version": ')
    line = line_of({"arguments": ARGUMENTS, "_meta": json.loads(envelope)})
    forms = taught(line)
    assert forms._form is None
    decoded = Decoded(monkeypatch)
    for _ in range(100):
        check(forms, line)
    assert decoded.lines == [line] * 100


def test_calls_of_tools_that_take_turns_show_no_form() -> None:
    forms = CallForms()
    lines = [line_of({"arguments": ARGUMENTS}).replace(b"a_tool", name) for name in (b"one", b"two")]
    for each in lines * 50:
        check(forms, each)
    assert forms._form is None


def test_a_client_that_begins_to_write_another_form_is_not_looked_at_twice_each_time() -> None:
    forms = taught(line_of({"arguments": ARGUMENTS}))
    line = line_of({"arguments": ARGUMENTS, "_meta": {"progressToken": 7}})
    refused = 0
    for _ in range(100):
        call = forms.decode(line, LIMITS)
        if call != plain_calls.decode(line, LIMITS):
            refused += 1
            forms.forget()
            assert forms.decode(line, LIMITS) == plain_calls.decode(line, LIMITS) is not None
    assert refused == 1


def test_equal_forms_of_many_clients_are_kept_once() -> None:
    line = line_of({"arguments": ARGUMENTS, "_meta": ENVELOPE})
    assert taught(line)._form is taught(line)._form is not None


@pytest.mark.parametrize(("params", "separators", "is_id_last"), SHAPES)
def test_whatever_is_in_the_place_of_the_parts_is_judged_as_without_a_form(
    params: dict[str, Any], separators: tuple[str, str], is_id_last: bool
) -> None:
    plain = line_of(params, separators, is_id_last=is_id_last)
    forms = taught(plain)
    arguments = json.dumps(ARGUMENTS, separators=separators).encode()
    texts = [write(value).encode("utf-8", "surrogatepass") for value in VALUES]
    texts += [
        b"",
        b" ",
        b"{}",
        b"[]",
        b"{",
        b"}",
        b"{},{}",
        b'{},"name":"other"',
        b'{},"arguments":{}',
        b" {} ",
    ]
    texts += [b'{"a":1}}', b"\\", b'"\\', b"\xff", b'"\xff"', b"{}}}", b"//", b"{}\x00"]
    ids = [
        b"",
        b"0",
        b"00",
        b"07",
        b"-7",
        b"+7",
        b" 7",
        b"7 ",
        b"7.0",
        b"7e0",
        b"1" * 15,
        b"1" * 16,
        b"9" * 30,
    ]
    ids += [b'"7"', b"null", b"true", b"7,8", b'7,"id":8', b"\xd9\xa7", b"1_0", *texts]
    name = b'"id"' + separators[1].encode()
    # The arguments have one, too.
    at = (plain.rindex(name) if is_id_last else plain.index(name)) + len(name)
    for text in texts:
        check(forms, plain.replace(arguments, text))
    for text in ids:
        check(forms, plain[:at] + text + plain[at + 1 :])
    for change in LINES:
        check(forms, change(plain))
    for end in range(len(plain)):
        check(forms, plain[:end])
        # What is behind the arguments may not begin before what is before them ends.
        check(forms, plain[:end] + plain[-end:])
        check(forms, plain[:end] + plain[end + 1 :])
        check(forms, plain[:end] + plain[end : end + 1] + plain[end:])


@pytest.mark.parametrize(
    "limits",
    [Limits(max_nesting=each) for each in (1, 3, 8, 9, 12, 100)]
    + [Limits(max_values=each) for each in (1, 60, 200, 10**9)],
)
def test_bounds_are_those_of_any_call(limits: Limits) -> None:
    forms = taught(line_of({"arguments": ARGUMENTS, "_meta": ENVELOPE}))
    for depth in range(120):
        for arguments in (
            b'{"a":' + depth * b"[" + depth * b"]" + b"}",
            b'{"a":' * depth + b"1" + b"}" * depth,
            b'{"a":"' + depth * b"[{" + b'"}',
            b'{"a":[' + depth * b"0," + b"1]}",
            b'{"a":"' + depth * 200 * b"x" + b'"}',
        ):
            line = line_of({"arguments": {}, "_meta": ENVELOPE})
            check(forms, line.replace(b'"arguments":{}', b'"arguments":' + arguments), limits)


@given(st.randoms(use_true_random=False), st.sampled_from(SHAPES))
def test_a_line_that_is_changed_anywhere_is_judged_as_without_a_form(chance: Random, shape: Any) -> None:
    params, separators, is_id_last = shape.values
    plain = line_of(params, separators, is_id_last=is_id_last)
    forms = taught(plain)
    line = bytearray(plain)
    pieces = [
        *plain.split(b'"'),
        b'"',
        b"\\",
        b",",
        b":",
        b"{",
        b"}",
        b"[",
        b"]",
        b"7",
        b" ",
        b"\\u0041",
        b"\xc3\xa9",
    ]
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.randrange(len(line) + 1)
        to = min(len(line), at + chance.choice([0, 0, 1, 2, 20]))
        line[at:to] = chance.choice(pieces)
    check(forms, bytes(line))
    # And it has taught nothing wrong.
    for _ in range(10):
        check(forms, bytes(line))
    check(forms, plain)
    check(forms, write(tree(json.loads(plain))).encode())
