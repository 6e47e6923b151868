"""Waiting for something that a read of Redis does not find yet: the one loop of every such wait.

All who wait for the same at the same position are at one `Place`, which reads once for all of them, and again
when the tail hub wakes it. A wait is a record there (`Sleeper`); a task that waits has one, too. Who comes
while a read is on the way takes part only if the read is not sent yet: nobody is told of what was read before
they asked. After a read that found nothing, and until the hub says that a key may have changed, who joins the
place sleeps without a read. What a read found is kept until all whom it concerns were told, and no longer.

How a place reads: `Search.plan` is sent without a task, if there is one. What is more than one round trip,
and every error, is gone on with in a task of the hub. An outage of Redis is waited out, but for those whose
first read fails: they get the error. Of streams on several nodes, those that can be read are.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final

import trio

from redstreamd.admission.turns import ACCOUNT
from redstreamd.errors import BusError, Code
from redstreamd.redisio import Role
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_request import Request
from redstreamd.stream_io import flush_at_end_of_pass
from redstreamd.streams.deadlines import Deadline
from redstreamd.streams.plans import Plan, UnfinishedError, complete_plan
from redstreamd.streams.sleepers import Sleepers
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.waiting import (
    RETRY_SECONDS,
    TRANSIENT,
    Look,
    ReadResult,
    Search,
    Sleeper,
)


class Place:
    """All who wait for the same at the same position. A watcher of the tail hub.

    Attributes:
        keys: The streams.
        is_eager: See `Search`.
    """

    # Invariants: _request is for the read under way, while _is_looking. Without one, each sleeper is asleep,
    # and whatever happened since the last read was sent is yet to wake the place.
    __slots__ = (
        "_armed_by",
        "_is_arming",
        "_is_looking",
        "_is_unsent",
        "_is_watching",
        "_is_woken",
        "_looks",
        "_nothing_since",
        "_places",
        "_position",
        "_reading",
        "_request",
        "_retry",
        "_search",
        "_sleepers",
        "is_eager",
        "keys",
    )

    def __init__(self, places: Places, search: Search, position: Hashable) -> None:
        """Made by `Places`."""
        self.keys = frozenset([stream.encode() for stream in search.streams])
        self.is_eager = search.is_eager
        self._places = places
        self._search = search
        self._position = position
        self._sleepers = Sleepers(places.hub)
        # Reads so far, the one under way included.
        self._looks = 0
        self._is_looking = False
        self._request: Request | None = None
        # Whether that arms the key, too.
        self._is_arming = False
        # A read in a task that has not begun.
        self._is_unsent = False
        # Around a read in a task that has begun.
        self._reading: trio.CancelScope | None = None
        # A change came while its read was on the way.
        self._is_woken = False
        # Whether the hub wakes it.
        self._is_watching = False
        # What `TailHub.armed_by` returned before the read under way, and before the last that found nothing.
        self._armed_by: tuple[int, ...] = ()
        self._nothing_since: tuple[int, ...] = ()
        self._retry: Deadline | None = None

    @property
    def waiting(self) -> int:
        """How many sleep; 0 while something is read."""
        return 0 if self._is_looking else len(self._sleepers)

    def watch(self) -> None:
        """Have the hub wake it, also before somebody waits. For one that nobody else uses."""
        if not self._is_watching:
            self._is_watching = True
            self._places.hub.add(self)

    def begin_at_end(self) -> None:
        """Sleep without a read if a read at another place has found that nothing follows the position."""
        hub, last_id = self._places.hub, self._search.last_id(self._position)
        if last_id is None:
            return
        (name,) = self.keys
        if number := hub.nothing_after(name, last_id):
            self._nothing_since = (number,)
            self.watch()

    def join(self, sleeper: Sleeper) -> None:
        """Let somebody wait here. The sleeper may be told its error before this returns."""
        sleeper.place = self
        if sleeper.claim is not None:
            sleeper.claim.end = sleeper.end_early
        self._sleepers.members[sleeper] = None
        if self._is_looking:
            sleeper.since = self._looks if self._can_be_joined else self._looks + 1
        elif (self in self._places.sure or self._knows_of_nothing) and not (
            sleeper.deadline < self._sleepers.alarm_at and sleeper.is_over
        ):
            # It is not read for: a read that fails later is its first one.
            sleeper.since = self._looks + 1
            self._sleepers.fall_asleep(sleeper, self._on_time)
            self._places.hub.expect_life(self, sleeper.began)
            if not self._sleepers.members:
                # There are too many waits.
                self._close_if_empty()
        else:
            sleeper.since = self._looks + 1
            self._look()

    def remove(self, sleeper: Sleeper) -> None:
        """Forget a sleeper that was not told; see `Sleeper.leave`."""
        self._sleepers.forget(sleeper)
        self._close_if_empty()

    def wake(self) -> None:
        """Read again, or once the read under way has ended."""
        if self._is_looking:
            self._is_woken = self._is_woken or not self._can_be_joined
        elif self._sleepers:
            self._look()
            if self._request is not None:
                # All whom it concerns are here already.
                self._request.send_now()

    def heard(self, at: float) -> None:
        """Take those who have not been read for as if they had, if the server was there after they came."""
        if not self._is_looking:
            for sleeper in self._sleepers:
                if sleeper.since > self._looks and sleeper.began < at:
                    sleeper.is_asleep = True

    def unheard(self) -> None:
        """Read for those who have not been read for. That the server did not answer was their first try."""
        if self._is_looking:
            return
        unread = [
            sleeper for sleeper in self._sleepers if sleeper.since > self._looks and not sleeper.is_asleep
        ]
        for sleeper in unread:
            sleeper.has_repeated = True
        if unread:
            self.wake()

    def _on_time(self) -> None:
        """Read once more if somebody's time is over."""
        now = trio.current_time()
        soonest = min((sleeper.deadline for sleeper in self._sleepers), default=math.inf)
        if soonest <= now:
            self.wake()
        else:
            self._sleepers.wake_by(soonest, self._on_time)

    @property
    def _can_be_joined(self) -> bool:
        """Whether what is asked now is asked before the read under way is sent."""
        return self._is_unsent or (self._request is not None and not self._request.sent)

    @property
    def _knows_of_nothing(self) -> bool:
        """Whether a read has found nothing, every change since then would have been pushed, and one may wait.

        Once found out it counts until the pass ends or the place reads, because many come together. A key
        that has changed meanwhile is armed again, which wakes the place.
        """
        sure, known = self._places.sure, self._nothing_since
        if self in sure:
            return True
        is_known = (
            self._is_watching
            and bool(known)
            and all(known)
            and known == self._places.hub.armed_by(self.keys)
            # Else any one of them would be a sign of life of all.
            and self._places.hub.are_at_one_server(self.keys)
            and self._places.are_connected(self._search.streams)
            and not self._places.hub.draining
        )
        if is_known:
            if not sure:
                flush_at_end_of_pass(self._places.end_pass)
            sure.add(self)
        return is_known

    # Reading

    def _look(self) -> None:
        places = self._places
        self._looks += 1
        self._is_looking, self._is_woken = True, False
        places.sure.discard(self)
        if self._retry is not None:
            places.hub.deadlines.remove(self._retry)
            self._retry = None
        try:
            if self._is_watching and self._read_and_arm():
                return
            self._armed_by = places.hub.armed_by(self.keys)
            plan = self._search.plan(self._position)
        except Exception as error:  # noqa: BLE001 - the boundary: a defect must not leave anybody asleep
            self._end_failed(error)
            return
        if plan is None:
            self._is_unsent = True
            places.hub.background.start(self._read)
            return
        try:
            self._request = places.redis.queues[plan.role].submit(
                plan.write, partial(self._on_reply, plan), plan.stream
            )
        except Exception as error:  # noqa: BLE001 - `complete_plan` knows what to do about it
            self._complete(plan, error, trio.current_time() + places.redis.command_timeout)

    def _read_and_arm(self) -> bool:
        """Send a read that arms the key, too; return whether that is possible."""
        plan = self._search.plan_bounded(self._position)
        if plan is None:
            return False
        sent = self._places.hub.arm_by_reading(self, plan.write, partial(self._on_reply, plan))
        if sent is None:
            return False
        self._request, number = sent
        self._is_arming, self._armed_by = True, (number,)
        return True

    def _on_reply(self, plan: Plan[Look], reply: Any) -> None:
        request, self._request = self._request, None
        self._is_arming = False
        if isinstance(reply, Exception):
            # A request that was sent has had its time since then.
            deadline = (
                request.deadline
                if request is not None and request.sent
                else trio.current_time() + self._places.redis.command_timeout
            )
            self._complete(plan, reply, deadline)
            return
        try:
            look = plan.read(reply)
        except UnfinishedError as unfinished:
            self._places.hub.background.start(partial(self._read, unfinished.go_on))
        except Exception as error:  # noqa: BLE001 - as above
            self._end_failed(error)
        else:
            self._end(look)

    def _complete(self, plan: Plan[Look], after: Exception, deadline: float) -> None:
        """Go on with a read in a task."""
        read = partial(complete_plan, self._places.redis, plan, after, deadline)
        self._places.hub.background.start(partial(self._read, read))

    async def _read(self, read: Callable[[], Awaitable[Look]] | None = None) -> None:
        self._is_unsent = False
        if not self._sleepers:
            self._is_looking = False
            self._close_if_empty()
            return
        # Its own client's work, whoever made the change.
        ACCOUNT.set(next(iter(self._sleepers)).account)
        look: Look | Exception | None = None
        with trio.CancelScope() as self._reading:
            try:
                look = await (self._search.read(self._position) if read is None else read())
            except Exception as error:  # noqa: BLE001 - as above
                look = error
        self._reading = None
        if look is None:
            # Those for whom it was have left. Whoever has come meanwhile is read for anew.
            self._is_looking = False
            if self._sleepers:
                self._look()
            else:
                self._close_if_empty()
        elif isinstance(look, Exception):
            self._end_failed(look)
        else:
            self._end(look)

    # Ends of a read

    def _end(self, look: Look) -> None:
        self._is_looking = False
        # Before anybody is told, who may come again at once and have it look anew.
        sleepers, armed_by = self._sleepers, self._armed_by
        is_found = look.result is ReadResult.FOUND
        if is_found:
            looks = self._looks
            sleepers.tell([each for each in sleepers.members if each.since <= looks], look.found)
        if look.end is not None:
            (name,) = self.keys
            self._places.hub.note_end(name, armed_by[0], look.end)
        if is_found:
            self._close_if_empty()
            if sleepers:
                # They came after it was sent.
                self._look()
            return
        self._nothing_since = armed_by if look.result is ReadResult.EMPTY else ()
        self._end_empty(look.position)
        if sleepers and not self._is_looking and look.result is ReadResult.MORE:
            self._look()

    def _end_empty(self, position: Hashable) -> None:
        """Tell those whose time is over that there is nothing, and let the others sleep."""
        draining, now, sleepers = self._places.hub.draining, trio.current_time(), self._sleepers
        told: list[Sleeper] = []
        newcomers: list[Sleeper] = []
        late = False
        knows = None
        soonest = math.inf
        for sleeper in sleepers.members:
            if sleeper.since > self._looks:
                if knows is None:
                    knows = self._knows_of_nothing and not draining
                if not knows or sleeper.deadline <= now:
                    late = True
                    continue
                sleeper.since = self._looks
            if draining or sleeper.deadline <= now:
                told.append(sleeper)
            elif not sleeper.is_asleep:
                newcomers.append(sleeper)
            elif sleeper.deadline < soonest:
                soonest = sleeper.deadline
        if told:
            sleepers.tell(told, self._search.nothing(position))
            self._close_if_empty()
        sleepers.wake_by(soonest, self._on_time)
        if position != self._position and sleepers:
            self._places.move(self, self._search, self._position, position)
        for sleeper in newcomers:
            # Else it was moved to another place.
            if sleeper.place is self:
                sleeper.is_asleep = True
                sleepers.fall_asleep(sleeper, self._on_time)
        if self._is_looking:
            return
        if not sleepers:
            self._close_if_empty()
            return
        hub = self._places.hub
        if self._is_watching:
            hub.arm(self)
        else:
            self.watch()
            # What came before a key was armed was not pushed. If one is being armed, that wakes.
            armed = hub.armed_by(self.keys)
            late = late or any(
                number and number != before for number, before in zip(armed, self._armed_by, strict=True)
            )
        if (late or self._is_woken) and not self._is_looking:
            self._look()

    def _end_failed(self, error: Exception) -> None:
        self._is_looking = False
        self._nothing_since = ()
        code = error.code if isinstance(error, BusError) else None
        sleepers = self._sleepers
        for sleeper in [each for each in sleepers if each.since <= self._looks]:
            if code not in TRANSIENT:
                sleepers.fail(sleeper, error)
            elif not (sleeper.is_asleep or sleeper.may_fail):
                if code is Code.TIMEOUT and not sleeper.has_repeated and not sleeper.is_over:
                    sleeper.has_repeated = True
                    sleeper.since = self._looks + 1
                else:
                    sleepers.fail(sleeper, error)
        self._end_empty(self._position)
        if sleepers and not self._is_looking:
            at = trio.current_time() + RETRY_SECONDS
            self._retry = self._places.hub.deadlines.add(at, self.wake)

    def hand_over(self, other: Place) -> None:
        """Let all who wait here wait at another place, which has read less lately; see `Places.move`."""
        sleepers = dict(self._sleepers.members)
        self._sleepers.members.clear()
        self._sleepers.stop_alarm()
        for sleeper in sleepers:
            sleeper.place = other
            sleeper.since = other._looks + 1
            # A read has succeeded here.
            sleeper.may_fail = True
        other._sleepers.members |= sleepers
        other.wake()

    def move(self, position: Hashable) -> None:
        """Go on from another position; see `Places.move`."""
        self._position = position

    def _close_if_empty(self) -> None:
        if self._sleepers:
            return
        if self._request is not None and not self._is_arming and self._request.take_back():
            self._request, self._is_looking = None, False
        if self._reading is not None:
            # It may have to look through many entries, and would go on for an account that was closed.
            self._reading.cancel()
        # Else who comes before the reply waits here.
        if not self._is_looking:
            self.close()

    def close(self) -> None:
        """Have the hub wake it no more. For one where nobody waits; idempotent."""
        self._places.forget(self, self._search, self._position)
        self._sleepers.stop_alarm()
        if self._retry is not None:
            self._places.hub.deadlines.remove(self._retry)
            self._retry = None
        if self._is_watching:
            self._is_watching = False
            self._places.hub.remove(self)


