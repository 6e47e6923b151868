"""What requests took the server that take far more than their sizes let expect.

What a script does may depend on what Redis holds: a group with ten thousand consumers, or with a hundred
thousand entries that others have. So it is observed, for each script or command and what it works on: those
found dear are taken to be as dear until they are found cheaper. All others cost what their sizes say.

When replies arrive, it is known how long the server had for them at the least and at the most. *At the
least*: from when it had their first request and nothing else of ours, until this process last looked for
input and there was none. So neither the way to the server counts, nor what this process did meanwhile. *At
the most*: from sending to reading. Nobody sees that a server has no core; so a request is found dear only
after several arrivals in a row, as dear as in the least of these, and cheaper after one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import trio

from redstreamd.redisio.redis_request import Place, Request

#: Less than so many seconds for a request beyond what was expected are not looked at: a server without a core
#: would look like that, and as many requests as are in flight are a few milliseconds.
LEAST_SECONDS: Final = 0.0001
#: So many arrivals in a row have to show it.
ARRIVALS: Final = 4
#: Of so many it is kept. Whoever has more forgets those that were found first.
MAX_PLACES: Final = 256
#: What was found is reduced to this part every second, and found again if it is so. Else what a way that has
#: become longer let seem dear would stay so.
_KEPT: Final = 0.9
_REDUCED_EVERY_SECONDS: Final = 1.0
#: The way to the server is the shortest of one to two such periods.
_WAY_SECONDS: Final = 2.0
#: So long it is noted when this process looks for input, after replies that took longer than others.
_NOTED_SECONDS: Final = 10.0
#: A poll that took longer has waited: what is there has just arrived.
_WAITED_SECONDS: Final = 0.00005


class InputPolls(trio.abc.Instrument):
    """When this process has looked for input; noted only while somebody asks, as passes cost more then.

    Attributes:
        unready: What is found in this pass of the scheduler had not arrived before, by `time.perf_counter`.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self.unready = self._began = self._ended = self._until = -math.inf
        self._is_noting = False

    def note(self, now: float) -> None:
        """Note it for some time from now on."""
        self._until = now + _NOTED_SECONDS
        if not self._is_noting:
            self._is_noting = True
            self.unready = self._began = self._ended = -math.inf
            trio.lowlevel.add_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Note when it looks: trio's hook."""
        self._began = time.perf_counter()

    def after_io_wait(self, timeout: float) -> None:
        """Note when it has looked: trio's hook."""
        now = time.perf_counter()
        # What was there at once has arrived since it was looked before.
        self.unready = now if now - self._began > _WAITED_SECONDS else self._ended
        self._ended = now
        if now > self._until:
            self._is_noting = False
            self.unready = -math.inf
            trio.lowlevel.remove_instrument(self)


