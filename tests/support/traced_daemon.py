"""Runs redstreamd and notes which of its functions are passed: ``traced_daemon.py FILE serve ...``.

From SIGUSR1 to SIGUSR2 it notes every function of the package in which a line is run, and how often it is
begun or resumed. A coroutine that is resumed only to resume what it awaits runs no line. A line of the file
is ``{}`` once it begins, and at the end the package's directory, and each function in the order in which they
were first passed, with how often it was. A comprehension is a part of the function that holds it. The product
knows nothing of this.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_COMPREHENSION = re.compile(r"\.<locals>\.<(listcomp|setcomp|dictcomp|genexpr)>$")


def trace(path: str) -> None:
    """Take the signals from now on."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    passed: dict[tuple[str, str], int] = {}

    def package() -> str:
        return str(Path(str(sys.modules["redstreamd"].__file__)).parent)

    def write(facts: dict[str, Any]) -> None:
        os.write(file, json.dumps(facts).encode() + b"\n")

    def begin(signum: int, frame: FrameType | None) -> None:
        passed.clear()
        ours = package()

        def called(frame: FrameType, event: str, argument: Any) -> Any:
            return line if frame.f_code.co_filename.startswith(ours) else None

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            if event != "line":
                return line
            function, parts = _COMPREHENSION.subn("", frame.f_code.co_qualname)
            key = str(frame.f_globals["__name__"]), function
            passed[key] = passed.get(key, 0) + (not parts)
            return no_more

        def no_more(frame: FrameType, event: str, argument: Any) -> Any:
            return no_more

        write({})
        sys.settrace(called)

    def end(signum: int, frame: FrameType | None) -> None:
        sys.settrace(None)
        write({"package": package(), "passed": [(*key, times) for key, times in passed.items()]})

    signal.signal(signal.SIGUSR1, begin)
    signal.signal(signal.SIGUSR2, end)


if __name__ == "__main__":
    trace(sys.argv.pop(1))
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
