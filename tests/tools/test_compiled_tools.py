"""What is compiled of a tool: what decodes its arguments."""

from __future__ import annotations

import pytest

from redstreamd.streams.name_rules import NameRules
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.compiled_tools import CompiledTools, Prepared

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


def test_what_is_published_is_not_kept(prepared: dict[str, Prepared]) -> None:
    decode = prepared["request_reply"].decode
    text = b'{"stream":"s","entry":{"a":"b"}}'
    given = decode(text, None)
    assert given is not None
    assert decode(text, None) is not given
