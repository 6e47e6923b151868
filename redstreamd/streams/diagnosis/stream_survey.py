"""Figures of the streams with most to do, and of their groups: for graphs and for people who watch.

Owns which figures there are. Each is asked for where the diagnosis asks for it, too; rates come from its
sampler. Nothing is asked of Redis unless somebody wants figures.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final, NamedTuple

import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ConnectionEnded
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams import entry_ids
from redstreamd.streams.concurrency import gather
from redstreamd.streams.diagnosis.lag import Lag, StreamInfo, compute_lag, read_stream_info
from redstreamd.streams.diagnosis.ranking import Ranking, Ranks
from redstreamd.streams.diagnosis.sampler import GroupRates, Rates, Sampler
from redstreamd.streams.diagnosis.survey_figures import GroupFigures, StreamFigures, SurveyFigures
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.shared_requests import SharedRequest

#: Figures that are no older are given again.
_FRESH_SECONDS: Final = 1.0
#: A survey that takes longer is given up; whoever asks has a deadline of his own, of ten seconds as a rule.
_LONGEST_SECONDS: Final = 5.0


class _Examined(NamedTuple):
    info: StreamInfo
    rates: Rates | None
    groups: dict[str, GroupInfo]


class _Chosen(NamedTuple):
    examined: _Examined
    info: GroupInfo
    lag: Lag


class StreamSurvey:
    """Takes figures of the streams that a ranking chooses."""

    def __init__(self, redis: Redis, ranking: Ranking, sampler: Sampler, *, max_groups: int) -> None:
        """Take figures of `max_groups` groups at most, of all chosen streams together."""
        self.failures = 0
        self._redis = redis
        self._ranking = ranking
        self._sampler = sampler
        self._max_groups = max_groups
        self._survey = SharedRequest(self._take)
        self._last: SurveyFigures | None = None

    @property
    def last(self) -> SurveyFigures | None:
        """The figures that were taken last; None if the last survey failed, or there was none."""
        return self._last

    async def figures(self) -> SurveyFigures | None:
        """Return figures that are no older than a second; None if Redis does not give them in time."""
        if self._last is not None and trio.current_time() < self._last.taken_at + _FRESH_SECONDS:
            return self._last
        with trio.move_on_after(_LONGEST_SECONDS):
            try:
                self._last = await self._survey.answer()
            except (BusError, ConnectionEnded):
                self.failures += 1
                self._last = None
            return self._last
        self.failures += 1
        self._last = None
        return None

    async def _take(self) -> SurveyFigures | None:
        ranks = await self._ranking.ranks()
        if ranks is None:
            return None
        names = [each.stream for each in ranks.first]
        examined = await gather(self._examine, names) if names else {}
        there = [each for each in examined.values() if each is not None]
        order = {each: number for number, each in enumerate(names)}
        there.sort(key=lambda each: order[each.info.stream])
        candidates = [
            _Chosen(each, info, compute_lag(each.info, info, counted=None))
            for each in there
            for info in each.groups.values()
        ]
        chosen = heapq.nlargest(
            self._max_groups,
            candidates,
            key=lambda each: (each.info.pending + each.lag.entries, not each.info.consumers),
        )
        groups = await self._examine_groups(chosen)
        return _summed_up(ranks, there, groups, len(candidates))

    async def _examine(self, stream: str) -> _Examined | None:
        """Look at one stream; None if it is gone."""
        rates = self._sampler.rates(stream)
        try:
            info = await read_stream_info(self._redis, stream)
            listed = await self._redis.shared(GroupLists).of(stream) if info.groups else None
        except BusError as error:
            if error.code in (Code.STREAM_NOT_FOUND, Code.WRONG_TYPE):
                return None
            raise
        return _Examined(info, rates, listed.groups if listed is not None else {})

    async def _examine_groups(self, chosen: Sequence[_Chosen]) -> list[GroupFigures]:
        by_key = {f"{number}": each for number, each in enumerate(chosen)}

        async def examine(key: str) -> GroupFigures | None:
            return await self._examine_group(by_key[key])

        found = await gather(examine, list(by_key)) if by_key else {}
        return [figures for key in by_key if (figures := found[key]) is not None]

    async def _examine_group(self, chosen: _Chosen) -> GroupFigures | None:
        (stream, rates, _), info, lag = chosen
        oldest = None
        if info.pending:
            try:
                first = await self._redis.xpending_range(
                    stream.stream, info.name, start="-", end="+", count=1
                )
            except BusError as error:
                if error.code is Code.GROUP_NOT_FOUND:
                    return None
                raise
            oldest = _age(first[0].id, stream.now) if first else None
        dead_letters = await self._redis.xlen(companion_key(stream.stream, Kind.DEAD, info.name))
        of_group = None if rates is None else rates.groups.get(info.name)
        return _group_figures(stream.stream, info, lag, oldest, dead_letters, of_group)


def _group_figures(
    stream: str, info: GroupInfo, lag: Lag, oldest: float | None, dead_letters: int, rates: GroupRates | None
) -> GroupFigures:
    return GroupFigures(
        stream,
        info.name,
        info.consumers,
        None if rates is None else rates.active_consumers,
        info.pending,
        oldest,
        lag.entries,
        None if rates is None else rates.acknowledged_per_second,
        None if rates is None else rates.processing_seconds,
        dead_letters,
    )


def _summed_up(
    ranks: Ranks, examined: Sequence[_Examined], groups: Sequence[GroupFigures], candidates: int
) -> SurveyFigures:
    now = trio.current_time()
    return SurveyFigures(
        [_stream_figures(each) for each in examined],
        groups,
        total=ranks.streams,
        streams_omitted=max(0, ranks.streams - len(examined)),
        groups_omitted=candidates - len(groups),
        ranking_age_seconds=now - ranks.taken_at,
        ranking_seconds=ranks.seconds,
        taken_at=now,
    )


def _stream_figures(examined: _Examined) -> StreamFigures:
    info, rates, _ = examined
    return StreamFigures(
        info.stream,
        info.length,
        info.added,
        None if rates is None else rates.growth_per_second,
        info.memory_bytes,
        _age(info.last_id, info.now),
        None if rates is None else _processing_seconds(rates),
        info.groups,
    )


def _age(entry_id: str, now: int) -> float | None:
    milliseconds, _ = entry_ids.parse(entry_id) or (0, 0)
    return max(0, now - milliseconds) / 1000 if milliseconds else None


def _processing_seconds(rates: Rates) -> float | None:
    """Return the mean over all groups, each by how much it finished."""
    finished = [
        (each.acknowledged_per_second, each.processing_seconds)
        for each in rates.groups.values()
        if each.acknowledged_per_second and each.processing_seconds is not None
    ]
    total = sum(rate for rate, _ in finished)
    return sum(rate * seconds for rate, seconds in finished) / total if total else None
