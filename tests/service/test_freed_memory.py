"""Large blocks are used again, and what a peak has left goes back to the system, also while there is work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_PROGRAM = """
import json, resource, sys, trio
from redstreamd.service import freed_memory
from redstreamd.service.process_stats import resident_bytes

freed_memory._TICK_SECONDS = 0.02
MIB = 1 << 20
text = b"x" * (int(sys.argv[1]) * MIB)

def faults_of_a_copy():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(text)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main():
    faults = [faults_of_a_copy()]
    assert freed_memory.reuse_large_blocks()
    faults += [faults_of_a_copy(), faults_of_a_copy()]
    await freed_memory.trim()
    async with trio.open_nursery() as nursery:
        await nursery.start(freed_memory.give_back_freed, lambda: None)
        peak = [bytes(b"x") * (4 * MIB) for _ in range(20)]
        # What is above them stays.
        end = bytes(b"x") * MIB
        most = resident_bytes()
        await trio.sleep(0.05)
        del peak
        with trio.move_on_after(30):
            while resident_bytes() > most - 60 * MIB:
                # Never idle.
                sum(range(1000))
                await trio.lowlevel.checkpoint()
        print(json.dumps([*faults, most, resident_bytes()]))
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize("mib", [16, 100])
def test_large_blocks_are_used_again_and_go_back_after_a_peak_though_the_process_is_busy(mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(mib)], capture_output=True, text=True, check=True
    )
    mapped, _, again, most, left = json.loads(done.stdout)
    assert again < mapped / 2
    assert left < most - 60 * (1 << 20)


_SCOPES = """
import gc, trio
from redstreamd.service import freed_memory

freed_memory._TICK_SECONDS = 0.02
freed_memory._PEAK_BYTES = 0

def scopes():
    return sum(type(each) is trio.CancelScope for each in gc.get_objects())

async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(freed_memory.give_back_freed, lambda: None)
        for _ in range(900):
            with trio.move_on_after(300):
                await trio.lowlevel.checkpoint()
        print(scopes())
        peak = bytes(b"x") * (1 << 24)
        with trio.move_on_after(10):
            while scopes() > 500:
                await trio.sleep(0.02)
        print(scopes())
        nursery.cancel_scope.cancel()

trio.run(main)
"""


def test_deadlines_of_what_has_ended_are_dropped_after_a_peak() -> None:
    done = subprocess.run([sys.executable, "-c", _SCOPES], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 900
    assert after < 500
