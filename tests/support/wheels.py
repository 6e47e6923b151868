"""What `make install` fetches, in a directory, so that it can install where there is no network."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import tomllib
from pathlib import Path

from tests.support.servers import missing

#: The interpreter of an installed service, wherever it is new enough.
SERVICE_PYTHON = "/usr/bin/python3"

REPOSITORY = Path(__file__).resolve().parents[2]


def wheelhouse() -> Path:
    """Return the directory with a wheel of everything but redstreamd; filled at the first use.

    Skips the test (in CI: fails it) without a network, or without an interpreter that can make environments.
    """
    asked = "import ensurepip, sys; assert sys.version_info >= (3, 11); print(sys.version)"
    python = subprocess.run([SERVICE_PYTHON, "-I", "-c", asked], capture_output=True, text=True, check=False)
    if python.returncode:
        missing(f"{SERVICE_PYTHON}, 3.11 or newer, with ensurepip", "apt-get install python3-venv")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    needed = (
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        project["project"]["optional-dependencies"]["embedded"],
        project["project"]["optional-dependencies"]["http"],
    )
    metadata = repr((needed, python.stdout)).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redstreamd-tests"
    place = cache / f"wheels-{hashlib.sha256(metadata).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "wheels.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other test runs on this machine may want the same
        if not place.exists():
            # Made elsewhere and renamed, so that an interrupted download is never taken for a whole one.
            with tempfile.TemporaryDirectory(dir=cache) as workshop:
                draft, environment = Path(workshop) / "wheels", Path(workshop) / "pip"
                try:
                    _run(SERVICE_PYTHON, "-m", "venv", str(environment))
                    what = (f"{REPOSITORY}[embedded,http]", *needed[0])
                    # Else the pip of an older Debian cannot make a wheel of a package that has none.
                    pip = (f"{environment}/bin/pip", "wheel", "--quiet", "--use-pep517")
                    _run(*pip, "--wheel-dir", str(draft), *what)
                except subprocess.CalledProcessError as failure:
                    missing("what redstreamd depends on", f"a network ({failure.stderr.strip()[-300:]})")
                for ours in draft.glob("redstreamd-*"):
                    ours.unlink()
                for old in cache.glob("wheels-*"):
                    shutil.rmtree(old, ignore_errors=True)
                draft.rename(place)
    return place


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
