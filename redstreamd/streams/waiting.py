"""What waits are made of: what is searched for, what a read found, and who waits.

``places`` has the one loop of every wait for entries, ``take_queues`` that of waiting for work.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import msgspec
import trio

from redstreamd.admission.accounts import Account
from redstreamd.admission.claims import Claim
from redstreamd.admission.turns import ACCOUNT
from redstreamd.errors import Code
from redstreamd.streams.plans import Plan

#: Errors that may go away by themselves.
TRANSIENT = frozenset({Code.CONNECTION_ERROR, Code.TIMEOUT, Code.OUTCOME_UNKNOWN})
#: Seconds until the next read when Redis could not be asked; a change may not be pushed then.
RETRY_SECONDS = 0.5


class ReadResult(enum.Enum):
    """What a read found."""

    FOUND = enum.auto()  #: A match.
    MORE = enum.auto()  #: No match; entries left to read.
    EMPTY = enum.auto()  #: No match; no entries left to read.


class Look(msgspec.Struct, frozen=True):
    """The outcome of one read.

    Attributes:
        result: Whether something was found.
        position: Where the next read begins.
        found: What was found, for those who wait.
        end: The entry ID that nothing followed when the only stream was read; None if that is not known.
    """

    result: ReadResult
    position: Hashable
    found: Any = None
    end: str | None = None


class Search(Protocol):
    """What is waited for. It has no state: the position is the place's.

    Attributes:
        key: Equal for searches that find the same at the same position.
        streams: What is read. They need not exist.
        is_eager: Whether what is added is probably what is waited for; see `watches.Watcher`.
    """

    @property
    def key(self) -> Hashable: ...

    @property
    def streams(self) -> Sequence[str]: ...

    @property
    def is_eager(self) -> bool: ...

    def plan(self, position: Any) -> Plan[Look] | None:
        """Return one read as a round trip; None if it may be more."""
        ...

    def plan_bounded(self, position: Any) -> Plan[Look] | None:
        """Return the same with a reply that is surely small; None if there is no such plan."""
        ...

    def last_id(self, position: Any) -> str | None:
        """Return the entry ID that is the position in the only stream; None if there are several."""
        ...

    async def read(self, position: Any) -> Look:
        """Read once.

        Raises:
            BusError: It failed.
        """
        ...

    def nothing(self, position: Any) -> Any:
        """Return what is told those whose time is over."""
        ...


class Told(msgspec.Struct, frozen=True):
    """What a read found, for all who are told.

    Attributes:
        found: As `Search` returned it.
        made: What those who are told make of it together, such as its encoding.
        at_once: Whether each is to be answered as soon as it is told: there are only a few.
    """

    found: Any
    made: dict[Hashable, Any]
    at_once: bool = True


class Place(Protocol):
    """Where sleepers wait."""

    def wake(self) -> None:
        """Look again: something may have changed, or a sleeper's time is over; must not block or raise."""
        ...

    def remove(self, sleeper: Sleeper) -> None:
        """Forget a sleeper that was not told."""
        ...


class Sleeper(msgspec.Struct, eq=False):
    """A wait. Who waits gives a subclass with `told` and `failed`; exactly one is called once, or `leave` is.

    After `told`, `after_told` is called once.

    Attributes:
        deadline: When it ends, by trio's clock. It is told then, too, after one more read.
        account: Who waits, if it is a client.
        may_fail: Whether it goes on waiting if Redis cannot be reached at the beginning. If False, a first
            read that times out is repeated once: Redis was slow, or is known to be unreachable by then.
        has_repeated: Whether that was done.
        place: Where it waits; None before and after.
        since: The number of the first read of the place that counts for it.
        began: When it was made, by trio's clock.
        claim: Its place below the limit of waits; None before it has one.
        is_asleep: Whether its first read has ended; of one that began without a read, whether the server was
            there after that.
    """

    deadline: float
    account: Account | None = None
    may_fail: bool = False
    has_repeated: bool = False
    place: Place | None = None
    since: int = 0
    began: float = msgspec.field(default_factory=trio.current_time)
    claim: Claim | None = None
    is_asleep: bool = False

    def told(self, told: Told) -> None:
        """Take what was found, or that nothing was in time; must not block or raise."""
        raise NotImplementedError

    def after_told(self) -> None:
        """Do what nobody waits for, once all are told who are told the same; must not block or raise."""

    def failed(self, error: Exception) -> None:
        """Take the error that ended the wait; must not block or raise."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether the deadline has come."""
        return self.deadline <= trio.current_time()

    def wake(self) -> None:
        """Have its place read again: the deadline has come."""
        if self.place is not None:
            self.place.wake()

    def end_early(self) -> None:
        """End as if the deadline had come: another client has its place among the waits."""
        self.deadline = -math.inf
        self.wake()

    def leave(self) -> None:
        """Wait no more, and be told nothing. Idempotent."""
        place, self.place = self.place, None
        if place is not None:
            place.remove(self)


def unchanged(found: Any) -> Any:
    """Return what was found as it is."""
    return found


class Wait(msgspec.Struct, frozen=True):
    """A wait that has not begun, as a value: `run_wait` and the direct path run the same.

    Many who wait for the same may have the same one.

    Attributes:
        join: Lets a sleeper wait for it; it may be told, or its error, before that returns.
        deadline: When it ends, by trio's clock; None: `seconds` after it has begun.
        convert: Makes the result of what was found.
        same: Waits with the same value make the same of what was found; None: nobody else does.
        may_fail: See `Sleeper`.
        claim: Its place below the limit of waits, if it has one already; then it has to be run.
        account: Who waits, if that is known.
        reword: Makes the error that the caller gets.
        seconds: How long it takes; for those without a deadline.
    """

    join: Callable[[Sleeper], None]
    deadline: float | None = None
    convert: Callable[[Any], object] = unchanged
    same: Hashable = None
    may_fail: bool = False
    claim: Claim | None = None
    account: Account | None = None
    reword: Callable[[Exception], Exception] | None = None
    seconds: float = 0.0

    def ends(self, now: float) -> float:
        """Return when it ends if it begins now, by trio's clock."""
        return now + self.seconds if self.deadline is None else self.deadline

    def then(self, convert: Callable[[Any], object]) -> Wait:
        """Return the same wait with another result, made of its own."""
        own = self.convert
        return msgspec.structs.replace(self, convert=lambda found: convert(own(found)))


class TaskSleeper(Sleeper, eq=False):
    """The wait of a task; see `run_wait`."""

    woken: trio.Event = msgspec.field(default_factory=trio.Event)
    outcome: Any = None

    def told(self, told: Told) -> None:
        """Let the task return."""
        self.outcome = told
        self.woken.set()

    def failed(self, error: Exception) -> None:
        """Let the task raise."""
        self.outcome = error
        self.woken.set()


async def run_wait(wait: Wait) -> Any:
    """Wait in a task, and return the result.

    Raises:
        BusError: The first read failed; RATE_LIMITED if too many wait.

    Cancellation: leaves nothing behind.
    """
    sleeper = TaskSleeper(
        wait.ends(trio.current_time()),
        account=wait.account or ACCOUNT.get(),
        may_fail=wait.may_fail,
        claim=wait.claim,
    )
    wait.join(sleeper)
    try:
        await sleeper.woken.wait()
    finally:
        sleeper.leave()
    outcome = sleeper.outcome
    if isinstance(outcome, Exception):
        raise outcome if wait.reword is None else wait.reword(outcome)
    return wait.convert(outcome.found)
