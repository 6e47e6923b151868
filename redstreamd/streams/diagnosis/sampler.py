"""Sampling of diagnosed streams, so that the next diagnosis has rates.

Owns a short series of samples per stream. A diagnosis registers its stream; one that is not diagnosed any
more is dropped. The cost for Redis is bounded: one script per stream and interval, for a bounded number of
streams, and groups and consumers are sampled only if there are few.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.client import Redis
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.concurrency import gather
from redstreamd.streams.names import RELEASED
from redstreamd.streams.scripts import load

_SAMPLE = load("info", "sample")

#: Streams sampled at a time. A sample takes the server 13 µs with one group and 250 µs with 100, so all of
#: them together at most 0.5 % of its time.
MAX_STREAMS = 100
#: Groups up to which those of a stream are sampled.
MAX_GROUPS = 100
#: The longest pause between samples in seconds, however long they take.
_LONGEST_PAUSE = 60.0
#: Seconds that count as recent, for what grows or is finished at present.
_RECENT = 30.0
#: Seconds by which the server's time between two samples may differ from ours, as replies may be late.
_CLOCK_SET = 30.0


class GroupSample(msgspec.Struct, frozen=True):
    """A group at one time.

    Attributes:
        pending: Pending entries.
        read: Entries read; None if the server does not tell, as for `lag`.
        lag: Undelivered entries.
        active: Consumers that were active since the first sample kept; None if they were not sampled.
    """

    pending: int
    read: int | None
    lag: int | None
    active: int | None


class Sample(msgspec.Struct, frozen=True):
    """A stream at one time.

    Attributes:
        at: The server's time in seconds.
        added: Entries ever added; None before Redis 7.0.
        length: Entries in it.
        groups: Its groups by name; empty if there are more than `MAX_GROUPS`.
    """

    at: float
    added: int | None
    length: int
    groups: Mapping[str, GroupSample]


class GroupRates(msgspec.Struct, frozen=True):
    """Rates of a group since its first sample.

    Attributes:
        acknowledged_per_second: Entries finished in any way; None if not known.
        processing_seconds: How long an entry stays pending on average, by Little's law: the mean number of
            pending entries over the rate at which they are finished. None if none was finished.
        lag_per_second: Growth of the lag in the last half minute.
        active_consumers: Existing consumers that got or claimed an entry; None if there are too many. One
            that only finishes entries does not count, since the server records no time for that. Before Redis
            7.2 one that was only created, or listed its entries, counts.
        finishing: Whether an entry was finished in the last half minute.
    """

    acknowledged_per_second: float | None
    processing_seconds: float | None
    lag_per_second: float | None
    active_consumers: int | None
    finishing: bool


class Rates(msgspec.Struct, frozen=True):
    """Rates of a stream between the first and the last sample kept.

    Attributes:
        window_seconds: The time between them.
        added_per_second: Entries added; None before Redis 7.0.
        growth_per_second: Entries by which it grew, after trimming.
        groups: The same for each group.
    """

    window_seconds: float
    added_per_second: float | None
    growth_per_second: float
    groups: Mapping[str, GroupRates]


class SamplerStatistics(msgspec.Struct, frozen=True):
    """A snapshot of the sampler: sampled streams, samples taken and failed so far."""

    streams: int
    samples: int
    failures: int


class Series(msgspec.Struct):
    """The samples of one stream, and when it was last diagnosed."""

    asked_at: float
    samples: deque[Sample]
    sampled_at: float = 0.0

    def add(self, sample: Sample) -> None:
        """Add a sample; drop the earlier ones if the server's clock was set since the last."""
        now = time.monotonic()
        if self.samples:
            apart = sample.at - self.samples[-1].at - (now - self.sampled_at)
            if abs(apart) > _CLOCK_SET:
                self.samples.clear()
        self.sampled_at = now
        self.samples.append(sample)

    @property
    def next_window(self) -> float | None:
        """When the window of the next sample begins; None if that will be the first."""
        if not self.samples:
            return None
        return self.samples[1 if len(self.samples) == self.samples.maxlen else 0].at


