"""Those who wait at one place: who they are, that they count as waits, and when the first is due.

Knows nothing of what is read. A place has one alarm for all who wait there, at the soonest deadline: to let a
wait begin and end costs no timer, and most end before their time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from redstreamd.admission.claims import Claim
from redstreamd.errors import BusError
from redstreamd.errors.defects import report_defect
from redstreamd.stream_io import write_together
from redstreamd.streams.background import TOLD_AT_ONCE
from redstreamd.streams.deadlines import Deadline
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.waiting import Sleeper, Told

#: Of up to so many each has its answer before the next is told: to tell ten takes as long as to write to
#: them. The answers of more are written together, see `write_together`.
ANSWERED_AT_ONCE: Final = 16


class Sleepers:
    """The records of those who wait at one place.

    Attributes:
        members: Those who were not told yet, in the order in which they came.
        alarm_at: When the first of those who are asleep is due, or sooner.
    """

    # Invariant: no member that is asleep is due before alarm_at.
    __slots__ = ("_alarm", "_hub", "alarm_at", "members")

    def __init__(self, hub: TailHub) -> None:
        """Begin with nobody."""
        self.members: dict[Sleeper, None] = {}
        self._hub = hub
        self._alarm: Deadline | None = None
        self.alarm_at = math.inf

    def __len__(self) -> int:
        """Return how many were not told yet."""
        return len(self.members)

    def __iter__(self) -> Iterator[Sleeper]:
        """Return those who were not told yet, in the order in which they came."""
        return iter(self.members)

    def fall_asleep(self, sleeper: Sleeper, on_time: Callable[[], None]) -> None:
        """Count a member as a wait until it ends; where that is refused, it fails. See also `wake_by`."""
        if sleeper.claim is None:
            try:
                sleeper.claim = self._hub.waits.claim(sleeper.account, sleeper.end_early)
            except BusError as error:
                self.fail(sleeper, error)
                return
        if sleeper.deadline < self.alarm_at:
            self.wake_by(sleeper.deadline, on_time)

    def wake_by(self, at: float, on_time: Callable[[], None]) -> None:
        """Call a function once no later than at a time, by trio's clock: the same for all calls."""
        if at < self.alarm_at:
            if self._alarm is not None:
                self.stop_alarm()
            self.alarm_at = at
            # Not kept otherwise: it belongs to what has this.
            self._alarm = self._hub.deadlines.add(at, partial(self._ring, on_time))

    def stop_alarm(self) -> None:
        """Do not call the function. Idempotent."""
        alarm, self._alarm, self.alarm_at = self._alarm, None, math.inf
        if alarm is not None:
            self._hub.deadlines.remove(alarm)

    def _ring(self, on_time: Callable[[], None]) -> None:
        self._alarm, self.alarm_at = None, math.inf
        on_time()

    def tell(self, sleepers: Sequence[Sleeper], found: Any) -> None:
        """Take members out, and tell them in parts; who leaves meanwhile is told nothing."""
        if len(sleepers) == len(self.members):
            self.members.clear()
        else:
            for sleeper in sleepers:
                self.members.pop(sleeper, None)
        told = Told(found, {}, at_once=len(sleepers) <= ANSWERED_AT_ONCE)
        if len(sleepers) > TOLD_AT_ONCE:
            self._hub.background.spread(self._tell_in_parts(sleepers, told))
        else:
            self._tell(sleepers, told)

    def _tell_in_parts(self, sleepers: Sequence[Sleeper], told: Told) -> Iterator[None]:
        for begin in range(0, len(sleepers), TOLD_AT_ONCE):
            self._tell(sleepers[begin : begin + TOLD_AT_ONCE], told)
            yield

    def _tell(self, sleepers: Sequence[Sleeper], told: Told) -> None:
        ended: list[Sleeper] = []

        def tell() -> None:
            for sleeper in sleepers:
                # Else it has left.
                if sleeper.place is not None:
                    sleeper.place = None
                    try:
                        sleeper.told(told)
                    except Exception as exc:  # noqa: BLE001 - the others, and all that the hub does, depend on it
                        report_defect("a wait could not be told what was found", exc)
                    ended.append(sleeper)

        # What nobody waits for follows on all answers.
        if len(sleepers) == 1:
            tell()
        else:
            write_together(tell)
        claims: list[Claim] = []
        for sleeper in ended:
            try:
                sleeper.after_told()
            except Exception as exc:  # noqa: BLE001 - as above
                report_defect("the end of a wait could not be noted", exc)
            claim, sleeper.claim = sleeper.claim, None
            if claim is not None:
                claims.append(claim)
        self._hub.waits.release_all(claims)

    def fail(self, sleeper: Sleeper, error: Exception) -> None:
        """Take a member out, and tell it an error."""
        self.forget(sleeper)
        try:
            sleeper.failed(error)
        except Exception as exc:  # noqa: BLE001 - as above
            report_defect("a wait could not be told its error", exc)

    def forget(self, sleeper: Sleeper) -> None:
        """Take somebody out, if it is still a member, and count it no more."""
        self.members.pop(sleeper, None)
        self._end(sleeper)

    def _end(self, sleeper: Sleeper) -> None:
        sleeper.place = None
        claim, sleeper.claim = sleeper.claim, None
        if claim is not None:
            self._hub.waits.release(claim)
