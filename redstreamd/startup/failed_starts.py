"""Remembers across processes how often the service has failed of late, and delays its next start.

The service manager starts a failed daemon again after a tenth of a second, so that one failure costs
clients next to nothing. A daemon that fails again and again would then keep a core busy with its imports,
and before version 254 systemd has no pauses that grow. So the daemon paces itself: each start leaves a file
in the state directory, an orderly end removes it, and a start that finds one knows that the process before
it has failed.

Owns the file and the arithmetic. What happens during a pause is `cli.serve`'s. Standard library only: it is
used before the heavy imports. Every method does without the file where it cannot be read or written; that
the state directory cannot be used is reported by the daemon, which needs it.
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
"""So many failed starts cause no pause. Their cause is most often one that the next start meets, too."""

MOST_SECONDS_BEFORE_READY: Final = 10.0
"""The longest pause after failed starts. A start takes a second or two of a core, so a daemon that cannot
start uses a tenth or two of one. Clients are told meanwhile."""

FREE_WHEN_READY: Final = 5
"""So many failures of daemons that had served cause no pause."""

MOST_SECONDS_WHEN_READY: Final = 3.0
"""The longest pause after failures of daemons that had served. Clients wait in the backlog meanwhile, for no
longer than for a slow tool; starts use about a quarter of a core."""


class Pause(NamedTuple):
    """How long to put a start off.

    Attributes:
        seconds: 0 if it need not be put off.
        failures: The failures of late, each one's weight halving every minute; the last one included.
        served: Whether the process before this one had become ready.
        reason: Why it failed, in its own words; empty if it could not say.
    """

    seconds: float
    failures: float
    served: bool
    reason: str


class FailedStarts:
    """The record in one state directory; used by one process at a time.

    Unless `end` is called after `begin`, this start will have failed.
    """

    def __init__(self, directory: str, *, now: Callable[[], float] | None = None) -> None:
        """Prepare to use the record; nothing is read yet.

        Args:
            directory: The state directory; it may not exist.
            now: Seconds since the host was booted; the kernel's by default. A clock that people and NTP set
                would make failures last or vanish.
        """
        self._path = f"{directory}/{_NAME}"
        self._now = now or _seconds_since_boot
        self._failures = 0.0
        self._began = 0.0

    def begin(self) -> Pause:
        """Note that a start begins, and return how long it has to be put off first."""
        now = self._now()
        former = self._read()
        pause = Pause(0.0, 0.0, served=False, reason="")
        if former is not None:
            began, failures, served, reason = former
            # A start that seems to lie ahead was before the host was booted.
            kept = math.exp2((began - now) / _HALF_LIFE_SECONDS) if began <= now else 0.0
            count = failures * kept + 1.0
            pause = Pause(_seconds(count, served=served), count, served, reason)
        self._failures = pause.failures
        # What is put off is no part of the time that failures are counted by.
        self._began = now + pause.seconds
        self._write(served=False, reason="")
        return pause

    def note_ready(self) -> None:
        """Note that this daemon serves."""
        self._write(served=True, reason="")

    def note_reason(self, reason: str) -> None:
        """Note why this start fails, for the clients that come before the next one."""
        self._write(served=False, reason=reason[:_MAX_REASON])

    def end(self) -> None:
        """Note that this process ends in order, or for a reason that causes no restart."""
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
        # Whatever the file says, pauses stay within their bounds.
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
