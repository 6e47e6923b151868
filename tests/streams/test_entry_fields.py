"""The format of entries: what is written comes back, what others wrote can be read, nothing can be forged."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from itertools import chain
from pathlib import Path
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams import entry_decoding, entry_encoding
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import MAX_MEMBERS, Stamp, encode
from redstreamd.streams.single_adds import packed_add
from redstreamd.strict_json import MAX_INTEGER
from tests.support.json_values import json_objects, json_text, text
from tests.support.servers import Server

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))


def fields_of(vector: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    if "hex_fields" in vector:
        return [(bytes.fromhex(name), bytes.fromhex(value)) for name, value in vector["hex_fields"]]
    return [(name.encode(), value.encode()) for name, value in vector["fields"]]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["what"] for vector in VECTORS])
def test_the_format_is_that_of_the_vectors(vector: dict[str, Any]) -> None:
    decoded = decode(fields_of(vector))
    assert decoded.members == vector["members"]
    assert decoded.stamp == Stamp(**vector.get("stamp", {}))
    assert decoded.binary == tuple(vector.get("binary", ()))
    assert decoded.repeated == tuple(vector.get("repeated", ()))
    assert decoded.dead_letter == vector.get("dead_letter")
    if vector.get("direction") != "decode":
        assert encode(vector["members"], Stamp(**vector.get("stamp", {}))) == fields_of(vector)


@given(json_objects())
def test_an_object_comes_back_equal(members: dict[str, Any]) -> None:
    decoded = decode(encode(members, Stamp(sender="unix")))
    assert decoded.members == members
    # 1 == True and 1 == 1.0 in Python; their JSON tells them apart where JSON does.
    assert json_text(decoded.members) == json_text(members)
    assert decoded.stamp.sender == "unix"
    assert decoded.binary == decoded.repeated == ()


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), max_size=6))
def test_any_fields_can_be_read_and_shown_as_json(fields: list[tuple[bytes, bytes]]) -> None:
    decoded = decode(fields)
    json.dumps(decoded.members).encode()
    ijson_free = {name: value for name, value in decoded.members.items() if isinstance(value, str)}
    for name, value in fields:
        shown = name.decode("utf-8", "backslashreplace")
        if not name.startswith(entry_decoding.PREFIX) and shown in ijson_free and shown not in decoded.binary:
            assert ijson_free[shown].encode() == value


@given(json_objects(), text(10))
def test_no_member_can_forge_the_sender(members: dict[str, Any], claimed: str) -> None:
    forged = members | {"_rs.sender": claimed, "_rs.v": "1", "_rs.=_rs.sender": claimed, "_rs.dead": "{}"}
    decoded = decode(encode(forged, Stamp(sender="daemon")))
    assert decoded.stamp.sender == "daemon"
    assert decoded.dead_letter is None
    assert decoded.members == forged


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (2**53, "integer"),
        (-(2**53), "integer"),
        (float("inf"), "number"),
        (float("nan"), "number"),
        ("\ud800", "U+D800"),
        ("\ufffe", "U+FFFE"),
        ("\U0010ffff", "U+10FFFF"),
        ({"\udfff": 1}, "U+DFFF"),
        (strict_json.object_from_pairs([("x", 1), ("x", 2)]), "'x' occurs twice"),
    ],
)
def test_what_i_json_excludes_is_refused_with_its_place(value: Any, word: str) -> None:
    with pytest.raises(BusError) as refused:
        encode({"outer": [{"inner": value}]}, Stamp())
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert word in refused.value.cause
    assert "outer[0].inner" in refused.value.message


def test_a_name_of_megabytes_is_not_copied_for_each_value_below_it() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BusError) as refused:
            strict_json.check({"x" * 1_000_000: [*range(10_000), 2**53]})
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert len(refused.value.message) < 200


def test_an_entry_has_a_bounded_number_of_members() -> None:
    encode({str(n): "" for n in range(entry_encoding.MAX_MEMBERS)}, Stamp())
    with pytest.raises(BusError) as refused:
        encode({str(n): "" for n in range(entry_encoding.MAX_MEMBERS + 1)}, Stamp())
    assert refused.value.code is Code.TOO_LARGE


def test_a_deeply_nested_value_needs_no_deep_stack() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    strict_json.check(value)


@pytest.mark.parametrize("opening", ["[", '{"x":'])
def test_what_is_nested_deeper_than_any_answer_can_be_stays_text(opening: str) -> None:
    def stored(levels: int) -> list[tuple[bytes, bytes]]:
        text = opening * levels + "1" + {"[": "]"}.get(opening, "}") * levels
        return [(b"a", text.encode()), (b"_rs.v", b"1"), (b"_rs.json", b'["a"]')]

    assert not isinstance(decode(stored(entry_decoding.MAX_NESTING)).members["a"], str)
    deeper = stored(entry_decoding.MAX_NESTING + 1)
    assert decode(deeper).members["a"] == deeper[0][1].decode()


def test_brackets_side_by_side_or_in_strings_are_no_nesting() -> None:
    wide = {"wide": [[]] * 1_000, "text": ["[" * 1_000]}
    assert decode(encode(wide, Stamp())).members == wide


def test_what_is_longer_than_any_stamp_or_note_of_ours_is_none() -> None:
    # The longest reply stream that settings allow, of a principal with a long name.
    name, principal = "s" * 65_536, "p" * 255
    reply_stream = f"{name}:rs:reply:{principal}:{{{name}}}"
    longest = Stamp(principal, "\U0001f600" * 256, reply_stream, f"{2**64}-0 {name}")
    assert decode(encode({"a": 1}, longest)).stamp == longest
    for attribute in ("sender", "correlation_id", "reply_to", "in_reply_to"):
        forged = [(b"a", b"b"), (b"_rs.v", b"1"), (f"_rs.{attribute}".encode(), b"x" * 1_000_000)]
        assert decode(forged) == entry_decoding.Decoded({"a": "b"})
    note = decode([(b"a", b"b"), (b"_rs.dead", b'{"reason":"' + b"x" * (4 << 20) + b'"}')]).dead_letter
    assert note is not None
    assert len(json.dumps(note)) < 2_000


def test_redis_cli_sees_text_and_its_entries_are_read_as_text(redis: Server) -> None:
    encoded = encode({"type": "order", "amount": 3}, Stamp(sender="unix"))
    redis.command("XADD", "s", "*", *[part for pair in encoded for part in pair])
    [[_, flat]] = redis.command("XRANGE", "s", "-", "+")
    assert flat[:4] == [b"type", b"order", b"amount", b"3"]

    redis.cli("XADD", "t", "*", "type", "order", "amount", "3")
    [[_, flat]] = redis.command("XRANGE", "t", "-", "+")
    decoded = decode(list(zip(flat[::2], flat[1::2], strict=True)))
    assert decoded.members == {"type": "order", "amount": "3"}
    assert decoded.stamp == Stamp()


@given(st.lists(json_objects() | st.dictionaries(text(5), text(20)), min_size=1, max_size=5), text(5))
def test_many_entries_are_encoded_as_each_of_them_is(entries: list[dict[str, Any]], reply_to: str) -> None:
    stamp = Stamp(sender="unix", reply_to=reply_to)
    together = entry_encoding.encode_all(entries, stamp)
    assert [[(name.encode(), value.encode()) for name, value in fields.items()] for fields in together] == [
        encode(entry, stamp) for entry in entries
    ]


@pytest.mark.parametrize(
    "odd",
    [
        *({"a": "\ufffe"}, {"\ufffe": "a"}, {"a": 2**53}, {"a": [float("inf")]}),
        *(strict_json.object_from_pairs([("x", "1"), ("x", "1")]), dict.fromkeys(map(str, range(1_001)), "")),
    ],
)
def test_an_entry_that_is_refused_is_refused_among_others(odd: dict[str, Any]) -> None:
    with pytest.raises(BusError) as alone:
        encode(odd, Stamp())
    with pytest.raises(BusError) as among_others:
        entry_encoding.encode_all([{"a": "b"}, odd], Stamp())
    assert str(among_others.value) == str(alone.value)


@pytest.mark.parametrize("odd", [{"_rs.v": "2"}, {"_rs.sender": "x", "a": "b"}, {"a": 1}, {"é": "ü"}, {}])
def test_members_of_any_kind_may_stand_beside_texts(odd: dict[str, Any]) -> None:
    stamp = Stamp(sender="unix")
    entries = [{"a": "b"}, odd]
    found = [
        decode([(n.encode(), v.encode()) for n, v in fields.items()])
        for fields in entry_encoding.encode_all(entries, stamp)
    ]
    assert [(each.members, each.stamp) for each in found] == [(entry, stamp) for entry in entries]


def pairs(most: int) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Return fields of any writer, among them some that are reserved or not UTF-8."""
    names = st.sampled_from(
        [
            b"a",
            b"b",
            b"_rs.v",
            b"_rs.json",
            b"_rs.sender",
            b"_rs.reply_to",
            b"_rs.=_rs.v",
            b"_rs.x",
            b"_rs.dead",
        ]
    )
    values = st.sampled_from([b"1", b"2", b'["a"]', b'["b","a"]', b"{", b"\xff", "é".encode(), b"x" * 2_000])
    return st.lists(st.tuples(names | st.binary(max_size=3), values | st.binary(max_size=3)), max_size=most)


