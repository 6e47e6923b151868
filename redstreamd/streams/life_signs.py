"""Whether a server is there on whose pushes somebody relies without having asked it anything.

Who begins to wait where nothing is known to follow sends no read, so nothing would tell that the server
hangs: what was never looked at is no empty answer. A push or a reply after that is a sign of life. Where none
comes for a while, the server is asked, once for all who rely on it; while it talks, nothing is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

import trio

from redstreamd.errors import BusError
from redstreamd.redisio.redis_errors import ConnectionEnded
from redstreamd.streams.deadlines import Deadlines

#: Seconds without a sign of life after which the server is asked.
QUIET_SECONDS: Final = 0.5


class Relying(Protocol):
    """Who relies on servers.

    Attributes:
        keys: The keys whose changes they push.
    """

    keys: frozenset[bytes]

    def heard(self, at: float) -> None:
        """Note that it was there at a time, by trio's clock; must not block or raise."""
        ...

    def unheard(self) -> None:
        """Note that it did not answer; must not block or raise."""
        ...


class LifeSigns:
    """Signs of life of one server, on one connection at a time."""

    def __init__(self, deadlines: Deadlines, ask: Callable[[Callable[[Any], None]], None]) -> None:
        """Expect nothing.

        Args:
            deadlines: Keep the time.
            ask: Sends a command, and calls a function with its reply or what came in the place of one.
        """
        self._deadlines = deadlines
        self._ask = ask
        # The last sign of life, by trio's clock.
        self._heard_at = -math.inf
        # When those who rely on the server began to, and when they did last; the first is the oldest.
        self._relying: dict[Relying, list[float]] = {}
        # Whether `_on_time` is to be called. While some come it is called again and again: to set a deadline
        # for each takes a pass.
        self._is_timed = False

    def note(self) -> None:
        """Take note of a sign of life."""
        self._heard_at = trio.current_time()

    def expect(self, who: Relying, now: float) -> None:
        """Tell somebody whether the server is there from now on; once for all calls until then."""
        relying = self._relying
        if not self._is_timed:
            self._is_timed = True
            self._deadlines.add(now + QUIET_SECONDS, self._on_time)
        known = relying.get(who)
        if known is None:
            relying[who] = [now, now]
        else:
            known[1] = now

    def _on_time(self) -> None:
        heard_at, relying = self._heard_at, self._relying
        # Whoever is told may begin anew.
        self._relying = {}
        self._is_timed = bool(relying)
        if not relying:
            return
        quiet = {who: times for who, times in relying.items() if times[1] >= heard_at}
        now = trio.current_time()
        due = next(iter(quiet.values()))[0] + QUIET_SECONDS if quiet else math.inf
        if due > now:
            self._relying = quiet
        else:
            self._ask(partial(self._on_reply, list(quiet), now))
        self._deadlines.add(due if now < due < math.inf else now + QUIET_SECONDS, self._on_time)
        for who, (first, _) in relying.items():
            if first < heard_at:
                who.heard(heard_at)

    def _on_reply(self, asked: list[Relying], asked_at: float, reply: Any) -> None:
        # Any reply is a sign of life, also an error.
        is_there = not isinstance(reply, ConnectionEnded | BusError)
        if is_there:
            self.note()
        for who in asked:
            if is_there:
                who.heard(asked_at)
            else:
                who.unheard()
