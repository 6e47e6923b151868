"""The format of encrypted entries: vectors, what comes back, what is refused, and the reader of contrib."""

from __future__ import annotations

import base64
import importlib.util
import json
import secrets
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redstreamd.encryption import opening, sealed_format, sealing
from redstreamd.encryption.sealed_format import ENCRYPTED, TEXT_PREFIX, SealError, derived
from redstreamd.encryption.sealing import Series
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.entry_decoding import Decoded, decode
from redstreamd.streams.entry_encoding import Stamp, encode_fields
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.failure_reasons import with_reasons
from tests.support.json_values import json_objects, json_text
from tests.support.servers import Server

REPOSITORY = Path(__file__).parents[2]
READER = REPOSITORY / "contrib" / "read_encrypted.py"
VECTORS: dict[str, Any] = json.loads((REPOSITORY / "tests/streams/encrypted_vectors.json").read_text("utf-8"))
KEYS = {key_id: base64.b64decode(secret) for key_id, secret in VECTORS["keys"].items()}
SECRET = secrets.token_bytes(32)

by_what = {"ids": lambda vector: vector["what"]}
entries = pytest.mark.parametrize("vector", VECTORS["entries"], **by_what)
texts = pytest.mark.parametrize("vector", VECTORS["texts"], **by_what)
refused = pytest.mark.parametrize("vector", VECTORS["refused"], **by_what)