class Sampler:
    """Samples streams; a supervised child runs it."""

    def __init__(self, redis: Redis, limits: Bounds = DEFAULT_BOUNDS) -> None:
        """Sample through `redis`."""
        self._redis = redis
        self._bounds = limits
        # In the order of the last diagnosis, so that the first is the one to drop.
        self._series: dict[str, Series] = {}
        self._asked = trio.Event()
        self._samples = 0
        self._failures = 0

    def statistics(self) -> SamplerStatistics:
        """Return a snapshot."""
        return SamplerStatistics(len(self._series), self._samples, self._failures)

    def rates(self, stream: str) -> Rates | None:
        """Return a stream's rates, None if there are too few samples; sample it from now on.

        Beyond `MAX_STREAMS` it replaces the stream whose last diagnosis is longest ago.
        """
        series = self._series.pop(stream, None)
        if series is None:
            while len(self._series) >= MAX_STREAMS:
                del self._series[next(iter(self._series))]
            series = Series(trio.current_time(), deque(maxlen=self._bounds.samples_kept))
        series.asked_at = trio.current_time()
        self._series[stream] = series
        self._asked.set()
        return rates_between(series.samples)

    def streams(self) -> list[str]:
        """Return the sampled streams, the last diagnosed one last."""
        return list(self._series)

    def samples(self, stream: str) -> list[Sample]:
        """Return the samples kept of a stream, oldest first."""
        return list(self._series[stream].samples) if stream in self._series else []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sample until cancelled. An outage of Redis leaves a gap and is not an error."""
        task_status.started()
        while True:
            if not self._series:
                self._asked = trio.Event()
                await self._asked.wait()
            began, failures = trio.current_time(), self._failures
            await self._sample_all()
            # The duration of a failed sample says nothing about the stream.
            took = 0.0 if self._failures > failures else trio.current_time() - began
            pause = min(self._bounds.sample_pause_share * took, _LONGEST_PAUSE)
            await trio.sleep(max(self._bounds.sample_seconds, pause))

    async def _sample_all(self) -> None:
        oldest = trio.current_time() - self._bounds.sampling_kept_seconds
        self._series = {name: each for name, each in self._series.items() if each.asked_at > oldest}
        names = list(self._series)
        if not names:
            return
        windows = {name: each.next_window for name, each in self._series.items()}
        limits = self._bounds
        max_consumers = min(limits.sampled_consumers, limits.sampled_consumers_in_all // len(names))

        async def sample_one(stream: str) -> Sample | None:
            return await self._sample(stream, windows[stream], max_consumers)

        for name, sample in (await gather(sample_one, names)).items():
            series = self._series.get(name)
            if sample is not None and series is not None:
                series.add(sample)

    async def _sample(self, stream: str, since: float | None, max_consumers: int) -> Sample | None:
        try:
            reply = await _SAMPLE.run(
                self._redis,
                stream=stream,
                max_groups=MAX_GROUPS,
                # The first sample has no window in which a consumer could have been active.
                max_consumers=0 if since is None else max_consumers,
                since=0 if since is None else round(since * 1000),
                placeholder=RELEASED,
                retry_safe=True,
            )
        except BusError:
            self._failures += 1
            return None
        self._samples += 1
        if reply is None:
            return None
        return Sample(
            at=reply.now / 1000,
            added=reply.added,
            length=reply.length,
            groups={
                reply_parsing.name(name): _group_sample(
                    pending, _known(read), _known(lag), _known(active), added=reply.added
                )
                for name, pending, read, lag, active in reply.groups
            },
        )


def rates_between(samples: deque[Sample]) -> Rates | None:
    """Return the rates between the first and the last of `samples`; None for fewer than two."""
    if len(samples) < 2 or samples[-1].at <= samples[0].at:
        return None
    first, last = samples[0], samples[-1]
    window = last.at - first.at
    return Rates(
        window_seconds=window,
        added_per_second=_rate(first.added, last.added, window),
        growth_per_second=(last.length - first.length) / window,
        groups={
            name: rates
            for name in last.groups
            if (rates := _group_rates([(each.at, each.groups.get(name)) for each in samples])) is not None
        },
    )


def _group_rates(samples: list[tuple[float, GroupSample | None]]) -> GroupRates | None:
    # A group that was created later has fewer.
    known = [(at, sample) for at, sample in samples if sample is not None]
    (began, first), (at, last) = known[0], known[-1]
    if began == at:
        return None
    done = None
    if first.read is not None and last.read is not None:
        done = _rate(first.read - first.pending, last.read - last.pending, at - began)
    held = [sample.pending for _, sample in known]
    # If the server does not count reads, fewer pending entries show it, too, though less reliably.
    since, recent = next(each for each in known[:-1] if each[0] >= at - _RECENT or each is known[-2])
    return GroupRates(
        acknowledged_per_second=done,
        processing_seconds=sum(held) / len(held) / done if done else None,
        lag_per_second=None
        if last.lag is None or recent.lag is None
        else (last.lag - recent.lag) / (at - since),
        active_consumers=last.active,
        finishing=last.pending < recent.pending + ((last.read or 0) - (recent.read or last.read or 0)),
    )


def _rate(first: int | None, last: int | None, window: float) -> float | None:
    # A counter that fell was reset: the stream was created again, or the group's position was set.
    if first is None or last is None or last < first:
        return None
    return (last - first) / window


def _group_sample(
    pending: int, read: int | None, lag: int | None, active: int | None, *, added: int | None
) -> GroupSample:
    if read is None and lag is not None and added is not None:
        # The server knows the group's position, but did not count its reads.
        read = added - lag
    return GroupSample(pending, read, lag, active)


def _known(number: int) -> int | None:
    return None if number < 0 else number
