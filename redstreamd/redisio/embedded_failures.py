"""What is wrong with the embedded server, and what to do: other advice than for a server of the site's.

Owns the words. The daemon starts and restarts this server itself and gives it its settings, so nobody
has to start it, to check its password or to find its address.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import attrs

from redstreamd.errors import Code
from redstreamd.redisio.connect_errors import Failure, FailureKind
from redstreamd.redisio.error_replies import reply_code
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.server_loading import Loading
from redstreamd.redisio.target import Target

_RESTART: Final = "`systemctl restart redstreamd`, or stop it and start it again"

_CHANGED: Final = (
    f"Somebody changed the settings of the embedded server while it ran. Restart redstreamd ({_RESTART}): it "
    "starts the server with the settings that it needs."
)

#: As servers put it when a client or a script names a command that is not there; see error_replies.
_NO_COMMAND: Final = re.compile(r"nknown (?:Redis )?(?:sub)?command|command called from")

STARTING: Final = Failure(
    FailureKind.NOT_SERVING,
    "the embedded server is starting",
    "Repeat in a moment; redstreamd starts it by itself.",
)


def loading(progress: Loading) -> Failure:
    """It reads its data into memory before it serves."""
    how_far = f" ({progress})" if str(progress) else ""
    return Failure(
        FailureKind.NOT_SERVING,
        f"the embedded server loads its data into memory{how_far}",
        "Wait and repeat: calls are served as soon as it has loaded. Nothing needs to be changed.",
    )


def ended(how: str, log: Path) -> Failure:
    """It ended by itself, or somebody ended it, and is started again."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"the embedded server {how}",
        f"Repeat in a moment: redstreamd starts it again by itself. Its log is {log}.",
    )


def disk_full(directory: str, *, free_bytes: int, needed_bytes: int) -> Failure:
    """It has no room to write and is not running."""
    return Failure(
        FailureKind.UNREACHABLE,
        f"the disk of the embedded server is full: {free_bytes} bytes are free in {directory}, "
        f"and it starts again with {needed_bytes}",
        "Free space on that file system; redstreamd goes on by itself then. Nothing that was acknowledged "
        "is lost.",
    )


def fitted(target: Target, failure: Failure) -> Failure:
    """Return `failure` with the advice that fits, if `target` is the embedded server; else as it is.

    Its cause stays the same, and with it what counts as the same reason: no progress in it.
    """
    log = target.embedded_log
    if log is None:
        return failure
    steps = {
        FailureKind.NOT_SERVING: "Wait: it is used as soon as it serves. Nothing needs to be changed.",
        FailureKind.SETTINGS: _CHANGED,
        FailureKind.UNREACHABLE: "redstreamd starts its embedded server again by itself when it ends. "
        f"If this lasts, read the server's log, {log}, and restart redstreamd ({_RESTART}).",
    }
    return attrs.evolve(failure, next_step=steps[failure.kind])


def advise(target: Target, answer: ServerReplied) -> None:
    """Give an error reply of the embedded server the next step that fits it; of another, leave it."""
    log = target.embedded_log
    if log is None:
        return
    steps = {
        "OOM": "Trim or delete entries (stream_manage). The limit (maxmemory) was set on the embedded server "
        f"while it ran; restarting redstreamd removes it ({_RESTART}).",
        "MISCONF": f"Free disk space in {Path(log).parent}; the server's log, {log}, names the reason.",
        **dict.fromkeys(("READONLY", "NOAUTH", "MOVED"), _CHANGED),
    }
    # What a script may not do is refused without a code of its own.
    changed = answer.code is Code.PERMISSION_DENIED or _NO_COMMAND.search(str(answer.reply))
    answer.next_step = _CHANGED if changed else steps.get(reply_code(answer.reply), answer.next_step)