class Places:
    """The places of all waits.

    Attributes:
        redis: Is read.
        hub: Knows of changes.
        sure: Places that were found to know of nothing in this pass; see `Place`.
    """

    def __init__(self, redis: Redis, hub: TailHub) -> None:
        """Read `redis` when `hub` says so."""
        self.redis: Final = redis
        self.hub: Final = hub
        self.sure: Final[set[Place]] = set()
        self._places: dict[tuple[Hashable, Hashable], Place] = {}

    def __len__(self) -> int:
        """Return how many places there are."""
        return len(self._places)

    def join(self, search: Search, position: Hashable, sleeper: Sleeper) -> None:
        """Let somebody wait for what a search finds from a position on; see `Place.join`."""
        key = (search.key, position)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(self, search, position)
            place.begin_at_end()
        place.join(sleeper)

    def move(self, place: Place, search: Search, before: Hashable, position: Hashable) -> None:
        """Let a place go on from another position; if another is there already, all wait at that one."""
        del self._places[search.key, before]
        other = self._places.get((search.key, position))
        if other is None:
            self._places[search.key, position] = place
            place.move(position)
        else:
            place.hand_over(other)

    def forget(self, place: Place, search: Search, position: Hashable) -> None:
        """Forget a place where nobody waits. Idempotent."""
        if self._places.get((search.key, position)) is place:
            del self._places[search.key, position]

    def end_pass(self) -> bool:
        """Find out anew in the next pass what places know."""
        self.sure.clear()
        return False

    def are_connected(self, streams: Sequence[str]) -> bool:
        """Return whether reads of them would be sent now, and changes would be pushed."""
        is_connected = self.redis.is_connected
        # One node has one answer for all.
        asked = streams if len(self.redis.nodes()) > 1 else streams[:1]
        return all(
            is_connected(Role.WATCH, key=stream) and is_connected(Role.BULK, key=stream) for stream in asked
        )
