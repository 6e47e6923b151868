"""One command on its way to Redis, as its caller holds it.

Whoever waits either parks its own task here or is called back. Prior art: redis-rs's multiplexed connection,
coredis's request queue. They give every request a channel or an event; a parked task needs none, which at
100,000 requests a second is half of the work saved, and a callback needs no task.

A caller may give up at any time. A request that is not sent then leaves no trace; one that was sent keeps its
place, so that the reply is dropped instead of reaching another caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec
import trio
from trio.lowlevel import Abort, Task, current_task, wait_task_rescheduled

from redstreamd.admission.accounts import Account
from redstreamd.redisio import Arg

#: Seconds for the reader to get at replies that arrived while this process was held up.
SECOND_LOOK_SECONDS: Final = 0.01

_PENDING: Final = object()

Place = tuple[Arg, ...]
"""What is done and where: a command and its first arguments, or a script's digest and its last key."""


class Queue(Protocol):
    """Where a request is queued: a `Pipeline`."""

    def withdraw(self, request: Request) -> None:
        """Take back a request that is not sent."""
        ...

    def send_now(self) -> None:
        """Send what is queued before the pass ends."""
        ...


class Request(msgspec.Struct, eq=False, gc=False):
    """One command on its way; made by `Pipeline.enqueue`.

    Attributes:
        pipeline: Where it is queued.
        then: Called with the reply, or with the exception that `reply` would raise; None once that is done,
            or if a task waits in `reply`.
        account: On whose behalf it is sent; None for the daemon itself.
        kind: The command's name, or a script's digest.
        seconds: How much work it is, for the server and for the reader of its reply.
        place: What what it takes is observed for (`ObservedCosts`); None: its size says what it takes.
        observed: The part of `seconds` that was observed.
        step: What is counted for the task that waits for the reply, if other clients have requests.
        deadline: When its reply is overdue, on trio's clock; infinite until it is sent.
        result: The reply, or an exception to raise, if nothing was called; None once it was returned.
        task: Is parked in `reply`.
        deferred: Its bytes while it waits for its turn.
        queued: As how many commands it counts meanwhile.
    """

    # Invariant: task is set exactly while one is parked in reply(). Python's collector does not see these
    # objects, so whatever may refer to one is let go of when it is done: then, task, result.
    pipeline: Queue
    then: Callable[[Any], None] | None
    account: Account | None = None
    kind: Arg = ""
    seconds: float = 0.0
    place: Place | None = None
    observed: float = 0.0
    step: float = 0.0
    deadline: float = math.inf
    result: Any = _PENDING
    task: Task | None = None
    deferred: bytes | None = None
    queued: int = 0

    @property
    def sent(self) -> bool:
        """Whether its bytes were handed to the socket."""
        return self.deadline < math.inf

    async def reply(self) -> Any:
        """Wait for the reply and return it, undecoded. For one caller.

        Raises:
            RedisError: The server answered with an error.
            NotSent: The connection ended first; the command was not executed.
            ReplyLost: The connection ended first; the command may have been executed.

        If cancelled, an unsent request is taken back; ``sent`` tells.
        """
        if self.result is _PENDING:
            self.task = current_task()
            await wait_task_rescheduled(self._abort)
        result, self.result = self.result, None
        if isinstance(result, Exception):
            raise result
        return result

    async def reply_by(self, deadline: float) -> Any:
        """As `reply`, but no longer than until `deadline`, on trio's clock.

        Raises:
            trio.TooSlowError: There was no reply by then; an unsent request is taken back.
        """
        with trio.CancelScope(deadline=deadline):
            return await self.reply()
        if self.sent:
            # If this process was held up itself, the reply is there and not yet read.
            with trio.move_on_after(SECOND_LOOK_SECONDS):
                return await self.reply()
        raise trio.TooSlowError

    def send_now(self) -> None:
        """Send it before the pass ends, if it is the first in this pass that asks for that."""
        self.pipeline.send_now()

    def take_back(self) -> bool:
        """Take the request back if it is not sent; return whether it was. Else its reply still comes."""
        if self.deadline < math.inf:
            return False
        self.pipeline.withdraw(self)
        return True

    def _abort(self, _raise_cancel: Any) -> Abort:
        self.task = None
        self.take_back()
        return Abort.SUCCEEDED
