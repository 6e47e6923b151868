"""A newcomer's first minute: `make run` in a clean clone, in a terminal, ended with Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.daemon.test_bad_days import processes_below
from tests.support.counts import long
from tests.support.daemon import home
from tests.support.fair_clock import Clock
from tests.support.measured import measured

CHECKOUT = Path(__file__).parents[2]


def run_in_terminal(command: list[str], directory: Path, environment: dict[str, str], until: str) -> str:
    """Run a command in a terminal, press Ctrl-C once `until` was shown, and return all that was shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(directory)
        os.execvpe(command[0], command, environment)
    shown = b""
    pressed = False
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # how a terminal says that the other side is gone
                break
            if not data:
                break
            shown += data
        if until.encode() in shown and not pressed:
            for call in (line.strip() for line in shown.decode().splitlines() if " call " in line):
                answer = subprocess.run(["sh", "-c", call], capture_output=True, check=True, env=environment)
                assert json.loads(answer.stdout)
            os.write(terminal, b"\x03")
            pressed = True
    os.waitpid(process, 0)
    os.close(terminal)
    return shown.decode()


@long
@pytest.mark.skipif(
    os.environ.get("CI") != "true", reason="installs everything from the package index; CI does"
)
def test_make_run_works_in_a_clean_clone_with_nothing_else_typed(clock: Clock) -> None:
    with home() as directory:
        clone = directory / "clone"
        subprocess.run(["git", "clone", "--quiet", CHECKOUT, clone], check=True)
        kept = ("PATH", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
        environment = {name: os.environ[name] for name in kept if name in os.environ}
        # pip's settings of this user, if there are any; everything else is a new home.
        pip = Path.home() / ".config" / "pip" / "pip.conf"
        if pip.exists():
            (directory / ".config" / "pip").mkdir(parents=True)
            shutil.copy(pip, directory / ".config" / "pip" / "pip.conf")
        environment |= {"HOME": str(directory), "XDG_RUNTIME_DIR": str(directory), "TERM": "dumb"}
        shown = run_in_terminal(["make", "run"], clone, environment, until="Ctrl-C stops it")
        assert "mcpServers" in shown
        assert "Traceback" not in shown
        assert processes_below(directory) == []
        # The data is kept, and the second start installs nothing.
        began = clock()
        again = run_in_terminal(["make", "run"], clone, environment, until="Ctrl-C stops it")
        assert "Installing" not in again
        with measured:
            assert clock() - began < 30
        assert processes_below(directory) == []
