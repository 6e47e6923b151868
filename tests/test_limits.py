"""What a test may take is enforced, and what its fixtures hand over runs inside it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

ALL = """
import contextlib, time
import pytest, trio, trio.testing
from hypothesis import given, strategies
from tests.support import limits

limits.GRACE_SECONDS = 0.2

@pytest.fixture
def anyio_backend():
    return "trio"

@pytest.mark.limit(0.1)
async def test_waits():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)

@pytest.mark.limit(0.1)
async def test_holds_up_the_loop():
    time.sleep(900)

@pytest.mark.limit(0.1)
def test_sleeps():
    time.sleep(900)

@pytest.mark.limit(0.1)
@given(strategies.just(1))
async def test_waits_for_an_example(value):
    await trio.sleep_forever()

@pytest.mark.limit(0.1, times=0.1)
@pytest.mark.parametrize("times", [2])
async def test_waits_for_each(times):
    await trio.sleep_forever()

@pytest.mark.limit(0.1)
@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_passes_with_hours_of_virtual_time(anyio_backend):
    await trio.sleep(3600)

@pytest.mark.limit(0.1)
@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": trio.testing.MockClock(autojump_threshold=0)})])
async def test_waits_in_virtual_time(anyio_backend):
    while True:
        await trio.sleep(3600)

@pytest.fixture
def service():
    @contextlib.asynccontextmanager
    async def running():
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    return limits.Deferred(running())

async def breaks():
    raise RuntimeError("broken in the background")

async def test_fails_with_its_background(service):
    service.start_soon(breaks)
    await trio.sleep_forever()

async def test_passes_with_its_background(service):
    service.start_soon(trio.sleep_forever)
"""


def test_a_test_that_exceeds_its_limit_fails_in_time_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "test_all.py").write_text(ALL)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nanyio_mode = auto\nmarkers =\n    limit\n    soak\n    soak_ci\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.limits", "-p", "no:cacheprovider", "-rA", "."],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    # Two of them would sleep for a quarter of an hour each.
    assert time.monotonic() - began < 600
    outcomes = dict(
        re.findall(r"^(?:PASSED|FAILED) test_all.py::(\w+)\S*(?: - (.*))?$", done.stdout, re.MULTILINE)
    )
    limit = "Failed: the test took longer than its limit of 0.1 s"
    assert outcomes == {
        "test_waits": limit,
        "test_holds_up_the_loop": limit,
        "test_sleeps": limit,
        "test_waits_for_an_example": limit,
        "test_waits_for_each": limit.replace("0.1", "0.3"),
        "test_waits_in_virtual_time": limit,
        "test_fails_with_its_background": "RuntimeError: broken in the background",
        "test_passes_with_hours_of_virtual_time": "",
        "test_passes_with_its_background": "",
    }, done.stdout
    # They say where they waited.
    assert ">           await trio.sleep(3600)" in done.stdout
