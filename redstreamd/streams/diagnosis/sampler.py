"""Samples streams that somebody asked about, so that the next question can be answered with rates.

Owns a short history per stream and what follows from it. A question registers a stream; a stream
that nobody asks about any more is forgotten. The cost for Redis is bounded: one script per stream and
interval, for a bounded number of streams, and groups and consumers are looked at only where they are few.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import attrs
import trio

from redstreamd.errors import BusError
from redstreamd.redisio import reply_parsing
from redstreamd.redisio.connection_manager import Manager
from redstreamd.streams.concurrency import gather
from redstreamd.streams.names import RELEASED
from redstreamd.streams.scripts import load

_SAMPLE = load("sample")

#: Streams sampled at a time. A sample takes the server 13 µs with one group, 250 µs with 100, so
#: all of them together at most 0.5 % of its time at an interval of five seconds.
MAX_STREAMS = 100
#: Groups up to which they are sampled, too.
MAX_GROUPS = 100
#: Consumers up to which those of a stream's groups are sampled, too, and of all streams together. One
#: takes the server 2 µs, so a sample at most 2 ms more, and all of them 0.4 % of its time.
MAX_CONSUMERS, _MAX_CONSUMERS_IN_ALL = 1_000, 10_000
#: The pause is at least so many times as long as the samples took: XINFO STREAM carries a stream's first and
#: last entry, so where these are huge a sample may take a second. And the longest pause in seconds.
_PAUSE_SHARE, _LONGEST_PAUSE = 50, 60.0
#: Samples kept per stream: ten minutes of them.
_KEPT = 120
#: Seconds that "now" means where it matters whether something grows at this moment.
_LATELY = 30.0
#: Seconds by which the server's time between two samples may differ from ours: replies may be late.
_CLOCK_SET = 30.0
#: Seconds after the last question at which a stream is forgotten.
_FORGET = 1_800.0


@attrs.frozen
class GroupSample:
    """A group at one time.

    Attributes:
        pending: Entries that are pending.
        read: Entries read; None where the server cannot tell, as for `lag`.
        lag: Entries still to be delivered.
        active: Consumers that were active since the first of the samples kept; None if they were not
            looked at.
    """

    pending: int
    read: int | None
    lag: int | None
    active: int | None


@attrs.frozen
class Sample:
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


@attrs.frozen
class GroupRates:
    """What happened in a group since the first sample that is kept and has it.

    Attributes:
        acknowledged_per_second: Entries finished, in whatever way; None if it cannot be told.
        processing_seconds: How long an entry stays pending on average, by Little's law: the mean number
            pending over the rate at which they are finished. None if none was finished.
        lag_per_second: By how much the lag grew (or shrank, if negative) in the last half minute.
        active_consumers: Consumers that got or claimed an entry, of those that are still there; None if
            they are too many to look at. One that only finishes what it got before is none of them: the
            server notes no time for that. Before Redis 7.2 one that was only made, or looked at what it
            holds, is among them.
        finishing: Whether an entry was finished in the last half minute.
    """

    acknowledged_per_second: float | None
    processing_seconds: float | None
    lag_per_second: float | None
    active_consumers: int | None
    finishing: bool


@attrs.frozen
class Rates:
    """What happened in a stream between the first and the last sample that are kept.

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


@attrs.frozen
class SamplerStatistics:
    """A snapshot of the sampler: streams followed, samples taken and samples that failed so far."""

    streams: int
    samples: int
    failures: int


@attrs.define
class _Followed:
    asked_at: float
    sampled_at: float = 0.0
    samples: deque[Sample] = attrs.field(factory=lambda: deque(maxlen=_KEPT))

    def note(self, sample: Sample) -> None:
        """Add a sample; where the server's clock was set since the last one, those before it go."""
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
        return self.samples[1 if len(self.samples) == _KEPT else 0].at


