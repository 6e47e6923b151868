"""Whether the server writes: a server that is full, a replica or unable to save answers everything else.

Owns the state and its end. The state begins with the first write that is refused, whoever sent it. Its end
is found by asking, because nobody else may write for hours, and what succeeds meanwhile proves little: a full
server still trims, a script may be a read, and a repeated write may have nothing to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio import Arg
from redstreamd.redisio.error_replies import reply_code
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.redis_events import WritesAccepted, WritesRefused

#: The replies by which a server refuses writes because of its own state.
REFUSALS: Final = frozenset({"OOM", "READONLY", "MISCONF"})

#: Seconds between two questions while writes are refused.
_ASK_SECONDS: Final = 5.0

#: Seconds without a refusal after which the state is dropped where this user may not ask.
_FORGET_SECONDS: Final = 60.0


class Execute(Protocol):
    """Sends a command that may be repeated."""

    def __call__(self, *args: Arg) -> Awaitable[Any]:
        """Return its reply; the errors are those of `Manager.execute`."""


@attrs.frozen
class Refusal:
    """A server that refuses writes.

    Attributes:
        code: The word that opened its reply.
        cause: The reply.
        next_step: What an operator can change.
        seconds: For how long.
    """

    code: str
    cause: str
    next_step: str
    seconds: float


@attrs.define
class _Episode:
    """What is known since the first refusal; `question` is refused as long as writes are."""

    answer: ServerReplied
    code: str
    question: tuple[Arg, ...]
    since: float
    last: float


class WriteAvailability:
    """Knows whether a server refuses writes."""

    def __init__(
        self, label: str, execute: Execute, *, on_event: Callable[[WritesRefused | WritesAccepted], None]
    ) -> None:
        """Begin with a server that writes.

        Args:
            label: Its address.
            execute: Asks it. Whatever it refuses must come to `notice`.
            on_event: Told of the beginning and the end; must not raise.
        """
        self._label = label
        self._execute = execute
        self._on_event = on_event
        self._episode: _Episode | None = None
        self._begun = trio.Event()

    def refusal(self) -> Refusal | None:
        """Return why writes are refused, or None if they are not, as far as is known."""
        episode = self._episode
        if episode is None:
            return None
        answer = episode.answer
        return Refusal(
            episode.code, answer.cause, answer.next_step, round(trio.current_time() - episode.since, 3)
        )

    def notice(self, command: tuple[Arg, ...], answer: ServerReplied) -> None:
        """Look at the error reply to a command."""
        code = reply_code(answer.reply)
        if code not in REFUSALS:
            return
        now = trio.current_time()
        if self._episode is not None and self._episode.code == code:
            self._episode.last = now
            return
        since = now if self._episode is None else self._episode.since
        self._episode = _Episode(answer, code, _question(code, command), since, now)
        self._begun.set()
        self._on_event(WritesRefused(self._label, code, answer.cause, answer.next_step))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Find out when writes are accepted again, until cancelled."""
        task_status.started()
        while True:
            await self._begun.wait()
            while self._episode is not None:
                await trio.sleep(_ASK_SECONDS)
                if await self._accepted(self._episode):
                    seconds = trio.current_time() - self._episode.since
                    self._episode = None
                    self._on_event(WritesAccepted(self._label, seconds))
            self._begun = trio.Event()

    async def _accepted(self, episode: _Episode) -> bool:
        try:
            await self._execute(*episode.question)
        except ServerReplied as answer:
            if answer.code is Code.PERMISSION_DENIED:
                return trio.current_time() - episode.last >= _FORGET_SECONDS
            # Any other complaint is about the question, which was looked at only because writes are served.
            return reply_code(answer.reply) not in REFUSALS
        except BusError:
            return False  # it could not be asked
        return True


def _question(code: str, refused: tuple[Arg, ...]) -> tuple[Arg, ...]:
    """Return a command without any effect that the server refuses as long as it refuses `refused`."""
    if code == "MISCONF":
        # A server that cannot save refuses PING as well (server.c, `processCommand`).
        return ("PING",)
    # The key that was refused is one that this user may write to. No stream has an entry 0-0, and XADD says
    # so before it looks for the stream, but after the server's own state was looked at.
    position = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2}.get(str(refused[0]), 1)
    return ("XADD", refused[min(position, len(refused) - 1)], "0-0", "f", "v")
