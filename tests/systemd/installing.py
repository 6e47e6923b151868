"""Runs `make install` inside a container, which has no network: with a checkout and wheels of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.wheels import wheelhouse
from tests.systemd.harness import REPOSITORY, Container

CHECKOUT, WHEELS = "/srv/checkout", "/srv/wheels"

#: What pip needs to install without a network.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS, "PIP_CONFIG_FILE": "/dev/null"}

#: Whoever cloned the checkout; not root.
OWNER = 4711


def put_checkout(container: Container) -> None:
    """Put a copy of this checkout, as git knows it, and all wheels that it needs into the container."""
    wheels = wheelhouse()
    shutil.copytree(wheels, container.path(WHEELS))
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in files.split("\0"):
        # A file that was deleted but not yet committed is listed, too.
        if name and os.path.lexists(REPOSITORY / name):
            target = container.path(f"{CHECKOUT}/{name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)
    container.run("chown", "--recursive", "--no-dereference", f"{OWNER}:{OWNER}", CHECKOUT)
    # A clone made with umask 077 would be unreadable for others; the tests of user mode are others.
    container.run("chmod", "--recursive", "a+rX", CHECKOUT)


def snapshot(container: Container) -> dict[str, tuple[int, int, float, str]]:
    """Return owner, mode, time of change and content of everything in the checkout."""
    found = {}
    for path in sorted(container.path(CHECKOUT).rglob("*")):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (state.st_uid, state.st_mode, state.st_mtime, content)
    return found


def damage(wheel: Path) -> None:
    """Change the content of a wheel as a bad disk would: pip notices when it unpacks the damaged file."""
    content = bytearray(wheel.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    wheel.write_bytes(content)