class Sampler:
    """Follows streams that somebody asked about; a supervised child runs it."""

    def __init__(self, manager: Manager, *, interval_seconds: float = 5.0) -> None:
        """Sample through `manager` every `interval_seconds`, or less often where that takes long."""
        self._manager = manager
        self._interval = interval_seconds
        # In the order of the last question, so that the first is the one to drop.
        self._followed: dict[str, _Followed] = {}
        self._asked = trio.Event()
        self._samples = 0
        self._failures = 0

    def statistics(self) -> SamplerStatistics:
        """Return a snapshot."""
        return SamplerStatistics(len(self._followed), self._samples, self._failures)

    def rates(self, stream: str) -> Rates | None:
        """Return what is known of a stream's rates and follow it from now on; None until there is enough.

        The stream that was not asked about for longest gives way to a new one beyond `MAX_STREAMS`.
        """
        followed = self._followed.pop(stream, None)
        if followed is None:
            while len(self._followed) >= MAX_STREAMS:
                del self._followed[next(iter(self._followed))]
            followed = _Followed(trio.current_time())
        followed.asked_at = trio.current_time()
        self._followed[stream] = followed
        self._asked.set()
        return rates_between(followed.samples)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sample until cancelled. Redis being down is not a failure: it leaves a gap."""
        task_status.started()
        while True:
            if not self._followed:
                self._asked = trio.Event()
                await self._asked.wait()
            began, failures = trio.current_time(), self._failures
            await self._sample_all()
            # What a sample took that failed says nothing of the stream.
            took = 0.0 if self._failures > failures else trio.current_time() - began
            await trio.sleep(max(self._interval, min(_PAUSE_SHARE * took, _LONGEST_PAUSE)))

    async def _sample_all(self) -> None:
        oldest = trio.current_time() - _FORGET
        self._followed = {name: each for name, each in self._followed.items() if each.asked_at > oldest}
        names = list(self._followed)
        if not names:
            return
        windows = {name: each.next_window for name, each in self._followed.items()}
        most_consumers = min(MAX_CONSUMERS, _MAX_CONSUMERS_IN_ALL // len(names))

        async def sample_one(stream: str) -> Sample | None:
            return await self._sample(stream, windows[stream], most_consumers)

        for name, sample in (await gather(sample_one, names)).items():
            followed = self._followed.get(name)
            if sample is not None and followed is not None:
                followed.note(sample)

    async def _sample(self, stream: str, since: float | None, most_consumers: int) -> Sample | None:
        # The first sample has no window in which a consumer could have been active.
        consumers = (0, 0) if since is None else (most_consumers, round(since * 1000))
        try:
            reply = await self._manager.run_script(
                _SAMPLE, keys=[stream], args=[MAX_GROUPS, *consumers, RELEASED], retry_safe=True
            )
        except BusError:
            self._failures += 1
            return None
        self._samples += 1
        if not reply:
            return None
        now, added, length, groups = reply
        return Sample(
            at=now / 1000,
            added=_known(added),
            length=length,
            groups={
                reply_parsing.name(name): _group_sample(
                    pending, _known(read), _known(lag), _known(active), added=_known(added)
                )
                for name, pending, read, lag, active in groups
            },
        )


def rates_between(samples: deque[Sample]) -> Rates | None:
    """Return what happened between the first and the last of `samples`; None for fewer than two."""
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
    # A group that was made later has fewer.
    known = [(at, sample) for at, sample in samples if sample is not None]
    (began, first), (at, last) = known[0], known[-1]
    if began == at:
        return None
    done = None
    if first.read is not None and last.read is not None:
        done = _rate(first.read - first.pending, last.read - last.pending, at - began)
    held = [sample.pending for _, sample in known]
    # Where the server does not count what was read, fewer pending ones tell as well, if less surely.
    since, lately = next(each for each in known[:-1] if each[0] >= at - _LATELY or each is known[-2])
    return GroupRates(
        acknowledged_per_second=done,
        processing_seconds=sum(held) / len(held) / done if done else None,
        lag_per_second=None
        if last.lag is None or lately.lag is None
        else (last.lag - lately.lag) / (at - since),
        active_consumers=last.active,
        finishing=last.pending < lately.pending + ((last.read or 0) - (lately.read or last.read or 0)),
    )


def _rate(first: int | None, last: int | None, window: float) -> float | None:
    # A counter that fell was reset: the stream was made anew, or the group's position was set.
    if first is None or last is None or last < first:
        return None
    return (last - first) / window


def _group_sample(
    pending: int, read: int | None, lag: int | None, active: int | None, *, added: int | None
) -> GroupSample:
    if read is None and lag is not None and added is not None:
        # The server knows where the group is, though it did not count how it came there.
        read = added - lag
    return GroupSample(pending, read, lag, active)


def _known(number: int) -> int | None:
    return None if number < 0 else number
