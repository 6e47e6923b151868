"""Clients written in TypeScript, installed from the npm registry into a cache outside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

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
