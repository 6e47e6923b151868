"""Clients written in TypeScript, installed from the npm registry into a cache outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM
from tests.support.servers import missing

#: Node.js and npm from the development environment, whatever the machine has.
BIN = Path(sys.executable).parent


def installed(package: str, version: str) -> Path:
    """Return the directory with the commands of an npm package, installing it at the first use."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redstreamd-tests"
    place = cache / f"{package.replace('/', '-')}-{version}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Made elsewhere and renamed, so that an interrupted installation is never taken for one.
        draft = Path(tempfile.mkdtemp(dir=cache))
        command = [BIN / "npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", draft]
        done = subprocess.run(
            [*command, f"{package}@{version}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=draft,
            env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
        )
        if done.returncode:
            shutil.rmtree(draft)
            missing(f"npm package {package}", f"npm install {package}: {done.stderr.strip()[-200:]}")
        draft.rename(place)
    return place / "node_modules" / ".bin"


@pytest.fixture(scope="session")
def inspector() -> Path:
    """The command of the MCP inspector."""
    return installed("@modelcontextprotocol/inspector", "2.12.0") / "mcp-inspector"


def inspect(inspector: Path, socket: str, *words: str) -> Any:
    """Run the inspector once and return the JSON it prints."""
    done = subprocess.run(
        [inspector, "--cli", PROGRAM, "connect", "--socket", socket, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