@given(
    st.lists(
        st.tuples(
            pairs(5) | json_objects().map(lambda members: encode(members, Stamp("unix", "c"))),
            st.integers(1, 3),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_entries_are_decoded_together_as_each_of_them_is(
    written: list[tuple[list[tuple[bytes, bytes]], int]], as_text: bool
) -> None:
    entries = []
    for fields, times in written:
        words: list[Any] = [part for pair in fields for part in pair]
        if as_text:
            with contextlib.suppress(UnicodeDecodeError):
                words = [word.decode() for word in words]
        # Many entries of a stream look alike.
        entries += [RawEntry("1-1", words)] * times
    assert entry_decoding.decode_all(entries) == [decode(entry.fields) for entry in entries]


def test_entries_with_the_same_names_differ_in_what_is_reserved() -> None:
    entries = [
        RawEntry("1-1", ["a", "1", "b", "[2]", "_rs.v", version, "_rs.json", listed, "_rs.sender", sender])
        for version in ("1", "2")
        for listed in ('["a"]', '["b"]', "[", '["c","a","b"]')
        for sender in ("x", "y", "z" * 2_000)
    ]
    decoded = entry_decoding.decode_all(entries)
    assert decoded == [decode(entry.fields) for entry in entries]
    assert decoded[0] == entry_decoding.Decoded({"a": 1, "b": "[2]"}, Stamp("x"))


@pytest.mark.parametrize(
    ("members", "sender", "is_packed"),
    [
        ({"a": "1"}, "unix", True),
        ({"100 %s": "%d %", "": "", "a": "x" * 5_000, "n" * 400: "{}"}, "unix", True),
        ({"a": "b", "n" * 600: "{}"}, "unix", False),
        ({str(n) * 4: n for n in range(600)}, "unix", True),
        ({}, "unix", True),
        ({"a": 1, "b": "2", 'c"': -MAX_INTEGER, "_rs.v": 3, "_rs.=": "4"}, "unix", True),
        ({str(n): "" for n in range(1_000)}, "unix", True),
        ({"a": MAX_INTEGER + 1}, "unix", False),
        ({"a": True}, "unix", False),
        ({"a": None}, "unix", False),
        ({"a": 1.5}, "unix", False),
        ({"a": {"b": "c"}}, "unix", False),
        ({"a": "\u00e9"}, "unix", False),
        ({"\u00e9": "a"}, "unix", False),
        ({"a": "b"}, "jos\u00e9", False),
        ({str(n): "" for n in range(1_001)}, "unix", False),
    ],
)
def test_a_packed_entry_has_the_fields_of_the_usual_form(
    members: dict[str, Any], sender: str, is_packed: bool
) -> None:
    packed = packed_add("orders:new", members, sender)
    assert (packed is not None) == is_packed
    if packed is not None:
        fields = chain.from_iterable(entry_encoding.encode_fields(members, Stamp(sender)).items())
        args: Any = ("XADD", "orders:new", "*", *fields)
        assert packed.packed == hiredis.pack_command(args)
        assert packed.args == ("XADD", *(word.encode() for word in args[1:]))


def test_more_names_than_are_remembered_are_packed_as_before() -> None:
    for round_ in range(5):
        members = {f"{round_}:{n}": str(n) for n in range(MAX_MEMBERS)}
        packed = packed_add("orders:new", members, "unix")
        assert packed is not None
        fields = entry_encoding.encode_fields(members, Stamp("unix"))
        assert packed.args[3:] == tuple(word.encode() for word in chain.from_iterable(fields.items()))
