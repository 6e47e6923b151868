"""Which consumer groups need the attention of an administrator, by the figures of a survey."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

import msgspec

from redstreamd.streams.diagnosis.survey_figures import GroupFigures, SurveyFigures

#: Undelivered entries, and seconds for which an entry may be pending, from which a group is shown.
MANY_LAGGING: Final = 100
OLD_SECONDS: Final = 3_600.0


class Trouble(enum.Enum):
    """Why a group needs attention; the worst first."""

    NO_CONSUMER = "no_consumer"
    MANY_PENDING = "many_pending"
    DEAD_LETTERS = "dead_letters"
    OLD_PENDING = "old_pending"
    LAGGING = "lagging"


def troubles_of(group: GroupFigures, *, many_pending: int) -> tuple[Trouble, ...]:
    """Return why a group needs attention, the worst first; empty if it does not.

    A group without consumers that nobody waits for is none: it has just been created.

    Args:
        group: Its figures.
        many_pending: Pending entries that are not too many; 0: any number is not.
    """
    waiting = group.pending + group.lag
    found = {
        Trouble.NO_CONSUMER: not group.consumers and waiting,
        Trouble.MANY_PENDING: many_pending and group.pending > many_pending,
        Trouble.DEAD_LETTERS: group.dead_letters,
        Trouble.OLD_PENDING: (group.oldest_pending_seconds or 0.0) > OLD_SECONDS,
        Trouble.LAGGING: group.lag > MANY_LAGGING,
    }
    return tuple(trouble for trouble, is_so in found.items() if is_so)


class GroupAttention(msgspec.Struct, frozen=True):
    """A group that needs attention; for the other attributes see `GroupFigures`.

    Attributes:
        why: Values of `Trouble`, the worst first.
    """

    stream: str
    group: str
    why: Sequence[str]
    consumers: int
    pending: int
    oldest_pending_seconds: float | None
    lag: int
    dead_letters: int


class Attention(msgspec.Struct, frozen=True):
    """The groups that need attention.

    Attributes:
        groups: The worst first; all of them, so that those that a caller may not see can be left out.
        streams_left_out: Streams that were not looked at.
    """

    groups: Sequence[GroupAttention]
    streams_left_out: int


def attention(figures: SurveyFigures, *, many_pending: int) -> Attention:
    """Return the groups that need attention."""
    order = list(Trouble)
    found = [(troubles_of(each, many_pending=many_pending), each) for each in figures.groups]
    needing = [(why, each) for why, each in found if why]
    needing.sort(key=lambda each: (order.index(each[0][0]), -each[1].pending - each[1].lag))
    return Attention([_shown(each, why) for why, each in needing], figures.streams_omitted)


def _shown(group: GroupFigures, why: Sequence[Trouble]) -> GroupAttention:
    return GroupAttention(
        group.stream,
        group.group,
        [each.value for each in why],
        group.consumers,
        group.pending,
        group.oldest_pending_seconds,
        group.lag,
        group.dead_letters,
    )
