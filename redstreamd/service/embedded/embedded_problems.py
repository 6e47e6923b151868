"""Problems of the embedded server, and what to do about them: other advice than for a server of the site's.

Owns the words. The daemon starts and restarts this server itself and gives it its settings, so nobody
has to start it, to check its password or to find its address.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from redstreamd.errors import Code
from redstreamd.redisio.error_replies import UNKNOWN_COMMAND
from redstreamd.redisio.redis_errors import Problem, ProblemKind, Recovery, ServerReplied
from redstreamd.service.embedded.server_loading import Loading

_RESTART: Final = "`systemctl restart redstreamd`, or stop it and start it again"

_CHANGED: Final = (
    f"Somebody changed the settings of the embedded server while it ran. Restart redstreamd ({_RESTART}): it "
    "starts the server with the settings that it needs."
)

STARTING: Final = Problem(
    ProblemKind.NOT_SERVING,
    "the embedded server is starting",
    "Repeat in a moment; redstreamd starts it by itself.",
)


def loading(progress: Loading) -> Problem:
    """Return the problem of a server that reads its data into memory before it serves."""
    how_far = f" ({progress})" if str(progress) else ""
    return Problem(
        ProblemKind.LOADING,
        f"the embedded server loads its data into memory{how_far}",
        "Wait and repeat: calls are served as soon as it has loaded. Nothing needs to be changed.",
    )


def ended(how: str, log: Path) -> Problem:
    """Return the problem of a server that ended, as `how` says, and is started again."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"the embedded server {how}",
        f"Repeat in a moment: redstreamd starts it again by itself. Its log is {log}.",
    )


def disk_full(directory: str, *, free_bytes: int, needed_bytes: int) -> Problem:
    """Return the problem of a server that is not running, because its disk is full."""
    return Problem(
        ProblemKind.UNREACHABLE,
        f"the disk of the embedded server is full: {free_bytes} bytes are free in {directory}, "
        f"and it starts again with {needed_bytes}",
        "Free space on that file system; redstreamd goes on by itself then. Nothing that was acknowledged "
        "is lost.",
    )


class EmbeddedOperator:
    """What the daemon knows of its embedded server; the `Operator` of its target."""

    name: Final = "The embedded server"

    def __init__(self, log: Path, problem: Callable[[], Problem | None]) -> None:
        """Point at the server's `log`; `problem` returns why the server does not serve, None if it does."""
        self._log = log
        self.problem = problem

    def adapted(self, problem: Problem) -> Problem:
        """Return `problem` with the next step that fits this server, and the same cause."""
        steps = {
            ProblemKind.NOT_SERVING: "Wait: it is used as soon as it serves. Nothing needs to be changed.",
            ProblemKind.SETTINGS: _CHANGED,
            ProblemKind.UNREACHABLE: "redstreamd starts its embedded server again by itself when it ends. "
            f"If this lasts, read the server's log, {self._log}, and restart redstreamd ({_RESTART}).",
        }
        return msgspec.structs.replace(problem, next_step=steps.get(problem.kind, problem.next_step))

    def advise(self, answer: ServerReplied) -> None:
        """Give an error reply the next step that fits this server."""
        steps = {
            "OOM": "Trim or delete entries (stream_manage). The limit (maxmemory) was set on the embedded "
            f"server while it ran; restarting redstreamd removes it ({_RESTART}).",
            "MISCONF": f"Free disk space in {self._log.parent}; the server's log, {self._log}, names the "
            "reason.",
            **dict.fromkeys(("READONLY", "MOVED", UNKNOWN_COMMAND), _CHANGED),
        }
        changed = answer.code is Code.PERMISSION_DENIED or answer.recovery is Recovery.SETTINGS
        answer.next_step = _CHANGED if changed else steps.get(answer.kind, answer.next_step)
