"""What a test measures is measured again, alone, and nothing else is repeated."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import attrs

from tests.support.measured import turn

ROOT = Path(__file__).parents[1]

#: Each test writes when it began and ended, by a clock that all processes share.
COMMON = """
import contextlib, os, time
from pathlib import Path
import pytest
from tests.support.measured import measured

@pytest.fixture(autouse=True)
def interval(request):
    began = time.monotonic()
    yield
    with Path("log").open("a") as log:
        log.write(f"{request.node.nodeid} {began} {time.monotonic()}\\n")

def runs(name):
    log = Path("log")
    return log.exists() and log.read_text().count(name + " ")
"""

MEASURED = """
from test_common import *

@pytest.fixture(scope="module")
def kept():
    return []

def once_others_run():
    while not runs("test_neighbour[0]"):
        time.sleep(0.005)

@pytest.mark.parametrize("failures", [1, 2, 3])
def test_fails(kept, failures):
    once_others_run()
    kept.append(failures)
    time.sleep(0.1)
    with measured:
        assert kept.count(failures) > failures, "too slow"

def test_is_wrong():
    assert False, "a wrong answer"

def test_is_wrong_beside_what_it_measures():
    with measured:
        assert True
    assert False, "a wrong answer"

def test_fails_with_a_group():
    if not runs("test_fails_with_a_group"):
        raise ExceptionGroup("of a nursery", [bound_error()])

def test_fails_with_a_mixed_group():
    raise ExceptionGroup("of a nursery", [bound_error(), ValueError("a wrong answer")])

def bound_error():
    try:
        with measured:
            assert False, "too slow"
    except AssertionError as error:
        return error

@pytest.fixture
def broken():
    yield
    raise ValueError("broken at the end")

def test_ends_with_an_error(broken):
    with measured:
        assert False, "too slow"

def test_passes_beside_others():
    with measured:
        assert True
"""

NEIGHBOURS = """
from test_common import *

@pytest.mark.parametrize("number", range(100))
def test_neighbour(number):
    time.sleep(0.02)
"""

DYING = """
import os, sys
from pathlib import Path
from tests.support.measured import turn

with turn(Path(sys.argv[1]), alone=True):
    os.kill(os.getpid(), 9)
"""


@attrs.frozen
class Run:
    """One run of a test of the inner run."""

    name: str
    began: float
    ended: float

    def overlaps(self, other: Run) -> bool:
        return self.began < other.ended and other.began < self.ended


def test_what_fails_beside_others_is_measured_again_alone_and_reported(tmp_path: Path) -> None:
    (tmp_path / "test_common.py").write_text(COMMON)
    (tmp_path / "test_measured.py").write_text(MEASURED)
    for name in ("test_one.py", "test_other.py"):
        (tmp_path / name).write_text(NEIGHBOURS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                # Only what the inner run is about: each of its processes imports them.
                "-p",
                "xdist.plugin",
                "-p",
                "tests.support.measured",
                "-p",
                "no:cacheprovider",
                "-rA",
            ),
            *("--numprocesses", "3", "--dist", "loadfile", "--basetemp", str(tmp_path / "temporary")),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.findall(r"^(PASSED|FAILED|ERROR) test_measured.py::(\S+)", done.stdout, re.MULTILINE)
    assert sorted(found) == sorted(
        [
            ("PASSED", "test_fails[1]"),
            ("PASSED", "test_fails[2]"),
            ("FAILED", "test_fails[3]"),
            ("FAILED", "test_is_wrong"),
            ("FAILED", "test_is_wrong_beside_what_it_measures"),
            ("PASSED", "test_fails_with_a_group"),
            ("FAILED", "test_fails_with_a_mixed_group"),
            ("FAILED", "test_ends_with_an_error"),
            ("ERROR", "test_ends_with_an_error"),
            ("PASSED", "test_passes_beside_others"),
        ]
    ), done.stdout

    runs = [
        Run(name, float(began), float(ended))
        for name, began, ended in (line.split() for line in (tmp_path / "log").read_text().splitlines())
    ]
    ours: dict[str, list[Run]] = {}
    for run in runs:
        if run.name.startswith("test_measured.py::"):
            ours.setdefault(run.name.partition("::")[2], []).append(run)
    assert {name: len(all_runs) for name, all_runs in ours.items()} == {
        "test_fails[1]": 2,
        "test_fails[2]": 3,
        "test_fails[3]": 3,
        "test_is_wrong": 1,
        "test_is_wrong_beside_what_it_measures": 1,
        "test_fails_with_a_group": 2,
        "test_fails_with_a_mixed_group": 1,
        "test_ends_with_an_error": 1,
        "test_passes_beside_others": 1,
    }
    others = [run for run in runs if not run.name.startswith("test_measured.py::")]
    assert len(others) == 200
    # The first measurement ran beside others, no repetition did.
    assert any(ours["test_fails[1]"][0].overlaps(other) for other in others)
    repetitions = [run for all_runs in ours.values() for run in all_runs[1:]]
    assert [(run, other) for run in repetitions for other in others if run.overlaps(other)] == []

    (section,) = re.findall(r"=+ measured again, alone =+\n(.*?)\n=", done.stdout, re.DOTALL)
    assert re.findall(r"^test_measured.py::.*", section, re.MULTILINE) == [
        "test_measured.py::test_fails[1]: passed when measured again once",
        "test_measured.py::test_fails[2]: passed when measured again 2 times",
        "test_measured.py::test_fails_with_a_group: passed when measured again once",
        "test_measured.py::test_fails[3]: failed when measured again 2 times",
    ]
    assert section.count("BoundError: too slow") == 3


def test_a_process_that_dies_leaves_its_turn_to_others(tmp_path: Path) -> None:
    died = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path)], env={"PYTHONPATH": str(ROOT)}, check=False
    )
    assert died.returncode == -signal.SIGKILL
    with turn(tmp_path, alone=True):
        pass
