"""Who has the daemon's loop: samples of its stacks by py-spy, which only those install who ask for this."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def profiled(pid: int, seconds: float) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Sample the daemon's stacks for so many seconds with py-spy, which has to be installed."""
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise SystemExit(f"{program} is not installed (pip install py-spy)")
    with tempfile.TemporaryDirectory() as directory:
        stacks = Path(directory) / "stacks"
        words = ["record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", "200"]
        recording = subprocess.Popen(
            [program, *words, "--nonblocking", "--format", "raw", "--output", stacks],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield recording, stacks
        finally:
            recording.kill()
            recording.wait()


def frames(profile: tuple[subprocess.Popen[bytes], Path]) -> list[tuple[float, str]]:
    """Return the functions that were running: the share of the samples, and the name and place."""
    recording, stacks = profile
    recording.wait(60)
    own: dict[str, int] = {}
    total = 0
    for text in stacks.read_text("utf-8").splitlines():
        stack, _, count = text.rpartition(" ")
        total += int(count)
        names = stack.split(";")
        own[names[-1]] = own.get(names[-1], 0) + int(count)
        # The innermost function of the daemon's own, where another package's has the core.
        ours = [each for each in names if "redstreamd/" in each]
        if ours and ours[-1] != names[-1]:
            name = f"under {ours[-1]}"
            own[name] = own.get(name, 0) + int(count)
    return sorted(((count / total, name) for name, count in own.items()), reverse=True)[:14]
