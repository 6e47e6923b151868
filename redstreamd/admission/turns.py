"""Turns on the event loop: whose work is done next, and what it costs.

Owns the time of the event loop, of one run of trio: it is counted for the client on whose behalf it is used,
and divided where more is wanted than fits into a pass of trio's scheduler. Does not know what is done.

- *Whose time it is*: that of the account in whose context a task runs, see `ACCOUNT`; where one task works
  for many, it says for whom by `work_for`. The daemon's own work is nobody's, and never waits.
- *Turns*: in one pass about `TURN_SECONDS` are for new work of clients. A reader of a connection asks
  `is_over` before each message. What does not fit waits in a `FairQueue`, and at the end of a pass as much is
  taken from that as fits into the next. While one connection alone has work, the turn is longer, because
  short ones cost a few percent.
- *Deferred commands*: a process that has many commands waiting for Redis (see ``redisio.pipeline``) is not
  read from until these are fewer.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextvars import ContextVar
from typing import Final

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from redstreamd.admission.accounts import Account
from redstreamd.admission.fair_queue import FairQueue, is_behind

#: Seconds of new work in a pass of the scheduler while several clients have some. A pass also handles what
#: Redis answered, which takes about as long; a request waits for one or two passes.
TURN_SECONDS: Final = 0.0012
#: The same while none of them got much less than the others: nobody is there whom long turns would hurt.
GREEDY_TURN_SECONDS: Final = 0.003
#: Another turn is given if so many seconds at most are promised to others.
_ROOM_SECONDS: Final = 0.0002
#: The same while one connection alone has work: as long as others may have to wait when they come.
LONE_TURN_SECONDS: Final = 0.004
#: Seconds that handling replies of Redis may take at once, unless one connection alone has work.
REPLIES_SECONDS: Final = 0.001
#: For so long after another one was served a connection is not alone.
_COMPANY_SECONDS: Final = 0.1
#: A process is not read from while so many of its commands wait for Redis: enough to have the next ready.
MAX_QUEUED: Final = 8
#: Of how many steps the cost of a step is about the mean.
_PARTS: Final = 8

#: On whose behalf a task runs.
ACCOUNT: ContextVar[Account | None] = ContextVar("ACCOUNT", default=None)


class Turns(trio.abc.Instrument):
    """The turns of one run of trio; made by `turns`.

    Attributes:
        account: On whose behalf the loop works now; None for the daemon itself.
        ends: When new work of clients gives way in this pass, by `time.perf_counter`.
        now: When this pass began, by `time.perf_counter`.
        is_shared: Whether several connections had work of late.
        redis_seconds: Redis's time that what was sent for `account` will take, and that is not counted yet.
        waiting: Tasks that wait for their turn.
    """

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self.account: Account | None = None
        self.ends = 0.0
        self.now = time.perf_counter()
        self.is_shared = False
        self.redis_seconds = 0.0
        self.waiting: Final[FairQueue[tuple[Task, float]]] = FairQueue()
        # Readers of processes with many commands waiting, by process.
        self._held_back: dict[Account, deque[Task]] = {}
        # Since when the loop has worked for `account`.
        self._since = 0.0
        # The account of the task that runs, and since when.
        self._task_account: Account | None = None
        self._task_since = 0.0
        # What the thread had run when the pass began.
        self._ran = 0.0
        # Seconds that tasks will take in the next pass.
        self._promised = 0.0
        self._is_new_pass = True
        self._last: Account | None = None
        self._company_ends = 0.0
        # Until when there may be a client that got much less than others.
        self._light_ends = 0.0
        self._ticker: Task | None = None
        self._is_ticking = False

    # Whose time it is

    def work_for(self, account: Account | None) -> None:
        """Count the time from now on for an account, until the task's step ends."""
        now = time.perf_counter()
        if self.account is not None:
            self.account.charge(now - self._since + self.redis_seconds, now)
            self.redis_seconds = 0.0
        self._since = now
        self.account = account
        if account is not None and account is not self._last:
            if self._last is not None:
                self._company_ends = now + _COMPANY_SECONDS
            self._last = account

    def before_task_step(self, task: Task) -> None:
        """Count the time for the account of a task: trio's hook."""
        account = task.context.get(ACCOUNT)
        if account is not None or self.account is not None or self._is_new_pass:
            self.work_for(account)
            self._count_step()
            self._task_account, self._task_since = account, self._since
            if self._is_new_pass:
                self._is_new_pass = False
                self.now = self._since
                if self.now < self._company_ends:
                    self.is_shared = True
                    is_light = self.now < self._light_ends
                    self.ends = self.now + (TURN_SECONDS if is_light else GREEDY_TURN_SECONDS)
                    self._ran = time.thread_time()
                else:
                    self.is_shared = False
                    self.ends = self.now + LONE_TURN_SECONDS
                    self._ran = -math.inf

    def before_io_wait(self, timeout: float) -> None:
        """End a pass: trio's hook."""
        if self.account is not None:
            self.work_for(None)
            self._count_step()
            self._task_account = None
        self._is_new_pass = True
        if self.waiting:
            self._grant()
        self._promised = 0.0

    def _count_step(self) -> None:
        account = self._task_account
        if account is not None:
            account.part += (self._since - self._task_since - account.part) / _PARTS

    @property
    def replies_seconds(self) -> float:
        """How long replies of Redis may be handled at once."""
        return REPLIES_SECONDS if self.is_shared else LONE_TURN_SECONDS

    # Turns

    def is_over(self) -> bool:
        """Return whether new work has to give way in this pass.

        Where other programs had the processor meanwhile, shorter turns would help nobody, and cost more.
        """
        return time.perf_counter() >= self.ends and time.thread_time() - self._ran >= self.ends - self.now

    def let_pass(self, process: Account) -> bool:
        """Return whether a process got so little that its next message need not wait for a turn."""
        if not is_behind(process):
            return False
        self._light_ends = self.now + _COMPANY_SECONDS
        return True

    def spend(self, account: Account) -> None:
        """Count what a task that was just started will take: the next pass has less room for turns."""
        self.ends -= account.part
        self._promised += account.part

    async def turn(self, account: Account, seconds: float) -> None:
        """Wait for a turn of about so many seconds; a checkpoint. If cancelled, the place is given up."""
        place = (current_task(), seconds)

        def give_up(_raise_cancel: object) -> Abort:
            self.waiting.remove(account, place)
            return Abort.SUCCEEDED

        self.waiting.push(account, place)
        self._tick_on()
        await wait_task_rescheduled(give_up)

    async def part(self, account: Account) -> None:
        """Wait between two long parts of work: a turn, if others have work; always a checkpoint."""
        if self.is_shared:
            await self.turn(account, TURN_SECONDS)
        else:
            await trio.lowlevel.checkpoint()

    def _grant(self) -> None:
        """Give turns to as many as fit into the next pass; to one, if nothing else is to be done in it."""
        seconds = self._promised
        waiting = self.waiting
        while waiting and seconds < _ROOM_SECONDS:
            _, (task, expected) = waiting.pop()
            reschedule(task)
            seconds += expected

    def _tick_on(self) -> None:
        """See to it that trio does not wait for input while somebody waits for a turn."""
        if self._is_ticking:
            return
        self._is_ticking = True
        if self._ticker is None:
            self._ticker = trio.lowlevel.spawn_system_task(self._tick, name="turns")
        else:
            reschedule(self._ticker)

    async def _tick(self) -> None:
        while True:
            while self.waiting:
                await trio.lowlevel.cancel_shielded_checkpoint()
            self._is_ticking = False
            await wait_task_rescheduled(lambda _raise_cancel: Abort.SUCCEEDED)

    # Deferred commands

    async def wait_fewer_queued(self, process: Account) -> None:
        """Wait until fewer than `MAX_QUEUED` commands of a process wait; a checkpoint."""
        tasks = self._held_back.setdefault(process, deque())
        task = current_task()

        def give_up(_raise_cancel: object) -> Abort:
            tasks.remove(task)
            if not tasks:
                self._held_back.pop(process, None)
            return Abort.SUCCEEDED

        tasks.append(task)
        await wait_task_rescheduled(give_up)

    def dequeued(self, account: Account) -> None:
        """Note that a command of a connection waits no more."""
        process = account.parent
        if process is None or process.queued >= MAX_QUEUED or process not in self._held_back:
            return
        tasks = self._held_back[process]
        for _ in range(min(len(tasks), MAX_QUEUED - process.queued)):
            reschedule(tasks.popleft())
        if not tasks:
            del self._held_back[process]


_TURNS: Final = trio.lowlevel.RunVar[Turns]("redstreamd turns")


def turns() -> Turns:
    """Return the turns of the run of trio that this is called in."""
    try:
        return _TURNS.get()
    except LookupError:
        made = Turns()
        trio.lowlevel.add_instrument(made)
        _TURNS.set(made)
        return made


async def next_turn() -> None:
    """Let others run, and return when it is this call's turn again; to be called between parts of long work.

    A part should take about a millisecond. It is always a checkpoint. Outside a call of a client it is only
    that. If cancelled, the turn is given up.
    """
    account = ACCOUNT.get()
    if account is None:
        await trio.lowlevel.checkpoint()
    else:
        await turns().turn(account, TURN_SECONDS)
