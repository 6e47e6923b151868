"""How long a start is put off after others have failed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from redstreamd.startup.failed_starts import (
    MOST_SECONDS_BEFORE_READY,
    MOST_SECONDS_WHEN_READY,
    FailedStarts,
    Pause,
)

#: Of a core, on a slow machine.
START_SECONDS = 2.0


class Host:
    """A host on which processes start, one after another."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self._directory = directory

    def start(self) -> tuple[FailedStarts, Pause]:
        starts = FailedStarts(str(self._directory), now=lambda: self.now)
        pause = starts.begin()
        self.now += pause.seconds
        return starts, pause


def test_a_start_after_an_orderly_end_is_never_put_off(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for _ in range(100):
        starts, pause = host.start()
        assert pause == Pause(0.0, 0.0, served=False, reason="")
        starts.note_ready()
        starts.end()
        host.now += 0.1


def test_the_first_restart_is_fast_and_pauses_grow_until_a_loop_is_cheap(tmp_path: Path) -> None:
    host = Host(tmp_path)
    pauses = []
    for _ in range(30):
        starts, pause = host.start()
        pauses.append(pause.seconds)
        host.now += START_SECONDS
        starts.note_reason("in use")
        host.now += 0.1
    assert pauses[:3] == [0, 0, 0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MOST_SECONDS_BEFORE_READY
    assert START_SECONDS / (START_SECONDS + 0.1 + pauses[-1]) <= 0.3
    assert pause.reason == "in use"
    assert not pause.served


def test_a_daemon_that_serves_and_fails_again_and_again_is_back_in_seconds(tmp_path: Path) -> None:
    host = Host(tmp_path)
    pauses = []
    for _ in range(30):
        starts, pause = host.start()
        pauses.append(pause.seconds)
        host.now += 1.0
        starts.note_ready()
        host.now += 1.0
    assert pauses[:5] == [0] * 5
    assert pauses[-1] == MOST_SECONDS_WHEN_READY
    assert pause.served


def test_failures_are_forgotten_with_time(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for _ in range(30):
        starts, _ = host.start()
        starts.note_ready()
    host.now += 600
    _, pause = host.start()
    assert pause.seconds == 0
    assert pause.failures < 2


def test_what_was_before_the_host_was_booted_does_not_count(tmp_path: Path) -> None:
    host = Host(tmp_path)
    for _ in range(30):
        host.start()
    host.now = 5.0
    _, pause = host.start()
    assert (pause.seconds, pause.failures) == (0, 1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"began": 1}',
        '{"began": "x", "failures": 1, "served": false, "reason": ""}',
        '{"began": NaN, "failures": 1, "served": false, "reason": ""}',
        '{"began": 1, "failures": -1, "served": false, "reason": ""}',
        '{"began": 1, "failures": Infinity, "served": false, "reason": ""}',
    ],
)
def test_a_record_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "failed-starts.json").write_text(content)
    _, pause = Host(tmp_path).start()
    assert pause.seconds == 0
    assert json.loads((tmp_path / "failed-starts.json").read_text())["failures"] == 0


def test_a_count_beyond_all_measure_stays_within_the_bounds(tmp_path: Path) -> None:
    record = {"began": 1000.0, "failures": 999_999.0, "served": False, "reason": ""}
    (tmp_path / "failed-starts.json").write_text(json.dumps(record))
    _, pause = Host(tmp_path).start()
    assert pause.seconds == MOST_SECONDS_BEFORE_READY
    assert math.isfinite(pause.failures)


def test_without_a_directory_nothing_is_put_off(tmp_path: Path) -> None:
    host = Host(tmp_path / "absent")
    for _ in range(30):
        starts, pause = host.start()
        starts.note_ready()
        assert pause.seconds == 0
    starts.end()
