"""Turns on the event loop: whose work is done next, and what it costs.

Owns the time of the event loop, of one run of trio: it is counted for the client on whose behalf it is used,
and divided where more is wanted than fits into a pass of trio's scheduler. Does not know what is done.

- *Whose time it is*: that of the account in whose context a task runs, see `ACCOUNT`; where one task works
  for many, it says for whom by `work_for`. The daemon's own work is nobody's, and never waits.
- *Turns*: in one pass about `TURN_SECONDS` are for new work of clients. A reader of a connection asks
  `is_over` before each message. What does not fit waits in a `FairQueue`, and at the end of a pass as much is
  taken from that as fits into the next. Long turns cost less, so they are as long as nobody light is kept
  waiting by them: they are shorter while one that got little is there, whose messages, and the replies of
  servers, are taken up between two parts of a turn (`Arrivals`).
- *Deferred commands*: a process that has many commands waiting for Redis (see ``redisio.pipeline``) is not
  read from until these are fewer.
"""

from __future__ import annotations

import math
import time
from collections import deque
from contextvars import ContextVar
from typing import Final, Protocol

import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from redstreamd.admission.accounts import Account
from redstreamd.admission.arrivals import Arrivals
from redstreamd.admission.fair_queue import FairQueue, is_behind

#: Seconds of new work in a pass of the scheduler while several clients have some.
TURN_SECONDS: Final = 0.003
#: The same for some time after somebody light was served. What they ask for meanwhile is taken up within a
#: turn; but replies of a server may arrive for them just after the last look.
LIGHT_TURN_SECONDS: Final = 0.0008
#: Another turn is given if so many seconds at most are promised to others.
_ROOM_SECONDS: Final = 0.0002
#: The same while nobody light was served of late: many readers with a message each share a pass, of which the
#: scheduler's own part is as long as some messages.
_WIDE_ROOM_SECONDS: Final = 0.001
#: The same while one connection alone has work: as long as others may have to wait when they come.
LONE_TURN_SECONDS: Final = 0.004
#: Seconds that handling replies of Redis may take at once, unless one connection alone has work.
REPLIES_SECONDS: Final = 0.001
#: The same while somebody light may have a call under way.
LIGHT_REPLIES_SECONDS: Final = 0.0004
#: For so long after its message was read, a call of somebody light is taken to be under way.
_LIGHT_SECONDS: Final = 0.003
#: How often it is looked within a pass what has arrived. With half of it, what has arrived is handled in more
#: and smaller parts, which costs more than the light ones gain.
_LOOK_SECONDS: Final = 0.0004
#: For so long after another one was served a connection is not alone.
_COMPANY_SECONDS: Final = 0.1
#: A process is not read from once so many of its commands wait for Redis, until fewer than half of them do:
#: so the next are ready, and messages are not read one by one.
MAX_QUEUED: Final = 32
#: Of a step that took longer it is asked how long the thread was running.
_LONG_SECONDS: Final = 0.001
#: Of how many steps the cost of a step is about the mean.
_PARTS: Final = 8

#: On whose behalf a task runs.
ACCOUNT: ContextVar[Account | None] = ContextVar("ACCOUNT", default=None)


class Reading(Protocol):
    """What waits for a turn without a task of its own."""

    def read(self) -> None:
        """Do what was waited for, or nothing if that is over by now; must not block or raise."""
        ...


#: What waits for a turn, and about how many seconds that takes.
Place = tuple[Task | Reading, float]


