"""The figures as an event from time to time, for sites that watch by the journal alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from redstreamd.metrics.figures_events import FiguresEvent, FiguresTaken
from redstreamd.metrics.recent_calls import RecentCalls
from redstreamd.streams.diagnosis.survey_figures import SurveyFigures


class DaemonFigures(msgspec.Struct, frozen=True):
    """What the event says of the daemon itself; see `FiguresTaken`."""

    connections: int
    accepted: int
    memory_bytes: int
    loop_lag_seconds: float


class JournalFigures:
    """A supervised child."""

    def __init__(
        self,
        calls: RecentCalls,
        daemon: Callable[[], DaemonFigures],
        survey: Callable[[], Awaitable[SurveyFigures | None]],
        report: Callable[[FiguresEvent], None],
        *,
        seconds: float,
    ) -> None:
        """Prepare.

        Args:
            calls: The calls since the last event.
            daemon: Returns the daemon's own figures.
            survey: Takes figures of the streams; None if Redis does not give them.
            report: Takes the events.
            seconds: From one event to the next; 0 for none.
        """
        self._calls = calls
        self._daemon = daemon
        self._survey = survey
        self._report = report
        self._seconds = seconds
        self._changed = trio.Event()
        # What tells whether anything happened, at the last event.
        self._last: tuple[int | None, ...] = ()

    def reconfigure(self, *, seconds: float) -> None:
        """Report every so many seconds from now on; 0 for never."""
        self._seconds = seconds
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Report until cancelled."""
        task_status.started()
        last = trio.current_time()
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(last + (self._seconds or float("inf"))) as pause:
                await self._changed.wait()
            if pause.cancelled_caught:
                # Before the survey, which may take some seconds.
                now = trio.current_time()
                self._report(await self._taken(now - last))
                last = now

    async def _taken(self, seconds: float) -> FiguresTaken:
        since, daemon = self._calls.take(), self._daemon()
        survey = await self._survey()
        groups = None if survey is None else survey.groups
        streams = (
            None if survey is None else survey.total,
            None if groups is None else sum(group.pending for group in groups),
            None if groups is None else sum(group.lag for group in groups),
            None if groups is None else sum(group.dead_letters for group in groups),
        )
        before, self._last = self._last, (daemon.accepted, daemon.connections, *streams)
        return FiguresTaken(
            seconds,
            not since.total and before == self._last,
            since.total,
            since.failed,
            self._calls.total,
            self._calls.failed,
            since.quantile(0.99),
            daemon.connections,
            daemon.memory_bytes,
            daemon.loop_lag_seconds,
            *streams,
        )
