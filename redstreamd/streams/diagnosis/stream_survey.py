"""Figures of the streams with most to do, and of their groups: for graphs and for people who watch.

Owns which figures there are. Each is asked for where the diagnosis asks for it, too; rates come from its
sampler. Nothing is asked of Redis unless somebody wants figures.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import GroupInfo, group_info
from redstreamd.streams import entry_ids
from redstreamd.streams.batches import UNAVAILABLE, ask_in_batches
from redstreamd.streams.diagnosis.lag import (
    Lag,
    StreamInfo,
    compute_lag,
    stream_info_call,
    stream_info_from,
)
from redstreamd.streams.diagnosis.ranking import Ranking, Ranks
from redstreamd.streams.diagnosis.sampler import Rates, Sampler
from redstreamd.streams.diagnosis.survey_figures import GroupFigures, StreamFigures, SurveyFigures
from redstreamd.streams.group_lists import FEW_GROUPS, GroupLists
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.shared_requests import SharedRequest

#: Figures that are no older are given again.
_FRESH_SECONDS: Final = 1.0
#: Rates are found out for so long after somebody asked for them: longer than collectors pause.
_RATES_SECONDS: Final = 600.0
#: A survey that takes longer is given up; whoever asks has a deadline of his own, of ten seconds as a rule.
_LONGEST_SECONDS: Final = 5.0


class _Examined(NamedTuple):
    info: StreamInfo
    rates: Rates | None
    groups: list[GroupInfo]


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
        self._rates_asked_at = -_RATES_SECONDS

    def reconfigure(self, *, max_groups: int) -> None:
        """Take figures of another number of groups from the next survey on."""
        self._max_groups = max_groups

    @property
    def last(self) -> SurveyFigures | None:
        """The figures that were taken last; None if the last survey failed, or there was none."""
        return self._last

    async def figures(self, *, rates: bool = True) -> SurveyFigures | None:
        """Return figures that are no older than a second; None if Redis does not give them in time.

        Args:
            rates: Whether rates are wanted, for which the streams are sampled every few seconds.
        """
        if rates:
            self._rates_asked_at = trio.current_time()
        if self._last is not None and trio.current_time() < self._last.taken_at + _FRESH_SECONDS:
            return self._last
        with trio.move_on_after(_LONGEST_SECONDS):
            try:
                self._last = await self._survey.answer()
            except UNAVAILABLE:
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
        examined = await self._examine([each.stream for each in ranks.first])
        candidates = [
            _Chosen(each, info, compute_lag(each.info, info, counted=None))
            for each in examined
            for info in each.groups
        ]
        chosen = heapq.nlargest(
            self._max_groups,
            candidates,
            key=lambda each: (each.info.pending + each.lag.entries, not each.info.consumers),
        )
        groups = await self._examine_groups(chosen)
        return _summed_up(ranks, examined, groups, len(candidates))

    async def _examine(self, streams: Sequence[str]) -> list[_Examined]:
        """Look at streams; those that are gone are left out."""
        replies = await ask_in_batches(self._redis, [(each, stream_info_call(each)) for each in streams])
        infos = [
            info
            for stream, reply in zip(streams, replies, strict=True)
            if not isinstance(reply, ServerReplied) and (info := stream_info_from(stream, reply)) is not None
        ]
        few = [each.stream for each in infos if 0 < each.groups <= FEW_GROUPS]
        listed = await ask_in_batches(self._redis, [(each, ("XINFO", "GROUPS", each)) for each in few])
        groups = {
            stream: [group_info(each) for each in raw]
            for stream, raw in zip(few, listed, strict=True)
            if not isinstance(raw, ServerReplied)
        }
        for each in infos:
            if each.groups > FEW_GROUPS:
                groups[each.stream] = await self._many_groups(each.stream)
        has_rates = trio.current_time() < self._rates_asked_at + _RATES_SECONDS
        return [
            _Examined(
                each,
                self._sampler.rates(each.stream) if has_rates else None,
                groups.get(each.stream, []),
            )
            for each in infos
        ]

    async def _many_groups(self, stream: str) -> list[GroupInfo]:
        """Return the groups of a stream with many, which are read in parts."""
        try:
            return list((await self._redis.shared(GroupLists).of(stream)).groups.values())
        except ServerReplied:
            return []

    async def _examine_groups(self, chosen: Sequence[_Chosen]) -> list[GroupFigures]:
        """Look at groups; those that are gone are left out."""
        keys = [companion_key(each.examined.info.stream, Kind.DEAD, each.info.name) for each in chosen]
        letters = await ask_in_batches(self._redis, [(key, ("XLEN", key)) for key in keys])
        held = [number for number, each in enumerate(chosen) if each.info.pending]
        asked = [(chosen[number].examined.info.stream, chosen[number].info.name) for number in held]
        first = await ask_in_batches(
            self._redis, [(stream, ("XPENDING", stream, group, "-", "+", 1)) for stream, group in asked]
        )
        oldest: dict[int, Any] = dict(zip(held, first, strict=True))
        return [
            _group_figures(each, letters[number], oldest.get(number))
            for number, each in enumerate(chosen)
            if not isinstance(letters[number], ServerReplied)
            and not isinstance(oldest.get(number), ServerReplied)
        ]


def _group_figures(chosen: _Chosen, dead_letters: int, oldest: list[Any] | None) -> GroupFigures:
    (stream, of_stream, _), info, lag = chosen
    rates = None if of_stream is None else of_stream.groups.get(info.name)
    return GroupFigures(
        stream.stream,
        info.name,
        info.consumers,
        None if rates is None else rates.active_consumers,
        info.pending,
        _age(str(oldest[0][0], "ascii"), stream.now) if oldest else None,
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