class ObservedCosts:
    """The costs of what is sent on one connection.

    Attributes:
        dear: Seconds of the server's time beyond what sizes let expect, by what was found to take so long.
        given_at: When the last replies were given to those who asked.
    """

    __slots__ = (
        "_alone",
        "_alone_before",
        "_least_way",
        "_polls",
        "_reduce_at",
        "_rising",
        "_way_ends",
        "_way_now",
        "dear",
        "given_at",
    )

    def __init__(self, polls: InputPolls) -> None:
        """Begin with none."""
        self._polls = polls
        self.dear: Final[dict[Place, float]] = {}
        # In how many arrivals in a row it was found to take so long, at the least.
        self._rising: Final[dict[Place, tuple[int, float]]] = {}
        self.given_at = -math.inf
        # The shortest round trips of what was answered alone, of this period and the last one: what a server
        # does once for many (a write to disk) is no cost of each.
        self._alone: dict[Place, float] = {}
        self._alone_before: dict[Place, float] = {}
        # The shortest round trip of the last two periods, and of this one.
        self._least_way = self._way_now = math.inf
        self._way_ends = self._reduce_at = -math.inf

    def arrived(self, requests: deque[Request], count: int, round_trip: float) -> None:
        """Take note of replies that have arrived and are not given yet.

        Args:
            requests: Those in flight, the oldest first.
            count: How many of them are answered.
            round_trip: Seconds since the first of them was sent.
        """
        now = time.perf_counter()
        if round_trip < self._way_now:
            self._way_now = round_trip
        if now >= self._way_ends:
            self._alone_before, self._alone = self._alone, {}
            before = min(self._least_way, self._way_now)
            self._least_way, self._way_now = self._way_now, round_trip
            self._way_ends = now + _WAY_SECONDS
            if min(self._least_way, self._way_now) - before >= LEAST_SECONDS:
                # What was found contains that. What is dear all the same is found again.
                self.dear.clear()
                self._rising.clear()
        way = min(self._least_way, self._way_now)
        began = max(now - round_trip + way, self.given_at)
        if now - began >= LEAST_SECONDS:
            self._polls.note(now)
        least = self._polls.unready - began
        if count == 1 and requests and (place := requests[0].place) is not None:
            if place not in self._alone:
                _bound(self._alone)
            self._alone[place] = min(self._alone.get(place, math.inf), round_trip)
        if least >= LEAST_SECONDS:
            for request in islice(requests, count):
                if request.place is not None:
                    found = min(
                        self._alone.get(request.place, math.inf),
                        self._alone_before.get(request.place, math.inf),
                    )
                    if way < found < math.inf:
                        way = found
        if least < way:
            # Ways differ by as much: no evidence. So a far server gets about a round trip of work at once.
            least = min(least, 0.0)
        if least < LEAST_SECONDS and not self.dear:
            if self._rising:
                self._rising.clear()
            return
        if now >= self._reduce_at:
            # Also for the time in which nothing arrived.
            periods = 1.0 + max(0.0, now - self._reduce_at) / _REDUCED_EVERY_SECONDS
            self._reduce_at = now + _REDUCED_EVERY_SECONDS
            self._reduce(_KEPT**periods)
        self._observe(list(islice(requests, count)), least, round_trip)

    def _observe(self, answered: Sequence[Request], least: float, most: float) -> None:
        """Learn from what some requests took together: so much at least, and at most."""
        expected = sum(request.seconds for request in answered)
        places = {request.place: request.observed for request in answered if request.place is not None}
        dear, rising = self.dear, self._rising
        if expected > most:
            observed = sum(request.observed for request in answered)
            too_much = expected - (max(least, 0.0) + most) / 2
            part = max(0.0, 1.0 - too_much / observed) if observed else 1.0
            for place in places:
                rising.pop(place, None)
                if place in dear:
                    self._keep(place, dear[place] * part)
            return
        count = sum(request.place is not None for request in answered)
        beyond = (least - expected) / count if count else 0.0
        # The daemon's own are expected to take nothing.
        if beyond < LEAST_SECONDS or any(request.account is None for request in answered):
            for place in places:
                rising.pop(place, None)
            return
        for place, known in places.items():
            arrivals, seconds = rising.pop(place, (0, math.inf))
            seconds = min(seconds, known + beyond)
            if arrivals + 1 >= ARRIVALS:
                self._keep(place, max(seconds, dear.get(place, 0.0)))
            else:
                _bound(rising)
                rising[place] = (arrivals + 1, seconds)

    def _keep(self, place: Place, seconds: float) -> None:
        """Take what a place costs beyond its size to be so much; too little is forgotten."""
        known = self.dear.pop(place, 0.0)
        if seconds >= LEAST_SECONDS:
            if not known:
                _bound(self.dear)
            self.dear[place] = seconds

    def _reduce(self, part: float) -> None:
        for place, seconds in list(self.dear.items()):
            self._keep(place, seconds * part)


def _bound(table: dict[Place, Any]) -> None:
    """Make room for one more."""
    if len(table) >= MAX_PLACES:
        del table[next(iter(table))]


_POLLS: Final = trio.lowlevel.RunVar[InputPolls]("redstreamd input polls")


def input_polls() -> InputPolls:
    """Return the polls of the run of trio that this is called in.

    To be called where `end_of_pass` was: trio calls its instruments in the order in which they were added,
    and what is written when a pass ends is not to look like waiting.
    """
    try:
        return _POLLS.get()
    except LookupError:
        made = InputPolls()
        _POLLS.set(made)
        return made
