"""Whether the server accepts writes: one that is full, a replica or unable to save answers everything else.

Owns that state and its end. It begins with the first write that is refused. Its end is found by asking,
because there may be no write for hours, and a command that succeeds meanwhile proves little: a full server
still trims, a script may be a read, and a repeated write may have nothing to do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio import Arg
from redstreamd.redisio.redis_errors import Problem, ProblemKind, ServerReplied

#: What a server refuses writes with because of its own state: OOM, READONLY and MISCONF.
_REFUSALS: Final = frozenset({Code.BACKEND_OUT_OF_MEMORY, Code.BACKEND_READ_ONLY})

#: Seconds between two questions while writes are refused.
_ASK_SECONDS: Final = 5.0

#: Seconds without a refusal after which the state is dropped where this user may not ask.
_FORGET_SECONDS: Final = 60.0


class Execute(Protocol):
    """Sends a command that may be repeated."""

    def __call__(self, *args: Arg) -> Awaitable[Any]:
        """Return its reply; the errors are those of `Manager.execute`."""


class _Episode(msgspec.Struct):
    """What is known since the first refusal.

    Attributes:
        answer: The reply that writes are refused with.
        question: A command that is refused as long as writes are.
        since: When the first write was refused, on trio's clock.
        last: When the last one was.
    """

    answer: ServerReplied
    question: tuple[Arg, ...]
    since: float
    last: float

    def problem(self) -> Problem:
        answer = self.answer
        seconds = round(trio.current_time() - self.since, 3)
        return Problem(ProblemKind.WRITES_REFUSED, answer.cause, answer.next_step, seconds=seconds)


class WriteAvailability:
    """Knows whether a server refuses writes."""

    def __init__(
        self,
        execute: Execute,
        *,
        on_refused: Callable[[Problem], None],
        on_accepted: Callable[[float], None],
    ) -> None:
        """Begin with a server that accepts writes.

        Args:
            execute: Asks it. Whatever it refuses must come to `notice`.
            on_refused: Told of the first refusal, and of one for another reason; must not raise.
            on_accepted: Told for how many seconds writes were refused; must not raise.
        """
        self._execute = execute
        self._on_refused = on_refused
        self._on_accepted = on_accepted
        self._episode: _Episode | None = None
        self._begun = trio.Event()

    def problem(self) -> Problem | None:
        """Return why writes are refused, or None if they are not, as far as is known."""
        return None if self._episode is None else self._episode.problem()

    def notice(self, command: tuple[Arg, ...], answer: ServerReplied) -> None:
        """Take note of the error reply to a command."""
        if answer.code not in _REFUSALS:
            return
        now = trio.current_time()
        if self._episode is not None and self._episode.answer.kind == answer.kind:
            self._episode.last = now
            return
        since = now if self._episode is None else self._episode.since
        self._episode = _Episode(answer, _question(answer.kind, command), since, now)
        self._begun.set()
        self._on_refused(self._episode.problem())

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
                    self._on_accepted(seconds)
            self._begun = trio.Event()

    async def _accepted(self, episode: _Episode) -> bool:
        try:
            await self._execute(*episode.question)
        except ServerReplied as answer:
            if answer.code is Code.PERMISSION_DENIED:
                return trio.current_time() - episode.last >= _FORGET_SECONDS
            # Any other complaint is about the question, which was looked at only because writes are served.
            return answer.code not in _REFUSALS
        except BusError:
            return False  # it could not be asked
        return True


def _question(kind: str, refused: tuple[Arg, ...]) -> tuple[Arg, ...]:
    """Return a command without any effect that the server refuses as long as it refuses `refused`."""
    if kind == "MISCONF":
        # A server that cannot save refuses PING as well (server.c, `processCommand`).
        return ("PING",)
    # The key that was refused is one that this user may write to. No stream has an entry 0-0, and XADD says
    # so before it looks for the stream, but after the server's state was checked.
    position = {"EVAL": 3, "EVALSHA": 3, "XGROUP": 2}.get(str(refused[0]), 1)
    return ("XADD", refused[min(position, len(refused) - 1)], "0-0", "f", "v")
