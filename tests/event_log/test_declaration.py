"""Every event is declared once, and what is not declared cannot be recorded."""

from __future__ import annotations

import ast
import re
import typing
from pathlib import Path

import msgspec
import pytest

from redstreamd.event_log import declaration, kinds
from redstreamd.event_log.declaration import UndeclaredEventError, declaration_of, declared
from redstreamd.event_log.event_log import EventLog
from redstreamd.event_log.kinds import Event, all_kinds
from redstreamd.service.log_record import Record, Severity
from tests.event_log.examples import event_types, instances_of

PACKAGE = Path(kinds.__file__).parent


class Unheard(msgspec.Struct, frozen=True):
    """An event of a test."""

    child: str = "a part"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declarations of a test are forgotten after it."""
    monkeypatch.setattr(declaration, "_DECLARED", {**declaration._DECLARED})


def test_each_type_of_event_is_declared_and_each_declaration_is_of_one() -> None:
    """A new event without words would be found out when it happens, which is the worst moment."""
    assert {each.event for each in all_kinds()} == set(event_types(Event))


@pytest.mark.parametrize("kind", event_types(Event), ids=lambda kind: kind.__name__)
def test_each_event_is_of_a_kind_whatever_it_holds(kind: type[msgspec.Struct]) -> None:
    found = {declaration_of(event).name for event in instances_of(kind)}
    assert found == {each.name for each in all_kinds() if each.event is kind}


def test_every_module_that_declares_is_known() -> None:
    declaring = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if any(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "declared"
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
        )
    }
    assert declaring == {module.__name__.rpartition(".")[2] for module in kinds.DECLARING}


def test_ids_and_names_are_unique_and_texts_are_whole_sentences() -> None:
    known = all_kinds()
    assert len({each.message_id for each in known}) == len({each.name for each in known}) == len(known)
    for each in known:
        assert msgspec.json.decode(f'"{each.message_id}"') == each.message_id.lower()
        assert int(each.message_id, 16).bit_length() > 100
        for text in (each.cause, each.remedy):
            assert text[0].isupper() or text[0] == "`"
            assert text.endswith(".")
            assert text.isprintable()


def test_what_is_not_declared_cannot_be_recorded() -> None:
    written: list[Record] = []
    with pytest.raises(UndeclaredEventError, match="Unheard is not declared"):
        EventLog(written.append)(typing.cast("typing.Any", Unheard()))
    assert written == []


@pytest.mark.usefixtures("registry")
def test_a_declared_event_is_a_record_with_its_fields() -> None:
    @declared(Unheard, "0123456789abcdef0123456789abcdef", Severity.NOTICE, cause="It is.", remedy="None.")
    def it_is_heard(event: Unheard) -> str:
        return f"{event.child} is heard"

    written: list[Record] = []
    log = EventLog(written.append, Severity.NOTICE)
    log(typing.cast("typing.Any", Unheard()))
    expected = Record(
        Severity.NOTICE,
        "0123456789abcdef0123456789abcdef",
        "it_is_heard",
        "a part is heard",
        (("CHILD", "a part"),),
    )
    assert written == [expected]
    log.least = Severity.WARNING
    log(typing.cast("typing.Any", Unheard()))
    assert written == [expected]


@pytest.mark.usefixtures("registry")
def test_an_id_is_never_used_again_and_no_kind_is_behind_one_that_takes_all() -> None:
    used = all_kinds()[0].message_id
    for message_id in (used, "0" * 31):
        with pytest.raises(ValueError, match="no new one"):
            declared(Unheard, message_id, Severity.INFO, cause="It is.", remedy="None.")(str)
    declare = declared(Unheard, "0" * 31 + "1", Severity.INFO, cause="It is.", remedy="None.")
    declare(lambda _event: "first")
    with pytest.raises(ValueError, match="of an earlier kind"):
        declared(Unheard, "0" * 31 + "2", Severity.INFO, cause="It is.", remedy="None.")(str)


def test_no_part_logs_beside_the_catalog() -> None:
    """Python's logging is where libraries log, so only what makes records of that knows it."""
    modules = {
        str(path.relative_to(PACKAGE.parent))
        for path in PACKAGE.parent.rglob("*.py")
        if re.search(r"^\s*(?:import|from) logging\b|getLogger", path.read_text("utf-8"), re.MULTILINE)
    }
    assert modules == {"event_log/library_records.py"}
