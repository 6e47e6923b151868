"""The health watchdog: sends WATCHDOG=1 and the status line to systemd.

Pings come from a task in the event loop (a thread would continue while the loop hangs), and only while every
heartbeat is fresh. An unavailable Redis never withholds a ping, because a restart would not bring it back.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, MutableMapping

import msgspec
import trio

from redstreamd.errors.defects import report_defect
from redstreamd.service.heartbeats import Heartbeats, StaleHeartbeat
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.notify import Notifier, Sent


class PingsWithheld(msgspec.Struct, frozen=True):
    """Pings are withheld, because parts show no progress.

    Attributes:
        stale: Those parts.
    """

    stale: tuple[StaleHeartbeat, ...]


class PingsResumed(msgspec.Struct, frozen=True):
    """Every part shows progress again."""


WatchdogEvent = PingsWithheld | PingsResumed

# How often heartbeats, status and lag are checked.
TICK_SECONDS = 1.0


class WatchdogStatistics(msgspec.Struct, frozen=True):
    """A snapshot of the watchdog.

    Attributes:
        loop_lag_seconds: The longest pass of the event loop in the last tick of at most a second.
        worst_loop_lag_seconds: The longest pass since the watchdog started.
        pings: WATCHDOG=1 messages sent.
        pings_withheld: Ticks at which a ping was due and a heartbeat was stale.
        stale: Names of the heartbeats that were stale at the last check.
    """

    loop_lag_seconds: float
    worst_loop_lag_seconds: float
    pings: int
    pings_withheld: int
    stale: tuple[str, ...]


def watchdog_interval(environ: MutableMapping[str, str] = os.environ) -> float | None:
    """Return the interval of pings in seconds, or None for no pings; remove the variables from `environ`.

    It is half of WATCHDOG_USEC, as sd_watchdog_enabled(3) recommends, if WATCHDOG_PID is this process or not
    set. Invalid values count as not set.
    """
    microseconds = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0):
        return None
    return int(microseconds) / 2_000_000


class Watchdog:
    """A supervised child, to be started first, so that it is stopped last and reports during the stop.

    Behaviour:
        Pings at once, and then every `interval_seconds`. A ping is withheld while a heartbeat is stale; a
        ping that was withheld or could not be sent is tried again every tick. The beginning and the end of
        staleness are events. Pending messages of the notifier are sent every tick.
    """

    def __init__(
        self,
        notifier: Notifier,
        heartbeats: Heartbeats,
        *,
        interval_seconds: float | None,
        status: Callable[[], str] | None = None,
        lag: LoopLag | None = None,
        on_event: Callable[[WatchdogEvent], None] = lambda _event: None,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            notifier: Where to send.
            heartbeats: The heartbeats to check.
            interval_seconds: Time between pings, from `watchdog_interval`; None for no pings.
            status: Returns the status line; called every tick in the event loop, so it must not block. If it
                raises, that is reported once and the former line stays.
            lag: The instrument to use; a new one by default.
            on_event: Called when pings are withheld and sent again; must not raise.
        """
        self._notifier = notifier
        self._heartbeats = heartbeats
        self._interval_seconds = interval_seconds
        self._status = status
        self._shown: str | None = None
        self._is_status_broken = False
        self._lag = lag or LoopLag()
        self._on_event = on_event
        self._last_lag = 0.0
        self._pings = self._withheld = 0
        self._stale: tuple[StaleHeartbeat, ...] = ()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check, ping and report until cancelled."""
        # An interval is a whole number of ticks.
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
                self._check()
                if ticks_per_ping and ticks_to_ping <= 0 and self._ping():
                    ticks_to_ping = ticks_per_ping
                ticks_to_ping -= 1
                # From due time to due time, so that delays do not add up. After a long pause (the machine
                # was suspended) missed ticks are skipped.
                due_at += tick
                if due_at <= (now := trio.current_time()):
                    due_at = now + tick
                await trio.sleep_until(due_at)
        finally:
            trio.lowlevel.remove_instrument(self._lag)

    def statistics(self) -> WatchdogStatistics:
        """Return a snapshot."""
        return WatchdogStatistics(
            loop_lag_seconds=self._last_lag,
            worst_loop_lag_seconds=self._lag.worst_seconds,
            pings=self._pings,
            pings_withheld=self._withheld,
            stale=tuple(heartbeat.name for heartbeat in self._stale),
        )

    def _check(self) -> None:
        self._last_lag = self._lag.take_longest()
        stale = self._heartbeats.stale()
        if stale and not self._stale:
            self._on_event(PingsWithheld(stale))
        elif self._stale and not stale:
            self._on_event(PingsResumed())
        self._stale = stale
        self._show_status()
        self._notifier.flush()

    def _show_status(self) -> None:
        if self._status is None or not self._notifier.is_enabled:
            return
        try:
            text = self._status()
        except Exception as exc:  # noqa: BLE001 - the pings go on
            if not self._is_status_broken:
                report_defect("the status line failed", exc)
            self._is_status_broken = True
            return
        self._is_status_broken = False
        if text != self._shown:
            self._shown = text
            self._notifier.status(text)

    def _ping(self) -> bool:
        """Send the ping that is due; return whether it was sent."""
        if self._stale:
            self._withheld += 1
            return False
        if self._notifier.watchdog() is not Sent.SENT:
            return False
        self._pings += 1
        return True
