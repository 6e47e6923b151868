"""Builds the virtual environment of a version, with the pip of a temporary one.

It writes only to the version's directory and `work`.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from versions import InstallError


@dataclass(frozen=True)
class Builder:
    """Builds environments.

    Attributes:
        source: The checkout.
        python: The interpreter of the service.
        others: Interpreters whose pip is used if `python` has none.
        work: A directory for temporary files.
        lock: Descriptor that all programs started here inherit.
    """

    source: Path
    python: str
    others: Sequence[str]
    work: Path
    lock: int

    def version_number(self) -> str:
        """Return the version number of the sources."""
        text = (self.source / "redstreamd" / "__init__.py").read_text("utf-8")
        found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
        if found is None:
            raise InstallError(f"no version number in {self.source}/redstreamd/__init__.py")
        return found.group(1)

    def build(self, directory: Path, *, staging: str) -> None:
        """Create and compile the environment in `directory`, and import the daemon as a check.

        Raises:
            InstallError: A step failed; the message names it. Its output is on the terminal.
        """
        pip = self._pip()
        self._run("make an environment", self.python, "-I", "-m", "venv", "--without-pip", directory)
        python = directory / "bin" / "python"
        into = ("-I", "-m", "pip", "--python", python, "install")
        quietly = ("--quiet", "--disable-pip-version-check", "--no-compile")
        self._run("install redstreamd", pip, *into, *quietly, f"{self.source}[embedded,http]")
        # Compiled now, because the service cannot write there. -s: paths as installed.
        compiled = ("-q", "-j0", *(("-s", staging) if staging else ()), directory / "lib")
        self._run("compile redstreamd", python, "-I", "-m", "compileall", *compiled)
        self._run("load the daemon", python, "-I", "-c", "import redstreamd.daemon.serving")

    def _pip(self) -> Path:
        """Create a temporary environment with pip and return its interpreter."""
        refusals = []
        for number, python in enumerate(dict.fromkeys((self.python, *self.others))):
            place = self.work / f"pip{number}"
            done = self._started(subprocess.PIPE, python, "-I", "-m", "venv", place)
            if done.returncode == 0:
                return place / "bin" / "python"
            refusals.append(f"{python}: {' '.join(done.stdout.split())}")
        raise InstallError(
            "cannot make an environment with pip; on Debian and Ubuntu: apt-get install python3-venv\n"
            + "\n".join(refusals)
        )

    def _run(self, purpose: str, *command: str | Path) -> None:
        status = self._started(None, *command).returncode
        if status:
            raise InstallError(f"cannot {purpose}: {command[0]} ended with status {status}; see above")

    def _started(self, output: int | None, *command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = dict(os.environ, TMPDIR=str(self.work), PYTHONDONTWRITEBYTECODE="1")
        # Variables of the caller that would install packages elsewhere.
        for name in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"):
            environment.pop(name, None)
        return subprocess.run(
            list(map(str, command)),
            check=False,
            cwd="/",
            env=environment,
            pass_fds=(self.lock,),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            text=True,
        )
