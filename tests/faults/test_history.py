"""The judge itself: each kind of harm is found, and a run without traffic is no evidence."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.errors import BusError, Code
from tests.support.history import History, InvalidRun, Line, Told, content


def history(*lines: Line) -> History:
    found = History()
    found.lines.update(enumerate(lines))
    return found


def stored(number: int, entry_id: str) -> tuple[str, dict[str, str]]:
    return entry_id, {name: str(value) for name, value in content(number).items()}


ACKNOWLEDGED = Line(Told.ACKNOWLEDGED, "1-0")


def test_what_was_acknowledged_and_is_there_passes() -> None:
    lines = (ACKNOWLEDGED, Line(Told.UNKNOWN), Line(Told.UNKNOWN), Line(Told.REFUSED))
    history(*lines).judge([stored(0, "1-0"), stored(2, "2-0")], acknowledged=1)


@pytest.mark.parametrize(
    ("line", "entries", "words"),
    [
        (ACKNOWLEDGED, [], "was acknowledged"),
        (ACKNOWLEDGED, [stored(0, "2-0")], "was acknowledged as 1-0: 2-0"),
        (ACKNOWLEDGED, [stored(0, "1-0"), stored(0, "2-0")], "twice"),
        (Line(Told.UNKNOWN), [stored(0, "1-0"), stored(0, "2-0")], "twice"),
        (Line(Told.REFUSED), [stored(0, "1-0")], "was refused"),
        (ACKNOWLEDGED, [("1-0", {"n": "0", "body": "other"})], "has changed"),
        (ACKNOWLEDGED, [stored(0, "1-0"), stored(1, "2-0")], "never written"),
    ],
)
def test_each_kind_of_harm_is_found(line: Line, entries: list[Any], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        history(line).judge(entries, acknowledged=0)


def test_work_that_is_stranded_or_done_twice_is_found() -> None:
    found = History()
    found.finished.update(["1-0", "2-0"])
    found.judge_work(["1-0", "2-0"], pending=0, finished=2, once=True)
    with pytest.raises(AssertionError, match="never finished"):
        found.judge_work(["1-0", "2-0", "3-0"], pending=0, finished=2, once=True)
    with pytest.raises(AssertionError):
        found.judge_work(["1-0", "2-0"], pending=1, finished=2, once=True)
    found.finished.update(["1-0"])
    with pytest.raises(AssertionError):
        found.judge_work(["1-0", "2-0"], pending=0, finished=2, once=True)
    found.judge_work(["1-0", "2-0"], pending=0, finished=2, once=False)


def test_a_run_with_too_little_traffic_is_invalid() -> None:
    with pytest.raises(InvalidRun):
        history(ACKNOWLEDGED).judge([stored(0, "1-0")], acknowledged=2)
    with pytest.raises(InvalidRun):
        History().judge_work([], pending=0, finished=1, once=True)


async def test_a_problem_comes_with_all_that_its_writer_was_told_and_what_was_done_meanwhile() -> None:
    answers = iter([Code.OUTCOME_UNKNOWN, Code.CONNECTION_ERROR, Code.CONNECTION_ERROR])

    async def add(entry: dict[str, Any], key: str | None) -> tuple[str, bool]:
        code = next(answers, None)
        if code is not None:
            raise BusError(code, "m", cause="because", next_step="n")
        return entry_id, False

    found = History()
    found.fault("kill")
    entry_id = f"{found.faults[0][0]}-0"
    await found.add_with_key(add, 7)
    (problem,) = found.problems([stored(7, "1-0"), stored(7, entry_id)])
    for told in (
        f"7 is there twice: 1-0 and {entry_id}",
        "attempts=4",
        "OUTCOME_UNKNOWN: because; 2 times ",
        f": {entry_id}; faults: {found.faults[0][0]}: kill",
    ):
        assert told in problem, told


async def test_answers_are_taken_down_as_what_the_writer_knows() -> None:
    answers = iter([Code.OUTCOME_UNKNOWN, Code.CONNECTION_ERROR, Code.CONNECTION_ERROR, Code.TIMEOUT])

    async def add(entry: dict[str, Any], key: str | None) -> tuple[str, bool]:
        code = next(answers, None)
        if code is not None:
            raise BusError(code, "m", cause="c", next_step="n")
        return "1-0", True

    found = History()
    assert (await found.add(add, 0)).told is Told.UNKNOWN
    assert (await found.add(add, 1)).told is Told.REFUSED
    assert await found.add_with_key(add, 2) == Line(Told.ACKNOWLEDGED, "1-0", True, True, 3)
    assert found.count(Told.ACKNOWLEDGED) == 1
