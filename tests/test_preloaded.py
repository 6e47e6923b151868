"""A preloaded process is what a new one would be, but for the modules that it has in memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support import preloaded
from tests.support.daemon import PROGRAM, clean_environment

#: Tells what a program can see of how it was started.
SHOWN = """
import json, os, resource, signal, sys, warnings
shown = {
    "arguments": sys.argv,
    "environment": dict(os.environ),
    "directory": os.getcwd(),
    "descriptors": sorted(int(each) for each in os.listdir("/proc/self/fd"))[:-1],
    "parent": os.getppid(),
    "leads a session": os.getsid(0) == os.getpid(),
    "handlers": [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "flags": str(sys.flags),
    "path": sys.path,
    "filters": [str(each) for each in warnings.filters],
    "mask": os.umask(0o22),
    "limits": [resource.getrlimit(each) for each in range(16)],
    "streams": [(each.encoding, each.errors, each.line_buffering) for each in (sys.stdout, sys.stderr)],
    "threads": len(os.listdir("/proc/self/task")),
}
print(json.dumps(shown))
print("redstreamd.daemon.sdk_kernels" in sys.modules, file=sys.stderr)
sys.exit(3)
"""


def shown(start: Any, place: Path) -> tuple[dict[str, Any], bool]:
    process = start(
        [sys.executable, "-c", SHOWN, "one", "two words"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=place,
        env=clean_environment(place, REDIS_URL="unix:///none"),
        start_new_session=True,
    )
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors
    return json.loads(output), errors == b"True\n"


def test_a_preloaded_process_differs_in_what_it_has_imported_only(tmp_path: Path) -> None:
    (new, has_imported), (forked, had_imported) = (
        shown(start, tmp_path) for start in (subprocess.Popen, preloaded.start)
    )
    assert forked == new
    assert new["parent"] == os.getpid()
    assert (has_imported, had_imported) == (False, True)


def test_variables_for_the_interpreter_get_a_new_process(tmp_path: Path) -> None:
    environment = clean_environment(tmp_path, PYTHONHASHSEED="1")
    process = preloaded.start(
        [sys.executable, "-c", "import sys; sys.exit('trio' in sys.modules)"], env=environment
    )
    assert process.wait(timeout=60) == 0


def test_the_console_script_runs_and_is_killed_as_a_new_process_would_be(tmp_path: Path) -> None:
    with preloaded.start(
        [PROGRAM, "--version"], stdout=subprocess.PIPE, env=clean_environment(tmp_path)
    ) as asked:
        assert asked.stdout is not None
        assert asked.stdout.read().startswith(b"redstreamd ")
    assert asked.returncode == 0
    with preloaded.start([PROGRAM, "serve", "--embedded"], env=clean_environment(tmp_path)) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