class Turns(trio.abc.Instrument):
    """The turns of one run of trio; made by `turns`.

    Attributes:
        account: On whose behalf the loop works now; None for the daemon itself.
        ends: From when on `is_over` is to be asked in this pass, by `time.perf_counter`.
        now: When this pass began, by `time.perf_counter`.
        is_shared: Whether several connections had work of late.
        is_light: Whether one who got little was served of late.
        replies_seconds: How long replies of Redis may be handled at once in this pass.
        redis_seconds: Redis's time that what was sent for `account` will take, and that is not counted yet.
        waiting: What waits for its turn.
        arrivals: What is taken up within a pass, while somebody light was served of late.
        held_back: Readers of processes with many commands waiting, by process. Who comes to read for such a
            process waits behind them, else one that keeps it below `MAX_QUEUED` would keep them out.
    """

    def __init__(self) -> None:
        """Begin with nobody waiting."""
        self.account: Account | None = None
        self.ends = 0.0
        self.now = time.perf_counter()
        self.is_shared = self.is_light = False
        self.replies_seconds = LONE_TURN_SECONDS
        self.redis_seconds = 0.0
        self.waiting: Final[FairQueue[Place]] = FairQueue()
        self.arrivals: Final = Arrivals()
        self.held_back: Final[dict[Account, deque[Task]]] = {}
        # Since when the loop has worked for `account`.
        self._since = 0.0
        # The account of the task that runs, and since when.
        self._task_account: Account | None = None
        self._task_since = 0.0
        # What the thread had run when the pass began, and when that was last asked.
        self._ran = self._asked_ran = 0.0
        # Seconds that tasks will take in the next pass, and who has a turn in it without a task.
        self._promised = 0.0
        self._granted: Reading | None = None
        self._is_new_pass = True
        self._last: Account | None = None
        self._company_ends = 0.0
        # Until when a call of a client that got much less than others may be under way.
        self._urgent_ends = -math.inf
        # How long the turn is, and when it ends; `ends` is when it is next looked what has arrived. Minus
        # infinity: it is over for the rest of the pass.
        self._turn = 0.0
        self._turn_ends = 0.0
        # Where something has arrived that was not taken up yet.
        self._found: list[int] = []
        self._ticker: Task | None = None
        self._is_ticking = False

    # Whose time it is

    def work_for(self, account: Account | None) -> None:
        """Count the time from now on for an account, until the task's step ends."""
        if account is self.account and account is not None:
            # It is charged when the loop works for another.
            return
        now = time.perf_counter()
        seconds = now - self._since
        if seconds > _LONG_SECONDS and not self._is_new_pass:
            # Not more than the thread ran since that was last asked, which is at least what it ran meanwhile.
            # So only what was lost in this very time is taken off, never what was lost before.
            ran = time.thread_time()
            seconds = min(seconds, ran - self._asked_ran)
            self._asked_ran = ran
        if self.account is not None:
            self.account.charge(seconds + self.redis_seconds, now)
            self.redis_seconds = 0.0
        self._since = now
        self.account = None
        if account is not None:
            self._begin(account, now)

    def _begin(self, account: Account, now: float) -> None:
        """Count the time from now on, which is `_since`, for an account."""
        self.account = account
        if account is not self._last:
            if self._last is not None:
                self._company_ends = now + _COMPANY_SECONDS
            self._last = account

    def before_task_step(self, task: Task) -> None:
        """Count the time for the account of a task: trio's hook."""
        account = task.context.get(ACCOUNT)
        if account is not None or self.account is not None or self._is_new_pass:
            if account is not None and account is self.account:
                self.work_for(None)
            self.work_for(account)
            if self._task_account is not None:
                self._count_step(self._task_account)
            self._task_account, self._task_since = account, self._since
            if self._is_new_pass:
                self._is_new_pass = False
                self.now = self._since
                self.is_shared = self.now < self._company_ends
                is_urgent = self.now < self._urgent_ends
                self.is_light = self.now < self._urgent_ends + _COMPANY_SECONDS
                turn = self.replies_seconds = LONE_TURN_SECONDS
                if self.is_shared:
                    turn = LIGHT_TURN_SECONDS if self.is_light else TURN_SECONDS
                    self.replies_seconds = LIGHT_REPLIES_SECONDS if is_urgent else REPLIES_SECONDS
                self._ran = self._asked_ran = time.thread_time()
                self._turn = turn
                self.ends = self._turn_ends = self.now + turn
                if self.arrivals.light and turn > _LOOK_SECONDS:
                    self.ends = self.now + _LOOK_SECONDS

    def before_io_wait(self, timeout: float) -> None:
        """End a pass: trio's hook."""
        if self.account is not None:
            self.work_for(None)
            if self._task_account is not None:
                self._count_step(self._task_account)
                self._task_account = None
        self._is_new_pass = True
        if self.waiting.count:
            self._grant()
        self._promised = 0.0

    def _count_step(self, account: Account) -> None:
        account.part += (self._since - self._task_since - account.part) / _PARTS

    # Turns

    def is_over(self) -> bool:
        """Return whether new work of clients has to give way: for the rest of this pass, or for a while.

        Where other programs had the processor meanwhile, shorter turns would help nobody, and cost more.
        """
        now = time.perf_counter()
        if now < self._turn_ends:
            if now < self.ends:
                return False
            if self._found or self._look():
                # It goes on once that is taken up.
                return True
            self.ends = min(now + _LOOK_SECONDS, self._turn_ends)
            return False
        if self._turn_ends == -math.inf:
            return True
        left = self._turn - (time.thread_time() - self._ran)
        if left > 0:
            self._turn_ends = now + left
            self.ends = min(now + _LOOK_SECONDS, self._turn_ends) if self.arrivals.light else self._turn_ends
            return False
        # For the rest of this pass.
        self.ends = self._turn_ends = -math.inf
        return True

    def _look(self) -> bool:
        """Return whether anything has arrived that is not to wait for the next pass."""
        if self.arrivals.light:
            self._found += self.arrivals.look(replies=self.is_light)
        return bool(self._found)

    def _take_up(self) -> None:
        """Serve those light ones whose next message has arrived, and handle the replies that have."""
        found, self._found = self._found, []
        readers, servers = self.arrivals.readers, self.arrivals.servers
        has_read = False
        for descriptor in found:
            reader = readers.get(descriptor)
            # It may be another's by now.
            if reader is not None and reader.is_free() and self._may_pass(reader.account, descriptor):
                self.work_for(reader.account)
                reader.read()
                has_read = True
        if has_read:
            # What is sent may be that of others, too.
            self.work_for(None)
            # The server is at it while others are served.
            for server in servers.values():
                server.send_now()
        for descriptor in found:
            server_found = servers.get(descriptor)
            if server_found is not None:
                has_read |= server_found.take_replies()
        if not has_read:
            # A server whose replies cannot be handled now would be found again and again.
            self.ends = min(time.perf_counter() + _LOOK_SECONDS, self._turn_ends)

    def _may_pass(self, account: Account, descriptor: int) -> bool:
        return self.let_pass(account.parent or account, descriptor)

    def let_pass(self, process: Account, descriptor: int = -1) -> bool:
        """Return whether a process got so little that its next message need not wait for a turn.

        Args:
            process: The process.
            descriptor: The connection that it is read from: its next message is taken up within a pass. -1:
                it is not.
        """
        if not is_behind(process):
            return False
        self._urgent_ends = self.now + _LIGHT_SECONDS
        if descriptor >= 0:
            self.arrivals.expect(descriptor)
        return True

    def spend(self, account: Account) -> None:
        """Count what a task that was just started will take: the next pass has less room for turns."""
        self.ends -= account.part
        self._turn_ends -= account.part
        self._turn -= account.part
        self._promised += account.part

    def may_begin(self, account: Account, descriptor: int) -> bool:
        """Return whether a message that has arrived may be read in this pass.

        Args:
            account: The connection's.
            descriptor: See `let_pass`.
        """
        now = time.perf_counter()
        if now >= self.ends and self._look():
            self._take_up()
            self.work_for(account)
        must_wait = self.waiting.count > 0 or (now >= self.ends and self.is_over())
        # Whoever got little may read one message at once.
        is_first = (must_wait or self.is_shared) and self._may_pass(account, descriptor)
        return is_first or not must_wait

    def queue(self, account: Account, place: Place) -> None:
        """Let something wait for its turn."""
        self.waiting.push(account, place)
        if not self._is_ticking:
            self._tick_on()

    def leave(self, account: Account, place: Place) -> None:
        """Give up the place of what waits."""
        self.waiting.remove(account, place)

    async def turn(self, account: Account, seconds: float) -> None:
        """Wait for a turn of about so many seconds; a checkpoint. If cancelled, the place is given up."""
        place = (current_task(), seconds)

        def give_up(_raise_cancel: object) -> Abort:
            self.leave(account, place)
            return Abort.SUCCEEDED

        self.queue(account, place)
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
        room = _ROOM_SECONDS if self.is_light else _WIDE_ROOM_SECONDS
        waiting = self.waiting
        while waiting.count and seconds < room:
            _, (who, expected) = waiting.pop()
            if type(who) is not Task:
                # The others have theirs as long as there is room, see `_serve`.
                self._granted = who
                return
            reschedule(who)
            seconds += expected

    def _serve(self) -> None:
        """Let those without a task have their turns: one in any case, more as long as this pass has room."""
        if self._look():
            self._take_up()
        granted, self._granted = self._granted, None
        if granted is not None:
            granted.read()
        waiting = self.waiting
        while True:
            # Whose turn is next depends on what this one took.
            self.work_for(None)
            now = self._since
            if not waiting.count:
                return
            if now >= self.ends and self.is_over():
                if not self._found:
                    return
                self._take_up()
                continue
            account, (who, expected) = waiting.pop()
            if type(who) is Task:
                # It runs in the next pass, and whose turn is next depends on what it takes there, too. What
                # else fits into that pass `_grant` adds.
                reschedule(who)
                self._promised += expected
                return
            # It pays for its way out of the queue.
            self._begin(account, now)
            who.read()

    def _tick_on(self) -> None:
        """See to it that trio does not wait for input while somebody waits for a turn: nothing does yet."""
        self._is_ticking = True
        if self._ticker is None:
            self._ticker = trio.lowlevel.spawn_system_task(self._tick, name="turns")
        else:
            reschedule(self._ticker)

    async def _tick(self) -> None:
        while True:
            self._serve()
            while self.waiting.count:
                await trio.lowlevel.cancel_shielded_checkpoint()
                self._serve()
            self._is_ticking = False
            await wait_task_rescheduled(lambda _raise_cancel: Abort.SUCCEEDED)

    # Deferred commands

    async def wait_fewer_queued(self, process: Account) -> None:
        """Wait until fewer than half of `MAX_QUEUED` commands of a process wait; a checkpoint.

        Then a message may be read, unless `MAX_QUEUED` commands wait again.
        """
        tasks = self.held_back.setdefault(process, deque())
        task = current_task()

        def give_up(_raise_cancel: object) -> Abort:
            tasks.remove(task)
            if not tasks:
                self.held_back.pop(process, None)
            return Abort.SUCCEEDED

        tasks.append(task)
        await wait_task_rescheduled(give_up)

    def dequeued(self, account: Account) -> None:
        """Note that a command of a connection waits no more."""
        process = account.parent
        if process is None or process.queued >= MAX_QUEUED // 2 or process not in self.held_back:
            return
        tasks = self.held_back[process]
        # Once nothing waits, nothing else would wake those who are left.
        most = MAX_QUEUED - process.queued if process.queued else len(tasks)
        for _ in range(min(len(tasks), most)):
            reschedule(tasks.popleft())
        if not tasks:
            del self.held_back[process]


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
