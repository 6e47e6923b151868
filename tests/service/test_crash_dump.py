"""Real processes that hang in different ways and are killed for it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

PROGRAM = textwrap.dedent("""
    import itertools, os, sys, threading, time, trio, trio.testing
    from redstreamd.service.crash_dump import install_crash_dump

    # Each says that it is ready from inside the frame that has to show up.

    def hang_in_python():
        os.write(1, b"ready\\n")
        while True:
            pass

    def hang_in_a_system_call():
        os.write(1, b"ready\\n")
        time.sleep(1000)

    def hang_in_c_code():
        # No bytecode runs from the write on.
        sum(itertools.chain(map(os.write, [1], [b"ready\\n"]), itertools.repeat(1)))

    def hang_nowhere():
        os.write(1, b"ready\\n")

    def other_thread():
        is_in_other_thread.set()
        threading.Event().wait()

    is_in_other_thread = threading.Event()

    async def sibling():
        await trio.sleep_forever()

    async def culprit():
        threading.Thread(target=other_thread, daemon=True).start()
        is_in_other_thread.wait()
        globals()[sys.argv[1]]()
        await trio.sleep_forever()

    async def main():
        install_crash_dump()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(culprit)

    trio.run(main)
""")


@contextlib.contextmanager
def hanging(how: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A process that hangs in a certain way."""
    with subprocess.Popen(
        [sys.executable, *options, "-c", PROGRAM, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGQUIT])
@pytest.mark.parametrize("how", ["hang_in_python", "hang_in_a_system_call", "hang_nowhere"])
def test_all_stacks_and_the_task_tree_are_written_and_the_signal_is_died_of(
    how: str, number: signal.Signals
) -> None:
    # Also where the interpreter had enabled faulthandler before us.
    with hanging(how, "-X", "faulthandler") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == -number
    # faulthandler's part: both threads, and in the main one where it hangs.
    assert "in other_thread" in errors
    if how != "hang_nowhere":
        assert f"in {how}" in errors
    # The tree, with a task that no thread's stack shows.
    assert f"killed by {number.name}; trio tasks:" in errors
    assert "__main__.sibling" in errors
    assert "in sleep_forever" in errors


def test_even_a_loop_stuck_in_c_code_shows_its_stacks_at_once() -> None:
    text = ""
    with hanging("hang_in_c_code") as process:
        process.send_signal(signal.SIGABRT)
        assert process.stderr is not None
        while "in culprit" not in text:
            line = process.stderr.readline()
            assert line, text
            text += line
        # It does not die by itself, as the module says; systemd would kill it now.
        assert process.poll() is None
    assert "Aborted" in text
    assert "in hang_in_c_code" in text


def test_outside_of_trio_the_signal_is_died_of_all_the_same() -> None:
    program = "from redstreamd.service.crash_dump import *; install_crash_dump(); os.kill(os.getpid(), 6)"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; {program}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT
    assert "(trio is not running)" in done.stderr
