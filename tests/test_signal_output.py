"""What handlers of signals write: never by a stream, which may be in use when the signal comes."""

from __future__ import annotations

import ast
import fcntl
import signal
import subprocess
import sys
import termios
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent
#: Its handler runs while a write of the main thread waits for somebody who reads.
PROGRAM = """
import os, signal, sys
from tests.support.signal_output import write_line

def tell(*_):
    os.write(1, b"!")
    {tell}

signal.signal(signal.SIGALRM, tell)
sys.stderr.write("x" * 1_000_000 + "\\n")
"""


def is_full(pipe: IO[bytes]) -> bool:
    """Return whether who writes to a pipe waits for somebody who reads."""
    held = int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
    return held == fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


@pytest.mark.parametrize(
    ("tell", "status"),
    [("write_line('told:', 7)", 0), ("print('told:', 7, file=sys.stderr, flush=True)", 1)],
)
def test_a_line_of_a_handler_is_written_while_standard_error_is_in_use(tell: str, status: int) -> None:
    # With PYTHONUNBUFFERED there would be no stream that is in use.
    with subprocess.Popen(
        [sys.executable, "-E", "-c", PROGRAM.format(tell=tell)], cwd=ROOT, stdout=-1, stderr=-1
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        wait_until(partial(is_full, process.stderr))
        process.send_signal(signal.SIGALRM)
        assert process.stdout.read(1) == b"!"
        _, errors = process.communicate()
    assert process.returncode == status
    assert (b"told: 7\n" in errors, b"reentrant call" in errors) == (not status, bool(status))


def test_no_handler_of_a_signal_prints() -> None:
    handlers = 0
    for path in (each for name in ("tests", "redstreamd") for each in (ROOT / name).rglob("*.py")):
        text = path.read_text("utf-8")
        if "signal.signal(" not in text:
            continue
        tree = ast.parse(text)
        names = {
            ast.unparse(node.args[1]).rpartition(".")[2]
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "signal.signal"
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name in names:
                handlers += 1
                used = {ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.expr)}
                assert not used & {"print", "sys.stderr", "sys.stdout"}, f"{path}: {node.name}"
    assert handlers >= 9
