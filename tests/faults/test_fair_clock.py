"""The clock by which tests keep programs to bounds on time."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time

from tests.support import fair_clock
from tests.support.fair_clock import Clock
from tests.support.measured import measured


def test_time_in_which_nobody_could_run_is_not_counted(clock: Clock) -> None:
    # Called so that it keeps the interpreter meanwhile, as a paused machine would.
    sleep = ctypes.PyDLL(None).usleep
    began, really = clock(), time.monotonic()
    for _ in range(3):
        sleep(300_000)
        time.sleep(0.001)
    assert time.monotonic() - really >= 0.9
    with measured:
        assert clock() - began < 0.5


def test_time_in_which_many_want_the_processor_counts_as_what_each_gets(clock: Clock) -> None:
    busy = [
        subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"])
        for _ in range(6 * len(os.sched_getaffinity(0)))
    ]
    try:
        while fair_clock.share() > 0.5:
            time.sleep(0.01)
        began, really = clock(), time.monotonic()
        time.sleep(0.5)
        counted, passed = clock() - began, time.monotonic() - really
    finally:
        for each in busy:
            each.kill()
            each.wait()
    with measured:
        assert 0 < counted < 0.7 * passed


def test_all_other_time_is_counted(clock: Clock) -> None:
    began, really = clock(), time.monotonic()
    # Sooner or later, even on a machine that is paused now and then.
    while clock() - began < 0.2:
        time.sleep(0.01)
    assert time.monotonic() - really >= 0.2