@pytest.fixture(scope="module")
def reader() -> ModuleType:
    spec = importlib.util.spec_from_file_location("read_encrypted", READER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def series_of(vector: dict[str, Any]) -> Series:
    return Series(vector["key"], KEYS[vector["key"]], bytes.fromhex(vector["series"]), first=vector["count"])


def opened(stream: str, fields: list[list[str]], keys: dict[str, bytes]) -> Decoded:
    closed = opening.closed_entry(list(chain.from_iterable(fields)))
    assert closed is not None
    header = closed.header
    opening.take_apart(closed, stream)
    plain = opening.put_together(closed, derived(keys[header.key], header.series))
    return decode(
        [(name.encode(), value.encode()) for name, value in zip(plain[::2], plain[1::2], strict=True)]
    )


@entries
def test_entries_are_sealed_as_in_the_vectors(vector: dict[str, Any]) -> None:
    sealed = series_of(vector).seal(
        vector["stream"],
        encode_fields(vector["members"], Stamp(**vector["stamp"])),
        frozenset(vector["clear"]),
        hide_names=vector["hide_names"],
        draw=bytes.fromhex(vector["draw"]),
    )
    assert [list(pair) for pair in sealed.items()] == vector["fields"]


@entries
def test_entries_of_the_vectors_are_read_by_both_programs(vector: dict[str, Any], reader: ModuleType) -> None:
    decoded = opened(vector["stream"], vector["fields"], KEYS)
    assert decoded.members == vector["members"]
    assert decoded.stamp == Stamp(**vector["stamp"])
    assert decoded.encrypted is None
    assert reader.open_entry(KEYS, vector["stream"], vector["fields"]) == vector["members"]


@texts
def test_texts_of_the_vectors_are_sealed_and_read(vector: dict[str, Any], reader: ModuleType) -> None:
    sealed = series_of(vector).seal_text(
        vector["text"], *vector["places"], draw=bytes.fromhex(vector["draw"])
    )
    assert sealed == vector["sealed"]
    split = opening.split_text(sealed)
    assert split is not None
    header, box = split
    cipher = derived(KEYS[header.key], header.series)
    assert opening.open_text(cipher, header, box, *vector["places"]) == vector["text"]
    assert reader.open_text(KEYS, sealed, *vector["places"]) == vector["text"]
    with pytest.raises(SealError):
        opening.open_text(cipher, header, box, *vector["places"][:-1], "elsewhere")


@refused
def test_what_the_vectors_refuse_is_refused_by_both_programs(
    vector: dict[str, Any], reader: ModuleType
) -> None:
    with pytest.raises(SealError):
        opened(vector["stream"], vector["fields"], KEYS)
    with pytest.raises(reader.UnreadableError):
        reader.open_entry(KEYS, vector["stream"], vector["fields"])


@settings(max_examples=50)
@given(json_objects(), st.booleans(), st.data())
def test_any_object_comes_back_equal(members: dict[str, Any], hide_names: bool, data: st.DataObject) -> None:
    clear = data.draw(st.frozensets(st.sampled_from(sorted(members)))) if members else frozenset()
    stamp = Stamp(sender="unix", reply_to="a:b")
    sealed = Series("k", SECRET).seal("s", encode_fields(members, stamp), clear, hide_names=hide_names)
    shown = decode([(name.encode(), value.encode()) for name, value in sealed.items()])
    # What is not opened shows what is clear, and nothing else.
    assert shown.members == {name: value for name, value in members.items() if name in clear}
    assert shown.encrypted == sealed[ENCRYPTED]
    decoded = opened("s", [list(pair) for pair in sealed.items()], {"k": SECRET})
    assert json_text(dict(sorted(decoded.members.items()))) == json_text(dict(sorted(members.items())))
    assert decoded.stamp == stamp


def test_nonces_of_a_series_differ_also_if_the_random_bytes_do_not() -> None:
    series = Series("k", SECRET)
    draw = sealing.new_draw()
    fields = encode_fields({"a": "b"}, Stamp())
    headers = {series.seal("s", fields, draw=draw)[ENCRYPTED] for _ in range(100)}
    assert len({header.split(" ")[3] for header in headers}) == 100
    assert len({header.split(" ")[2] for header in headers}) == 1
    assert Series("k", SECRET).seal("s", fields, draw=draw)[ENCRYPTED].split(" ")[2] not in str(headers)


def test_a_series_ends_after_so_many_entries_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = encode_fields({"a": "b" * 100}, Stamp())
    for bound, most in (("MAX_ENTRIES", 2), ("MAX_BYTES", 150)):
        with monkeypatch.context() as patch:
            patch.setattr(sealing, bound, most)
            series = Series("k", SECRET)
            assert not series.is_used_up
            series.seal("s", fields)
            assert not series.is_used_up
            series.seal("s", fields)
            assert series.is_used_up


def test_the_reader_of_contrib_reads_what_redis_holds(redis: Server, tmp_path: Path) -> None:
    (tmp_path / "k1.key").write_text(base64.b64encode(SECRET).decode())
    members = {"token": "ä secret", "list": [1, {"a": None}], "kind": "x"}
    series = Series("k1", SECRET)
    for hide_names in (False, True):
        fields = encode_fields(members, Stamp(sender="me"))
        sealed = series.seal("s", fields, frozenset({"kind"}), hide_names=hide_names)
        redis.command("XADD", "s", "*", *chain.from_iterable(sealed.items()))
    redis.command("XADD", "s", "*", *chain.from_iterable(encode_fields({"plain": 1}, Stamp()).items()))
    redis.command("XADD", "s", "*", *chain.from_iterable({**sealed, "kind": "y"}.items()))
    ranged = subprocess.run(
        ["redis-cli", "-s", redis.path, "--json", "XRANGE", "s", "-", "+"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    read = subprocess.run(
        [sys.executable, str(READER), "--keys", str(tmp_path), "--stream", "s"],
        input=ranged, capture_output=True, check=True,
    ).stdout  # fmt: skip
    lines = [json.loads(line) for line in read.splitlines()]
    assert [line.get("members") for line in lines] == [members, members, {"plain": 1}, None]
    assert "changed" in lines[3]["unreadable"]


def test_a_list_of_clear_names_that_is_long_is_not_remembered() -> None:
    """Whoever can write to Redis can write any."""
    before = sealed_format._layout.cache_info().currsize
    for number in range(5):
        clear = json.dumps([f"{number}", "x" * 100_000])
        words = ["a", "x", "_rs.v", "1", "_rs.clear", clear, ENCRYPTED, "1 k1 x x x"]
        with pytest.raises(SealError):
            opening.closed_entry(words)
    assert sealed_format._layout.cache_info().currsize == before


def test_a_note_of_another_program_is_left_as_it_is_however_deep() -> None:
    note = f'{{"reason":"{TEXT_PREFIX}","x":{"[" * 3_000}{"]" * 3_000}}}'
    letter = RawEntry("1-1", ["a", "b", "_rs.dead", note])
    assert with_reasons(Encryption(), "s", "g", letter) is letter
