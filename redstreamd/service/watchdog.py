"""The health watchdog: tells systemd that the daemon is well for as long as it is, and how it is.

Owns the judgement. WATCHDOG=1 comes from a task in the same event loop as everything else
(a thread would go on pinging while the loop hangs), and only while every registered part
shows progress. Refuses to know about Redis: a restart would not bring Redis back, so Redis
being away is a line of status and never a reason to withhold the ping.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, MutableMapping

import attrs
import trio

from redstreamd.service.heartbeats import Heartbeats, StaleMark
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.notify import Notifier, Sent

logger = logging.getLogger(__name__)

# How often status and lag are looked at; the status line changes at most this often.
TICK_SECONDS = 1.0


@attrs.frozen
class WatchdogStatistics:
    """How the daemon has been.

    Attributes:
        loop_lag_seconds: The longest pass of the event loop in the last interval of a second or less.
        worst_loop_lag_seconds: The longest pass since the watchdog started.
        pings: WATCHDOG=1 messages sent.
        pings_withheld: Ticks at which one was due and some part showed no progress.
        stale: Names of the parts that showed no progress when last looked at.
    """

    loop_lag_seconds: float
    worst_loop_lag_seconds: float
    pings: int
    pings_withheld: int
    stale: tuple[str, ...]


def watchdog_interval(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """Return how often to ping, in seconds, or None if nobody expects it; cleans the environment.

    Half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends, and only if WATCHDOG_PID
    is this process or not given. Nonsense in either counts as not given, because a daemon
    that serves is better than one that does not start.
    """
    microseconds = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0):
        return None
    return int(microseconds) / 2_000_000


class Watchdog:
    """A supervised child; start it first, so that it is stopped last and reports through the whole stop.

    Behaviour:
        Pings at once, and then each time `interval_seconds` have passed since the last ping that
        was sent. A ping that is due while a part shows no progress is withheld, and one that
        could not be sent is repeated, every tick. The beginning and the end of a lack of progress
        are logged. What the notifier owes is tried again every tick.
    """

    def __init__(
        self,
        notifier: Notifier,
        heartbeats: Heartbeats,
        *,
        interval_seconds: float | None,
        status: Callable[[], str] | None = None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            notifier: Where to send.
            heartbeats: Who has to show progress.
            interval_seconds: Time between pings, from `watchdog_interval`; None for no pings.
            status: Returns the line to show; called every tick in the event loop, so it must not
                block. If it raises, that is logged once and the former line stays.
        """
        self._notifier = notifier
        self._heartbeats = heartbeats
        self._interval_seconds = interval_seconds
        self._status = status
        self._shown: str | None = None
        self._is_status_broken = False
        self._lag = LoopLag()
        self._last_lag = 0.0
        self._pings = self._withheld = 0
        self._stale: tuple[StaleMark, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch, ping and report until cancelled."""
        # A whole number of ticks makes up an interval, however short it is.
        tick, ticks_per_ping = TICK_SECONDS, 0
        if self._interval_seconds is not None:
            ticks_per_ping = math.ceil(self._interval_seconds / TICK_SECONDS)
            tick = self._interval_seconds / ticks_per_ping
        trio.lowlevel.add_instrument(self._lag)
        try:
            task_status.started()
            due_at = trio.current_time()
            ticks_to_ping = 0
            while True:
                self._look()
                if ticks_per_ping and ticks_to_ping <= 0 and self._ping():
                    ticks_to_ping = ticks_per_ping
                ticks_to_ping -= 1
                # From due time to due time, so that lateness does not add up; but after a long pause
                # (the machine was suspended) not one tick for each that was missed.
                due_at += tick
                if due_at <= (now := trio.current_time()):
                    due_at = now + tick
                await trio.sleep_until(due_at)
        finally:
            trio.lowlevel.remove_instrument(self._lag)

    def statistics(self) -> WatchdogStatistics:
        """Return how the daemon has been."""
        return WatchdogStatistics(
            loop_lag_seconds=self._last_lag,
            worst_loop_lag_seconds=self._lag.worst_seconds,
            pings=self._pings,
            pings_withheld=self._withheld,
            stale=tuple(heartbeat.name for heartbeat in self._stale),
        )

    def _look(self) -> None:
        self._last_lag = self._lag.take_longest()
        stale = self._heartbeats.stale()
        if stale and not self._stale:
            logger.error("the watchdog is not served: %s", "; ".join(map(str, stale)))
        elif self._stale and not stale:
            logger.warning("the watchdog is served again: every part shows progress")
        self._stale = stale
        self._show_status()
        self._notifier.flush()

    def _show_status(self) -> None:
        if self._status is None or not self._notifier.is_enabled:
            return
        try:
            text = self._status()
        except Exception:
            if not self._is_status_broken:
                logger.exception("the status line could not be made")
            self._is_status_broken = True
            return
        self._is_status_broken = False
        if text != self._shown:
            self._shown = text
            self._notifier.status(text)

    def _ping(self) -> bool:
        """Send the ping that is due; return whether it went out."""
        if self._stale:
            self._withheld += 1
            return False
        if self._notifier.watchdog() is not Sent.SENT:
            return False
        self._pings += 1
        return True
