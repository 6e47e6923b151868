"""The figures of a survey of streams, as values."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class GroupFigures(msgspec.Struct, frozen=True):
    """A consumer group; None for what is not known.

    Attributes:
        stream: Its stream.
        group: Its name.
        consumers: Its consumers, the placeholder of removed ones included.
        active_consumers: Those that got or claimed an entry of late.
        pending: Entries delivered and not acknowledged.
        oldest_pending_seconds: How long ago the first of these was added, by its ID.
        lag: Entries not yet delivered; an estimate where the server lost count.
        acknowledged_per_second: Entries finished of late.
        processing_seconds: How long an entry was pending of late, in the mean.
        dead_letters: Its dead letters.
    """

    stream: str
    group: str
    consumers: int
    active_consumers: int | None
    pending: int
    oldest_pending_seconds: float | None
    lag: int
    acknowledged_per_second: float | None
    processing_seconds: float | None
    dead_letters: int


class StreamFigures(msgspec.Struct, frozen=True):
    """A stream; None for what is not known.

    Attributes:
        stream: Its name.
        entries: Entries in it.
        added: Entries ever added.
        growth_per_second: Entries by which it grew of late, after trimming.
        memory_bytes: Its memory with its groups, as the server estimates it.
        last_entry_seconds: How long ago the last entry was added, by its ID; None if there never was one.
        processing_seconds: How long an entry was pending of late, in the mean of its groups.
        groups: Number of its groups.
    """

    stream: str
    entries: int
    added: int | None
    growth_per_second: float | None
    memory_bytes: int | None
    last_entry_seconds: float | None
    processing_seconds: float | None
    groups: int


class SurveyFigures(msgspec.Struct, frozen=True):
    """The figures of one survey.

    Attributes:
        streams: The chosen streams, those with most to do first.
        groups: The chosen groups of these, those with most to do first.
        total: How many streams there are.
        streams_omitted: How many of them were not chosen.
        groups_omitted: How many groups of the chosen streams were not chosen.
        ranking_age_seconds: How old the choice of streams was.
        ranking_seconds: How long it took to look at all of them.
        taken_at: When the figures were taken, in trio's time.
    """

    streams: Sequence[StreamFigures]
    groups: Sequence[GroupFigures]
    total: int
    streams_omitted: int
    groups_omitted: int
    ranking_age_seconds: float
    ranking_seconds: float
    taken_at: float
