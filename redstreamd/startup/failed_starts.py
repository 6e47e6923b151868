"""Counts failed starts of the service across processes, and delays the next one.

The unit restarts a failed daemon after 0.1 s. A daemon that fails again and again would keep a core busy with
its imports, and systemd before version 254 has no growing restart delays. So each start writes a file to the
state directory, an orderly end removes it, and a start that finds one knows that the last process failed.

What happens during a pause is `cli.serve`'s. Standard library only. A file that cannot be read or written is
ignored here; the daemon reports a state directory that cannot be used.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

_NAME: Final = "failed-starts.json"
_HALF_LIFE_SECONDS: Final = 60.0
_BASE_SECONDS: Final = 0.5
_MAX_REASON: Final = 2_000  # characters

FREE_BEFORE_READY: Final = 2
"""Failed starts without a pause."""

MOST_SECONDS_BEFORE_READY: Final = 10.0
"""The longest pause after failed starts, during which clients are answered with the reason. A start takes a
second or two of a core, so a daemon that cannot start uses a tenth or two of one."""

FREE_WHEN_READY: Final = 5
"""Failures without a pause of daemons that had become ready."""

MOST_SECONDS_WHEN_READY: Final = 3.0
"""The longest pause after failures of daemons that had become ready. Clients wait in the backlog meanwhile;
starts use about a quarter of a core."""


class Pause(NamedTuple):
    """How long to delay a start.

    Attributes:
        seconds: 0 for no delay.
        failures: The failure count, the last one included; a failure's weight halves every minute.
        served: Whether the last process had become ready.
        reason: The error it reported; empty if none.
    """

    seconds: float
    failures: float
    served: bool
    reason: str


class FailedStarts:
    """The record in one state directory; used by one process at a time.

    A start has failed unless `end` is called after `begin`.
    """

    def __init__(self, directory: str, *, now: Callable[[], float] | None = None) -> None:
        """Prepare; nothing is read yet.

        Args:
            directory: The state directory; it need not exist.
            now: A clock that is never set: seconds since the host was booted, by default the kernel's.
        """
        self._path = f"{directory}/{_NAME}"
        self._now = now or _seconds_since_boot
        self._failures = 0.0
        self._began = 0.0

    def begin(self) -> Pause:
        """Record that a start begins, and return how long to delay it."""
        now = self._now()
        former = self._read()
        pause = Pause(0.0, 0.0, served=False, reason="")
        if former is not None:
            began, failures, served, reason = former
            # A later time is from before the host was booted.
            kept = math.exp2((began - now) / _HALF_LIFE_SECONDS) if began <= now else 0.0
            count = failures * kept + 1.0
            pause = Pause(_seconds(count, served=served), count, served, reason)
        self._failures = pause.failures
        # The decay begins after the pause.
        self._began = now + pause.seconds
        self._write(served=False, reason="")
        return pause

    def note_ready(self) -> None:
        """Record that the daemon is ready."""
        self._write(served=True, reason="")

    def note_reason(self, reason: str) -> None:
        """Record why this start fails, to tell clients before the next one."""
        self._write(served=False, reason=reason[:_MAX_REASON])

    def end(self) -> None:
        """Record that this process ends in order, or with a status that causes no restart."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108 - pathlib is slow to import

    def _read(self) -> tuple[float, float, bool, str] | None:
        try:
            with open(self._path, encoding="utf-8") as file:  # noqa: PTH123
                found: dict[str, Any] = json.load(file)
            began, failures = float(found["began"]), float(found["failures"])
            served, reason = bool(found["served"]), str(found["reason"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        # An invalid file does not change the bounds of the pauses.
        return (began, failures, served, reason) if 0 <= failures < 1e6 and math.isfinite(began) else None

    def _write(self, *, served: bool, reason: str) -> None:
        record = {"began": self._began, "failures": self._failures, "served": served, "reason": reason}
        fresh = f"{self._path}.new"
        with contextlib.suppress(OSError):
            with open(fresh, "w", encoding="utf-8") as file:  # noqa: PTH123
                json.dump(record, file)
            os.replace(fresh, self._path)  # noqa: PTH105


def _seconds(failures: float, *, served: bool) -> float:
    free = FREE_WHEN_READY if served else FREE_BEFORE_READY
    longest = MOST_SECONDS_WHEN_READY if served else MOST_SECONDS_BEFORE_READY
    excess = min(failures - free, 30.0)
    return 0.0 if excess <= 0 else min(longest, _BASE_SECONDS * math.exp2(excess))


def _seconds_since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
