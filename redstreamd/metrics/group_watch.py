"""Looks at the groups from time to time, and reports those that need attention: once for each reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import trio

from redstreamd.metrics.figures_events import (
    FiguresEvent,
    GroupInTrouble,
    GroupOutOfTrouble,
    MoreGroupsInTrouble,
)
from redstreamd.metrics.group_attention import Trouble, troubles_of
from redstreamd.streams.diagnosis.survey_figures import GroupFigures, SurveyFigures

#: What is reported; the others are shown by `redstreamd status`, and told by figures.
_REPORTED: Final = frozenset({Trouble.NO_CONSUMER, Trouble.MANY_PENDING, Trouble.DEAD_LETTERS})
#: Looks in a row at which something is so before it is believed: a consumer may be between two takes.
_LOOKS: Final = 2
#: Beginnings reported one by one of one look.
_AT_ONCE: Final = 10

_Key = tuple[str, str, Trouble]


class _Episode(msgspec.Struct):
    """A reason why a group needs attention.

    Attributes:
        streak: Looks in a row at which that was other than is reported.
        began_at: When it was reported, in trio's time; None before.
    """

    streak: int = 0
    began_at: float | None = None


class GroupWatch:
    """A supervised child."""

    def __init__(
        self,
        figures: Callable[[], Awaitable[SurveyFigures | None]],
        report: Callable[[FiguresEvent], None],
        *,
        seconds: float,
        many_pending: int,
    ) -> None:
        """Prepare.

        Args:
            figures: Takes figures of the groups; None if Redis does not give them.
            report: Takes the events.
            seconds: From one look to the next; 0 for none.
            many_pending: Pending entries that are not too many; 0 for any number.
        """
        self._figures = figures
        self._report = report
        self._episodes: dict[_Key, _Episode] = {}
        self._changed = trio.Event()
        self._seconds = seconds
        self._many_pending = many_pending

    def reconfigure(self, *, seconds: float, many_pending: int) -> None:
        """Take other settings, from now on."""
        self._seconds, self._many_pending = seconds, many_pending
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled. That Redis is not there is another part's to report, and ends no episode."""
        task_status.started()
        while True:
            self._changed = trio.Event()
            with trio.move_on_after(self._seconds or float("inf")) as pause:
                await self._changed.wait()
            if pause.cancelled_caught and (figures := await self._figures()) is not None:
                self.look(figures)

    def look(self, figures: SurveyFigures) -> None:
        """Report what has changed."""
        now = trio.current_time()
        seen: dict[_Key, GroupFigures] = {
            (group.stream, group.group, trouble): group
            for group in figures.groups
            for trouble in troubles_of(group, many_pending=self._many_pending)
            if trouble in _REPORTED
        }
        begun = []
        for key in seen:
            self._episodes.setdefault(key, _Episode())
        for key, episode in list(self._episodes.items()):
            # Whether it is now as it was reported last.
            as_before = (key in seen) == (episode.began_at is not None)
            episode.streak = 0 if as_before else episode.streak + 1
            if episode.began_at is None and key not in seen:
                del self._episodes[key]
            elif episode.streak == _LOOKS:
                episode.streak = 0
                if episode.began_at is None:
                    episode.began_at = now
                    begun.append(key)
                else:
                    del self._episodes[key]
                    self._report(GroupOutOfTrouble(*key, now - episode.began_at))
        for key in begun[:_AT_ONCE]:
            group = seen[key]
            self._report(
                GroupInTrouble(*key, group.pending, group.lag, group.dead_letters, self._many_pending)
            )
        if (more := len(begun) - _AT_ONCE) > 0:
            self._report(MoreGroupsInTrouble(more))
