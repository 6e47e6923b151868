"""Takes that wait for work of a stream and group: first come, first served.

Only the first of a queue watches the stream and takes; when it got entries, the next one takes at once. So
one new entry causes one take, however many wait. A take that waits is a record (`Sleeper`), without a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
import trio

from redstreamd.admission.turns import turns
from redstreamd.errors import BusError
from redstreamd.errors.defects import report_defect
from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.streams.error_context import appended
from redstreamd.streams.plans import Plan, StartedPlan, start_plan
from redstreamd.streams.sleepers import Sleepers
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.take_values import Take, Taken
from redstreamd.streams.waiting import Sleeper, Told, Wait

PlanTake = Callable[[Take, Principal], Plan[Taken]]


class _WaitingTake(msgspec.Struct, eq=False):
    """What one who waits asks for, and what it did so far.

    Attributes:
        take: What it asks for.
        principal: On whose behalf.
        taken: What its takes did so far; None if there was none.
        started: Its last take.
    """

    take: Take
    principal: Principal
    taken: Taken | None
    started: StartedPlan | None = None

    def reword(self, error: Exception) -> Exception:
        """Return an error that includes what the call did before."""
        done = "" if self.taken is None else self.taken.side_effects()
        return appended(error, done) if done and isinstance(error, BusError) else error


class TakeQueues:
    """The queues of all groups.

    Attributes:
        redis: Is asked.
        hub: Knows of changes.
        plan: Plans a take.
        recheck_seconds: When to look again at the latest, by whose lease ran out.
    """

    def __init__(self, redis: Redis, hub: TailHub, plan: PlanTake, recheck_seconds: float) -> None:
        """Begin without queues."""
        self.redis: Final = redis
        self.hub: Final = hub
        self.plan: Final = plan
        self.recheck_seconds: Final = recheck_seconds
        self._queues: dict[tuple[str, str], _Queue] = {}

    def __len__(self) -> int:
        """Return how many groups have waiting takes."""
        return len(self._queues)

    def __contains__(self, place: tuple[str, str]) -> bool:
        """Say whether takes of a stream and group wait."""
        return place in self._queues

    def wait(self, take: Take, principal: Principal, deadline: float, taken: Taken | None) -> Wait:
        """Return the wait for a `Taken`, behind those who wait already.

        The result, or the error, includes `taken`, which is what the call did before.
        """
        waiting = _WaitingTake(take, principal, taken)
        return Wait(partial(self._join, waiting), deadline, reword=waiting.reword)

    def _join(self, waiting: _WaitingTake, sleeper: Sleeper) -> None:
        place = (waiting.take.stream, waiting.take.group)
        queue = self._queues.get(place)
        if queue is None:
            queue = self._queues[place] = _Queue(self, place)
        queue.join(sleeper, waiting)

    def forget(self, place: tuple[str, str], queue: _Queue) -> bool:
        """Forget a queue that is empty; return whether it was known."""
        is_known = self._queues.get(place) is queue
        if is_known:
            del self._queues[place]
        return is_known


class _Queue:
    """Those who wait for work of one group. A watcher of the tail hub."""

    # Invariant: the first has a take under way (_taking), or sleeps until _check_at or a change.
    __slots__ = (
        "_check_at",
        "_is_woken",
        "_place",
        "_queues",
        "_sleepers",
        "_takes",
        "_taking",
        "is_eager",
        "keys",
    )

    def __init__(self, queues: TakeQueues, place: tuple[str, str]) -> None:
        self.keys = frozenset([place[0].encode()])
        self.is_eager = False
        self._queues = queues
        self._place = place
        self._sleepers = Sleepers(queues.hub)
        self._takes: dict[Sleeper, _WaitingTake] = {}
        self._taking: Sleeper | None = None
        # A change came while a take was under way.
        self._is_woken = False
        self._check_at = math.inf
        queues.hub.add(self)

    @property
    def waiting(self) -> int:
        """Whether the first waits for a change, as a number."""
        return int(self._taking is None and bool(self._sleepers))

    def join(self, sleeper: Sleeper, waiting: _WaitingTake) -> None:
        """Let one more wait. It may be told its error before this returns."""
        sleeper.place = self
        if sleeper.claim is not None:
            sleeper.claim.end = sleeper.end_early
        self._sleepers.members[sleeper] = None
        self._takes[sleeper] = waiting
        self._sleepers.fall_asleep(sleeper, self._on_time)
        if sleeper not in self._sleepers.members:
            # There are too many waits.
            del self._takes[sleeper]
        elif len(self._sleepers) == 1:
            self._take()
        self._close_if_empty()

    def remove(self, sleeper: Sleeper) -> None:
        """Forget one who was not told; see `Sleeper.leave`. What was sent for it may take effect."""
        is_first = sleeper is next(iter(self._sleepers), None)
        waiting = self._takes.get(sleeper)
        if waiting is not None and waiting.started is not None:
            waiting.started.take_back()
        self._forget(sleeper)
        if self._taking is sleeper:
            self._taking = None
        if is_first and self._sleepers:
            self._take()
        self._close_if_empty()

    def wake(self) -> None:
        """Let the first take: something may have changed, or somebody's time is over."""
        self._let_go_who_is_due()
        self._take_again()

    def _on_time(self) -> None:
        self._let_go_who_is_due()
        first = next(iter(self._sleepers), None)
        if first is not None and (first.is_over or self._check_at <= trio.current_time()):
            self._take_again()

    def _let_go_who_is_due(self) -> None:
        """Let those whose time is over take once more; but for the first, who does that in its place."""
        now = trio.current_time()
        # A time that has come sets no alarm: the take that is due then does.
        soonest = self._check_at if self._check_at > now else math.inf
        for number, sleeper in enumerate(list(self._sleepers)):
            if sleeper.deadline > now:
                soonest = min(soonest, sleeper.deadline)
            elif number:
                # Others got entries, and there may be some left.
                del self._sleepers.members[sleeper]
                self._start(sleeper)
        if soonest < math.inf:
            self._sleepers.wake_by(soonest, self._on_time)

    def _take_again(self) -> None:
        if self._taking is not None:
            self._is_woken = True
        elif self._sleepers:
            self._take()

    def _take(self) -> None:
        """Let the first take now."""
        self._is_woken, self._check_at = False, math.inf
        self._taking = sleeper = next(iter(self._sleepers))
        self._start(sleeper)

    def _start(self, sleeper: Sleeper) -> None:
        waiting, queues = self._takes[sleeper], self._queues
        if sleeper.account is not None:
            # Its own client's work, whoever made the change.
            turns().work_for(sleeper.account)
        plan = queues.plan(waiting.take, waiting.principal)
        done = partial(self._on_taken, sleeper)
        waiting.started = start_plan(queues.redis, queues.hub.background, plan, sleeper.account, done)

    def _on_taken(self, sleeper: Sleeper, outcome: Taken | Exception) -> None:
        is_first = self._taking is sleeper
        if is_first:
            self._taking = None
        waiting = self._takes.get(sleeper)
        # Else it has left.
        if waiting is not None:
            if isinstance(outcome, Exception):
                del self._takes[sleeper]
                self._sleepers.fail(sleeper, outcome)
            else:
                waiting.taken = taken = outcome.added_to(waiting.taken)
                is_over = sleeper.is_over or self._queues.hub.draining
                if is_first and not (taken.entries or taken.replayed or is_over):
                    self._sleep(taken)
                    return
                self._forget(sleeper)
                _tell(sleeper, Told(taken, {}))
        if is_first and self._sleepers and self._taking is None:
            self._take()
        self._close_if_empty()

    def _sleep(self, taken: Taken) -> None:
        """Let the first sleep until there may be something."""
        if self._is_woken:
            self._take()
            return
        seconds = self._queues.recheck_seconds
        if taken.next_due is not None:
            # Both are by the group's clock. A millisecond late is in time; one early costs a round trip.
            seconds = min(seconds, max(0.0, (taken.next_due - taken.now) / 1000) + 0.001)
        self._check_at = trio.current_time() + seconds
        self._sleepers.wake_by(self._check_at, self._on_time)
        self._queues.hub.arm(self)

    def _forget(self, sleeper: Sleeper) -> None:
        self._takes.pop(sleeper, None)
        self._sleepers.forget(sleeper)

    def _close_if_empty(self) -> None:
        # Those who take a last time are not in the queue any more.
        if not self._sleepers and self._queues.forget(self._place, self):
            self._sleepers.stop_alarm()
            self._queues.hub.remove(self)


def _tell(sleeper: Sleeper, told: Told) -> None:
    try:
        sleeper.told(told)
    except Exception as exc:  # noqa: BLE001 - those behind it depend on it
        report_defect("a wait could not be told what was taken", exc)
    try:
        sleeper.after_told()
    except Exception as exc:  # noqa: BLE001 - as above
        report_defect("the end of a wait could not be noted", exc)
