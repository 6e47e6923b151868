"""Which lines are plain calls: no member twice, however the line is written, and nothing too deep."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.mcpio import plain_calls
from redstreamd.mcpio.connection_state import Era
from redstreamd.mcpio.jsonrpc import structure_error
from redstreamd.mcpio.limits import Limits
from redstreamd.strict_json import LONG
from tests.support.mcp_client import ENVELOPE

LIMITS = Limits()


def line_of(call_id: Any = 7, separators: tuple[str, str] = (",", ":"), **params: Any) -> bytes:
    message = {
        "jsonrpc": "2.0",
        "id": call_id,
        "method": "tools/call",
        "params": {"name": "a_tool", **params},
    }
    return json.dumps(message, separators=separators, ensure_ascii=False).encode()


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("call_id", [7, -1, 2**53, "", "a:b", 'a "b"', "é"])
@pytest.mark.parametrize("meta", [None, {"progressToken": "x:y"}, ENVELOPE])
@pytest.mark.parametrize("arguments", [None, {}, {"a": "b:c", "d": [1.5e300, None]}])
def test_a_call_is_plain_however_it_is_written(
    separators: tuple[str, str], call_id: Any, meta: Any, arguments: Any
) -> None:
    given = {"arguments": arguments, "_meta": meta}
    line = line_of(call_id, separators, **{name: each for name, each in given.items() if each is not None})
    call = plain_calls.decode(line, LIMITS)
    assert call is not None
    assert (call.id, call.tool) == (call_id, "a_tool")
    assert (json.loads(bytes(call.arguments)) if call.arguments else None) == arguments
    assert (call.era is Era.MODERN) == (meta is ENVELOPE)


@pytest.mark.parametrize("space", [b"", b" "])
@pytest.mark.parametrize(
    "member",
    [
        b'"jsonrpc":"2.0",',
        b'"id":1,',
        b'"id":"a:b",',
        b'"method":"tools/call",',
        b'"params":{"name":"x"},',
        b'"name":"a_tool",',
        b'"arguments":{},',
        b'"_meta":{},',
    ],
)
def test_a_member_that_is_named_twice_is_for_the_kernel(member: bytes, space: bytes) -> None:
    plain = line_of(arguments={"a": 1}, _meta=ENVELOPE)
    assert plain_calls.decode(plain, LIMITS) is not None
    place = plain.index(member.split(b":")[0])
    assert plain_calls.decode(plain[:place] + member + space + plain[place:], LIMITS) is None


@pytest.mark.parametrize("spaces", range(40))
def test_a_name_twice_is_found_also_where_other_members_are_absent(spaces: int) -> None:
    """As many bytes as a call with these members has."""
    line = line_of().replace(b'"name"', b" " * spaces + b'"name":"x","name"')
    assert plain_calls.decode(line, LIMITS) is None


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_what_is_nested_too_deeply_is_for_the_kernel(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    for depth in (*range(1, 8), *range(LIMITS.max_nesting - 4, LIMITS.max_nesting + 2), 5_000):
        arguments = b'{"a":' + depth * opening + b"1" + depth * closing + b"}"
        line = line_of(arguments={}).replace(b'"arguments":{}', b'"arguments":' + arguments)
        is_plain = plain_calls.decode(line, LIMITS) is not None
        assert is_plain == (structure_error(line, LIMITS) is None)
        assert is_plain == (depth + 3 <= LIMITS.max_nesting)


@given(
    st.lists(st.sampled_from(['"', '\\"', "\\\\", "\\n", "[", "{", ",", ":", "a", "]", "}"]), max_size=12),
    st.sampled_from([0, 1, 50, 2_000, 20_000]),
    st.sampled_from([0, 1, 50, 2_000, 20_000]),
    st.sampled_from(["escaped", "raw", "values"]),
    st.integers(0, 2),
)
def test_the_bounds_of_a_line_with_a_long_text_are_exact(
    parts: list[str], before: int, behind: int, kind: str, nested: int
) -> None:
    long = "x" * LONG
    texts = {"escaped": json.dumps("".join(parts) + long), "raw": f'"{long}{"".join(parts)}"'}
    # Between two quotes that are far from each other need not be a text.
    text = texts.get(kind) or f'"",{"[]," * LONG}""'
    depth = nested * LIMITS.max_nesting // 2
    values = f"[{'[' * depth}{'0,' * before}0{']' * depth},{text},{'[],' * behind}{{}}]"
    line = line_of(arguments={}).replace(b'"arguments":{}', b'"arguments":{"a":' + values.encode() + b"}")
    is_within = structure_error(line, LIMITS) is None
    try:
        json.loads(line)
    except ValueError:
        # The decoder decides; but not before the bound.
        assert is_within or plain_calls.decode(line, LIMITS) is None
    else:
        assert (plain_calls.decode(line, LIMITS) is not None) == is_within
