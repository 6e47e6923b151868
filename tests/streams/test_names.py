"""Names and the companion keys derived from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from redstreamd.errors import BusError, Code
from redstreamd.streams.names import (
    Kind,
    check_group,
    check_stream,
    companion_key,
    has_stray_braces,
    is_companion_key,
    is_reply_stream,
    is_reserved,
    naming_warning,
)

NAMES = st.text(st.sampled_from("ab:{}%é"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("stream", "group", "key"),
    [
        ("orders", "billing", "orders:rs:due:billing:{orders}"),
        ("shop:{eu}:orders", "billing", "shop:{eu}:orders:rs:due:billing"),
        ("orders", "a{b}%", "orders:rs:due:a%7Bb%7D%25:{orders}"),
    ],
)
def test_companion_keys_are_named_by_the_rule(stream: str, group: str, key: str) -> None:
    assert companion_key(stream, Kind.DUE, group) == key


@given(NAMES, NAMES)
def test_a_companion_key_begins_with_the_stream_and_lies_in_its_slot(stream: str, group: str) -> None:
    key = companion_key(stream, Kind.DUE, group)
    assert key.startswith(stream)
    assert is_companion_key(key)
    if not has_stray_braces(stream):  # such names are refused on a cluster
        assert key_slot(key.encode()) == key_slot(stream.encode())


@given(NAMES, NAMES, NAMES)
def test_different_groups_of_a_stream_have_different_keys(stream: str, one: str, other: str) -> None:
    same = companion_key(stream, Kind.DUE, one) == companion_key(stream, Kind.DUE, other)
    assert same == (one == other)


@pytest.mark.parametrize("name", ["", "a\nb", "a\0", "\ud800", "é" * 257, "\x85"])
def test_names_that_cannot_be_used_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(BusError) as refused:
        check_stream(name)
    assert refused.value.code is Code.INVALID_STREAM
    with pytest.raises(BusError) as refused:
        check_group(name)
    assert refused.value.code is Code.INVALID_GROUP


@pytest.mark.parametrize("name", ["a", "é" * 256, "with space", "a:b:c", "x" * 512])
def test_other_names_are_accepted(name: str) -> None:
    assert check_stream(name) == name


def test_the_naming_rule_is_advice() -> None:
    assert naming_warning("auth:events:login") is None
    assert naming_warning("auth:service:events:login-failed") is None
    for name in ("auth-service-events", "Auth:events:login", "auth:events", "a::b"):
        assert "service:purpose:stream" in str(naming_warning(name))


@pytest.mark.parametrize("stream", ["s", "{s}:t", "s:rs:reply:p:{s}"])
@pytest.mark.parametrize("part", ["g", "rs:reply:x", "g:rs:reply:x"])
def test_all_companions_but_reply_streams_are_reserved(stream: str, part: str) -> None:
    for kind in set(Kind) - {Kind.REPLY}:
        assert is_reserved(companion_key(stream, kind, part))
    reply = companion_key(stream, Kind.REPLY, "somebody")
    assert is_companion_key(reply)
    assert is_reply_stream(reply)
    assert not is_reserved(reply)
    assert not is_reserved("s")
