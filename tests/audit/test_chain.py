"""The chain of audit records: what its hash covers, who continues it, and what a verification finds."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redstreamd.audit.chain import Chain, End, chain_name, hash_of, read_end, read_key
from redstreamd.audit.journal_export import Fields, UnreadableExportError, records
from redstreamd.audit.verification import Range, Verified, verify
from redstreamd.cli import main
from redstreamd.errors import NotNowError
from redstreamd.service.log_forms import as_json
from redstreamd.service.log_output import LogOutput
from redstreamd.service.log_record import Record, Severity
from redstreamd.visible_text import visible

#: The vector of docs/security.md, which other implementations can be held to.
KEY = bytes(range(32))
VECTOR: list[tuple[str, str | bytes]] = [
    ("__REALTIME_TIMESTAMP", "1764417600000000"),
    (
        "MESSAGE",
        "mcp (process 4711, uid 1000) called stream_manage (delete force) on 'jobs': ok after 0.004 s",
    ),
    ("PRIORITY", "5"),
    ("MESSAGE_ID", "98387ff879cef04721a2ad82f35b3def"),
    ("SYSLOG_IDENTIFIER", "redstreamd"),
    ("REDSTREAMD_EVENT", "call_audited"),
    ("REDSTREAMD_STREAM", "jobs"),
    ("REDSTREAMD_STREAM", "é"),
    ("REDSTREAMD_AUDIT_SEQ", "1"),
    ("REDSTREAMD_AUDIT_PREVIOUS", "0" * 64),
]


def record(text: str = "somebody did something", *fields: tuple[str, str]) -> Record:
    return Record(Severity.NOTICE, "ab" * 16, "call_audited", text, (("PRINCIPAL", "mcp"), *fields))


def exported(sealed: Record, **more: str) -> Fields:
    """The fields as journald stores them: those of one name need not keep their order."""
    own: Fields = [(f"REDSTREAMD_{name}", value) for name, value in sealed.fields]
    return [
        ("__REALTIME_TIMESTAMP", "1764417600000000"),
        *more.items(),
        ("MESSAGE", sealed.text),
        ("MESSAGE_ID", sealed.message_id),
        ("REDSTREAMD_EVENT", sealed.event),
        *reversed(own),
    ]


def as_export(entries: list[Fields]) -> bytes:
    lines = b""
    for fields in entries:
        for name, value in fields:
            data = value.encode() if isinstance(value, str) else value
            if b"\n" in data or isinstance(value, bytes):
                lines += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
            else:
                lines += name.encode() + b"=" + data + b"\n"
        lines += b"\n"
    return lines


def lines_of_json(entries: list[Fields]) -> bytes:
    lines = []
    for fields in entries:
        values: dict[str, Any] = {}
        for name, value in fields:
            plain: Any = list(value) if isinstance(value, bytes) else value
            if name not in values:
                values[name] = plain
            elif isinstance(values[name], list) and not isinstance(values[name][0], int):
                values[name].append(plain)
            else:
                values[name] = [values[name], plain]
        lines.append(json.dumps(values).encode())
    return b"\n".join(lines) + b"\n"


def chain_in(directory: Path, failures: list[str] | None = None) -> Chain:
    return Chain(directory, clean=visible, on_failure=(failures if failures is not None else []).append)


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    chain = chain_in(tmp_path)
    yield chain
    chain.close()


@pytest.fixture
def five(chain: Chain) -> list[Fields]:
    return [exported(chain.seal(record(f"number {number}"))) for number in range(1, 6)]


def verified(directory: Path, entries: list[Fields], end: End | None = None) -> Verified:
    return verify(read_key(directory / "audit.key"), entries, end)


def test_the_hash_is_that_of_the_specification() -> None:
    items = sorted(
        f"{name}={value if isinstance(value, str) else ''}".encode()
        for name, value in VECTOR
        if name in ("MESSAGE", "MESSAGE_ID") or name.startswith("REDSTREAMD_")
    )
    text = b"redstreamd audit 1\n" + b"".join(b"%d:%b," % (len(item), item) for item in items)
    expected = hmac.new(KEY, text, hashlib.sha256).hexdigest()
    assert hash_of(KEY, VECTOR) == expected
    assert hash_of(KEY, [*reversed(VECTOR), VECTOR[6], ("REDSTREAMD_AUDIT_HASH", "x")]) == expected
    document = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
    assert expected in document
    assert chain_name(KEY) in document


def test_each_hashed_field_counts() -> None:
    whole = hash_of(KEY, VECTOR)
    for place, (name, value) in enumerate(VECTOR):
        without = hash_of(KEY, VECTOR[:place] + VECTOR[place + 1 :])
        changed = hash_of(KEY, [*VECTOR[:place], (name, f"{value!s}x"), *VECTOR[place + 1 :]])
        is_covered = name in ("MESSAGE", "MESSAGE_ID") or name.startswith("REDSTREAMD_")
        assert (without != whole, changed != whole) == (is_covered, is_covered)
    assert hash_of(KEY[::-1], VECTOR) != whole


def test_an_intact_chain_is_intact_in_any_order(tmp_path: Path, five: list[Fields]) -> None:
    unrelated: Fields = [("MESSAGE", "Started something.")]
    result = verified(tmp_path, [unrelated, *reversed(five)])
    assert result.is_intact
    assert (result.ranges, result.problems, result.notes) == ((Range(1, 5),), (), ())


@pytest.mark.parametrize("write", [as_export, lines_of_json])
def test_both_forms_of_an_export_are_read(
    tmp_path: Path, chain: Chain, write: Callable[[list[Fields]], bytes]
) -> None:
    entries = [
        exported(chain.seal(record("plain"))),
        exported(chain.seal(record("one\nand another line", ("STREAM", "a\u202eb"), ("STREAM", "ünïcode")))),
    ]
    assert list(records(io.BytesIO(write(entries)))) == [
        [(name, value) for name, value in fields] for fields in _grouped(entries, write)
    ]
    assert verify(read_key(tmp_path / "audit.key"), records(io.BytesIO(write(entries)))).is_intact


def _grouped(entries: list[Fields], write: object) -> list[Fields]:
    """In JSON the values of one name stand together."""
    if write is as_export:
        return entries
    return [
        [
            (name, value)
            for name in dict.fromkeys(name for name, _ in fields)
            for n, value in fields
            if n == name
        ]
        for fields in entries
    ]


@pytest.mark.parametrize("removed", [[1], [1, 2], [3]])
def test_what_is_missing_in_between_is_found(tmp_path: Path, five: list[Fields], removed: list[int]) -> None:
    result = verified(tmp_path, [fields for place, fields in enumerate(five) if place not in removed])
    assert not result.is_intact
    (problem,) = result.problems
    first, last = removed[0] + 1, removed[-1] + 1
    assert problem.startswith(f"Record {first} is" if len(removed) == 1 else "2 records are")
    assert result.ranges == (Range(1, first - 1), Range(last + 1, 5))


def test_what_is_missing_at_the_end_is_found_with_the_state_directory(
    tmp_path: Path, five: list[Fields]
) -> None:
    end = read_end(tmp_path / "audit.chain")
    assert end is not None
    assert verified(tmp_path, five, end).is_intact
    assert verified(tmp_path, five[:3]).is_intact
    short = verified(tmp_path, five[:3], end)
    assert short.problems == ("The chain goes on to record 5, and this export ends with 3.",)
    assert not verified(tmp_path, five, End(5, "0" * 64)).is_intact
    assert not verified(tmp_path, five, End(4, "0" * 64)).is_intact


def test_what_was_before_the_export_is_noted(tmp_path: Path, five: list[Fields]) -> None:
    result = verified(tmp_path, five[2:])
    assert result.is_intact
    assert result.notes == ("The export begins with record 3; what was before is not verified.",)


@pytest.mark.parametrize(
    "name", ["MESSAGE", "MESSAGE_ID", "REDSTREAMD_PRINCIPAL", "REDSTREAMD_AUDIT_PREVIOUS"]
)
@pytest.mark.parametrize("how", ["changed", "removed", "added"])
def test_a_changed_record_is_found(tmp_path: Path, five: list[Fields], name: str, how: str) -> None:
    fields = [each for each in five[2] if how == "added" or each[0] != name]
    if how != "removed":
        fields.append((name, "f" * 64))
    result = verified(tmp_path, [*five[:2], fields, *five[3:]])
    assert not result.is_intact
    assert any("was changed or made up" in problem for problem in result.problems)
    assert "Record 3 is missing" in result.problems[1]


def test_a_record_that_lost_its_number_leaves_a_gap(tmp_path: Path, five: list[Fields]) -> None:
    stripped = [each for each in five[2] if "AUDIT" not in each[0]]
    result = verified(tmp_path, [*five[:2], stripped, *five[3:]])
    assert not result.is_intact
    assert "1 audit records are in no chain: nothing protects them." in result.notes


def test_a_copied_record_is_found(tmp_path: Path, five: list[Fields]) -> None:
    result = verified(tmp_path, [*five, five[1]])
    assert "Record 2 is there 2 times" in result.problems[0]


def test_made_up_records_are_found_and_other_chains_are_not_ours(tmp_path: Path, five: list[Fields]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with_another_key = chain_in(other)
    foreign = exported(with_another_key.seal(record("of another daemon")))
    result = verified(tmp_path, [*five, foreign])
    assert result.is_intact
    assert with_another_key.name in result.notes[0]
    name = verified(tmp_path, five).chain
    forged = [("REDSTREAMD_AUDIT_CHAIN", name) if "CHAIN" in each[0] else each for each in foreign]
    assert not verified(tmp_path, [*five, forged]).is_intact
    with_another_key.close()


def test_nothing_is_not_intact(tmp_path: Path, chain: Chain) -> None:
    assert verified(tmp_path, []).problems == ("No record of this chain was found.",)


def test_the_next_process_continues(tmp_path: Path) -> None:
    entries = []
    for _ in range(3):
        chain = chain_in(tmp_path)
        entries += [exported(chain.seal(record())) for _ in range(2)]
        chain.close()
    result = verified(tmp_path, entries, read_end(tmp_path / "audit.chain"))
    assert (result.is_intact, result.ranges) == (True, (Range(1, 6),))
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "audit.chain").stat().st_mode & 0o777 == 0o600


def test_a_restored_end_shows(tmp_path: Path, chain: Chain) -> None:
    entries = [exported(chain.seal(record()))]
    older = (tmp_path / "audit.chain").read_bytes()
    entries += [exported(chain.seal(record("a"))), exported(chain.seal(record("b")))]
    chain.close()
    (tmp_path / "audit.chain").write_bytes(older)
    again = chain_in(tmp_path)
    entries += [exported(again.seal(record(str(number)))) for number in range(3)]
    again.close()
    result = verified(tmp_path, entries)
    assert not result.is_intact
    assert "There are 2 different records 2." in result.problems


def test_a_damaged_end_begins_anew_and_shows(tmp_path: Path, chain: Chain) -> None:
    entries = [exported(chain.seal(record())), exported(chain.seal(record()))]
    chain.close()
    (tmp_path / "audit.chain").write_bytes(b"\0" * 30)
    again = chain_in(tmp_path)
    entries.append(exported(again.seal(record("anew"))))
    again.close()
    assert not verified(tmp_path, entries).is_intact


def test_two_processes_do_not_write_one_chain(tmp_path: Path, chain: Chain) -> None:
    with pytest.raises(NotNowError, match="another daemon chains its audit records"):
        chain_in(tmp_path)
    chain.close()
    chain_in(tmp_path).close()


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.key").write_bytes(b"short")
    with pytest.raises(OSError, match="holds 5 bytes"):
        chain_in(tmp_path)


def test_an_end_that_cannot_be_stored_is_told_once(tmp_path: Path) -> None:
    failures: list[str] = []
    chain = chain_in(tmp_path, failures)
    chain.close()
    chain.seal(record())
    chain.seal(record())
    assert failures == ["Bad file descriptor"]


def test_what_is_hashed_is_what_the_log_writes(tmp_path: Path) -> None:
    output = LogOutput(form="json", secrets=["a-secret"], dropped=lambda count: record())
    chain = Chain(tmp_path, clean=output.clean, on_failure=[].append)
    written = [
        as_json(chain.seal(record(text, ("STREAM", text))), output.clean, at=1.0)
        for text in ("x" * 20_000, "\U000e0041" * 9_000, "my a-secret", "\ud800", "one\ntwo\u202e")
    ]
    chain.close()
    output.close()
    assert verify(read_key(tmp_path / "audit.key"), records(io.BytesIO(b"".join(written)))).is_intact


def test_what_is_hashed_is_what_is_written(tmp_path: Path, chain: Chain) -> None:
    sealed = chain.seal(record("a\u202eb", ("STREAM", "\x1b[1m")))
    assert sealed.text == visible(sealed.text) == r"a\u202eb"
    assert verified(tmp_path, [exported(sealed)]).is_intact


@pytest.mark.parametrize(
    "data",
    [b"{", b"[1]\n", b"MESSAGE", b"MESSAGE\n\x01", b"a b\n", b"M\n" + b"\xff" * 8, b'{"A": null}\n', b"\0\n"],
)
def test_what_is_no_export_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableExportError):
        list(records(io.BytesIO(data)))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(UnreadableExportError):
        list(records(io.BytesIO(data)))


@pytest.mark.parametrize("is_on", [True, False])
def test_who_verifies_where_no_chain_is_kept_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_on: bool
) -> None:
    words = (f"daemon.audit_chain={str(is_on).lower()}", f"daemon.state_directory={tmp_path}")
    given = ["--config", "/dev/null", *(word for each in words for word in ("--set", each))]
    assert main(["audit", "verify", *given]) == os.EX_NOINPUT
    told = capsys.readouterr().err
    assert str(tmp_path / "audit.key") in told
    assert ("only with daemon.audit_chain" in told) is not is_on
