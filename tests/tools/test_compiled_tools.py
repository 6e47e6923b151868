"""What is compiled of a tool: what decodes its arguments."""

from __future__ import annotations

import string
import tracemalloc

import pytest

from redstreamd.streams.name_rules import NameRules
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.compiled_tools import (
    _LONGEST_REMEMBERED,
    _MAX_REMEMBERED,
    CompiledTools,
    Prepared,
)

_WAIT = b'{"streams":["s"],"cursor":"1-0","timeout_seconds":20}'


@pytest.fixture(scope="module")
def prepared() -> dict[str, Prepared]:
    return CompiledTools(REGISTRY, NameRules(), takes_leases=True).prepared


def test_those_who_wait_for_the_same_share_their_arguments(prepared: dict[str, Prepared]) -> None:
    decode = prepared["stream_wait"].decode
    first = decode(_WAIT, None)
    assert first.streams == ("s",)
    assert decode(bytes(bytearray(_WAIT)), None) is first
    assert decode(_WAIT.replace(b"1-0", b"2-0"), None).cursor == "2-0"


def test_long_arguments_are_not_kept(prepared: dict[str, Prepared]) -> None:
    decode = prepared["stream_wait"].decode
    text = _WAIT.replace(b'"s"', b'"' + b"s" * 500 + b'"')
    assert decode(text, None) == decode(text, None)
    assert decode(text, None) is not decode(text, None)


def test_what_was_counted_is_looked_at_by_its_count(prepared: dict[str, Prepared]) -> None:
    decode = prepared["stream_wait"].decode
    assert decode(_WAIT, _WAIT.count(b":")) == decode(_WAIT, None)
    assert decode(_WAIT, _WAIT.count(b":") + 1) is None


def test_what_is_no_plain_text_stays_none(prepared: dict[str, Prepared]) -> None:
    decode = prepared["stream_wait"].decode
    for text in (b'{"streams":["s"],"cursor":"1-0","cursor":"1-0"}', b'{"streams":7}', b"{"):
        assert decode(text, None) is None
        assert decode(text, None) is None


@pytest.mark.parametrize("name", [b"filter", b"\\u0066ilter"])
def test_filters_are_not_kept(prepared: dict[str, Prepared], name: bytes) -> None:
    """They may hold what is personal, and a short text can be one of many objects."""
    decode = prepared["stream_wait"].decode
    text = _WAIT[:-1] + b',"' + name + b'":{"name":["Ada"]}}'
    given = decode(text, None)
    if given is not None:
        assert given.filter == {"name": ["Ada"]}
        assert decode(text, None) is not given
    # One that matches everything is none.
    plain = _WAIT[:-1] + b',"filter":null}'
    assert decode(plain, None) is decode(plain, None)


def test_what_is_kept_takes_no_more_than_the_decision_says() -> None:
    decode = CompiledTools(REGISTRY, NameRules(), takes_leases=True).prepared["stream_wait"].decode
    # The most that such a text can hold: names of two letters.
    letters = [a + b for a in string.ascii_letters for b in string.ascii_letters]
    texts = [
        b'{"streams":["' + '","'.join(letters[number : number + 99]).encode() + b'"]}'
        for number in range(2 * _MAX_REMEMBERED)
    ]
    assert max(map(len, texts)) <= _LONGEST_REMEMBERED
    # What is no plain text is not kept, either.
    wrong = [b'{"stream":["%d"],"text":"%s"}' % (number, b"x" * 450) for number in range(1000)]
    decode(texts[0], None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for text in texts:
            last = decode(text, None)
        assert all(decode(text, None) is None for text in wrong)
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert decode(texts[-1], None) is last
    assert held < 900 * 1024


def test_what_is_published_is_not_kept(prepared: dict[str, Prepared]) -> None:
    decode = prepared["request_reply"].decode
    text = b'{"stream":"s","entry":{"a":"b"}}'
    given = decode(text, None)
    assert given is not None
    assert decode(text, None) is not given
