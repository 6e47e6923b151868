"""The id of a message that is not decoded is its own, or none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.mcpio.undecoded import id_in_beginning, id_in_line, is_response


@pytest.mark.parametrize(
    ("beginning", "request_id"),
    [
        ('{"id":1,"a', 1),
        ('{"id":-7 ,', -7),
        (' { "id" : "x" , "me', "x"),
        ('{"id":"x"', "x"),
        ('{"id":"a\\"b","m', 'a"b'),
        ('{"\\u0069d":7,', 7),
        ('{"jsonrpc":"2.0","method":"a","params":{"id":2},"id":3,', 3),
        ('{"a":[{"id":1},"}",["]"]],"id":3,', 3),
        ('{"a":"\\\\","id":3,', 3),
        ('{"a":null,"b":true,"c":1.5e3,"id":3}', 3),
        # It may go on.
        ('{"id":1', None),
        ('{"id":"x', None),
        ('{"id":', None),
        ('{"id', None),
        ("", None),
        ("{", None),
        # Somebody else's.
        ('{"params":{"id":1,', None),
        ('{"params":[{"id":1},', None),
        ('{"a":"\\",\\"id\\":1,",', None),
        ('[{"id":1,', None),
        # Which of the two would it be?
        ('{"id":1,"id":2,', None),
        ('{"id":1,"\\u0069d":1,', None),
        # It is no JSON, so that there is no telling.
        ('{"id":1 "b":2,', None),
        ('{"a":[},"id":1,', None),
        ('{"a","id":1,', None),
        ('{,"id":1,', None),
        ('{"id":01,', None),
        ("{\"id\":'x',", None),
        ('"id":1,', None),
    ],
)
def test_the_id_in_the_beginning_of_a_message_is_its_own(beginning: str, request_id: Any) -> None:
    assert id_in_beginning(beginning.encode()) == request_id


def test_bytes_that_are_no_text_have_no_id() -> None:
    assert id_in_beginning(b'{"\xff":1,"id":1,') is None
    assert id_in_beginning(b'{"id":"\xff",') is None


@pytest.mark.parametrize(
    ("beginning", "expected"),
    [
        ('{"jsonrpc":"2.0","id":1,"result":{"a":', True),
        ('{"jsonrpc":"2.0","id":1,"error":{', True),
        ('{"result":1,"method":"a",', False),
        ('{"jsonrpc":"2.0","id":1,"method":"a","params":{"result":', False),
        ('{"jsonrpc":"2.0","id":1,', False),
        ("[", False),
    ],
)
def test_the_beginning_of_an_answer_is_recognised(beginning: str, expected: bool) -> None:
    assert is_response(beginning.encode()) is expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('id":,{}[]\\ 1', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "a"]), inner, max_size=2)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["id", "a", "b", "c"]), VALUES), st.integers(0, 200))
def test_wherever_a_message_is_cut_its_id_is_found_or_none(message: dict[str, Any], cut: int) -> None:
    text = json.dumps(message).encode()
    found = id_in_beginning(text[:cut])
    assert found is None or found == message["id"]
    whole = message.get("id")
    assert id_in_beginning(text) == (None if isinstance(whole, dict | list) else whole)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_bytes_make_it_raise(one: bytes, other: bytes) -> None:
    for text in (one, b'{"id":' + one, b'{"' + one + b'":' + other):
        id_in_beginning(text)
        id_in_line(text)
        is_response(text)
