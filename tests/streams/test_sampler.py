"""The sampler: rates from samples, for streams somebody asked about, at a bounded cost."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import cast

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.redisio.client import Redis
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Target
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.diagnosis.sampler import (
    MAX_GROUPS,
    MAX_STREAMS,
    GroupSample,
    Sample,
    Sampler,
    Series,
    rates_between,
)
from redstreamd.streams.names import RELEASED
from tests.support.servers import Server
from tests.support.waiting import until


def sample(at: float, added: int | None, length: int, **groups: tuple[int, int | None, int | None]) -> Sample:
    return Sample(
        at, added, length, {name: GroupSample(*figures, active=None) for name, figures in groups.items()}
    )


def test_rates_are_the_differences_over_the_window() -> None:
    rates = rates_between(
        deque(
            [
                sample(100.0, 1_000, 500, g=(10, 900, 100)),
                sample(105.0, 1_050, 500, g=(30, 950, 100)),
                sample(110.0, 1_200, 550, g=(20, 1_010, 190)),
            ]
        )
    )
    assert rates is not None
    assert rates.window_seconds == 10.0
    assert rates.added_per_second == 20.0
    assert rates.growth_per_second == 5.0
    group = rates.groups["g"]
    # 110 more were read, and 10 more of those read are pending: 100 were finished in 10 s.
    assert group.acknowledged_per_second == 10.0
    # 20 pending on average, 10 finished a second: each was pending for 2 s.
    assert group.processing_seconds == 2.0
    assert group.lag_per_second == 9.0


def test_what_the_server_cannot_tell_is_left_open() -> None:
    rates = rates_between(
        deque([sample(1.0, None, 5, g=(1, None, None), old=(0, 1, 1)), sample(2.0, None, 5, g=(1, 3, 4))])
    )
    assert rates is not None
    assert rates.added_per_second is None
    assert set(rates.groups) == {"g"}
    group = rates.groups["g"]
    assert group.acknowledged_per_second is group.processing_seconds is group.lag_per_second is None


def test_a_counter_that_fell_is_no_rate() -> None:
    rates = rates_between(deque([sample(1.0, 900, 5, g=(0, 900, 0)), sample(2.0, 3, 3, g=(0, 3, 0))]))
    assert rates is not None
    assert rates.added_per_second is None
    assert rates.groups["g"].acknowledged_per_second is None


def test_one_sample_says_nothing() -> None:
    assert rates_between(deque()) is None
    assert rates_between(deque([sample(1.0, 1, 1)])) is None
    assert rates_between(deque([sample(1.0, 1, 1), sample(1.0, 2, 2)])) is None


#: A sample that took long because the machine was busy does not delay the next one.
QUICK = Bounds(sample_seconds=0.01, sample_pause_share=0)


@asynccontextmanager
async def sampling(server: Server, **limits: float) -> AsyncIterator[Sampler]:
    """Run a sampler on `server` for the block, which samples in time however long a sample took."""
    topology = Standalone.of(Target(path=server.path))
    sampler = Sampler(Redis(topology), msgspec.structs.replace(QUICK, **limits))
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(sampler.run)
        yield sampler
        nursery.cancel_scope.cancel()


async def test_a_stream_that_was_asked_about_is_followed(server: Server) -> None:
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    async with sampling(server, sample_seconds=0.02) as sampler:
        assert sampler.rates("s") is None
        first = await until(lambda: sampler.rates("s"))
        assert first.added_per_second == 0.0
        server.commands(*[("XADD", "s", "*", "n", n) for n in range(200)])
        server.command("XREADGROUP", "GROUP", "g", "c", "COUNT", 150, "STREAMS", "s", ">")
        await until(lambda: (known := sampler.rates("s")) and known.groups["g"].lag_per_second)
        rates = sampler.rates("s")
        assert rates is not None
        assert rates.added_per_second is not None
        assert round(rates.added_per_second * rates.window_seconds) == 200
        assert round(rates.growth_per_second * rates.window_seconds) == 200
        assert round(rates.groups["g"].lag_per_second * rates.window_seconds) == 50
        assert rates.groups["g"].acknowledged_per_second == 0.0
        assert rates.groups["g"].processing_seconds is None


async def test_nobody_asks_and_nothing_is_sampled(redis: Server) -> None:
    topology = Standalone.of(Target(path=redis.path))
    sampler = Sampler(Redis(topology), Bounds(sample_seconds=0.001))
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        await nursery.start(sampler.run)
        await topology.wait_connected()
        for _ in range(20):
            await topology.node.execute("PING")
        assert sampler.statistics().samples == 0
        nursery.cancel_scope.cancel()


async def test_streams_beyond_the_bound_replace_those_asked_about_least_lately(redis: Server) -> None:
    sampler = Sampler(Redis(Standalone.of(Target(path=redis.path))))
    for n in range(MAX_STREAMS):
        sampler.rates(f"s{n}")
    sampler.rates("s0")
    sampler.rates("new")
    assert sampler.statistics().streams == MAX_STREAMS
    assert "s1" not in sampler.streams()
    assert {"s0", "new"} <= set(sampler.streams())


async def test_a_stream_nobody_asks_about_any_more_is_forgotten(redis: Server) -> None:
    topology = Standalone.of(Target(path=redis.path))
    sampler = Sampler(Redis(topology), Bounds(sample_seconds=0.001, sampling_kept_seconds=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        sampler.rates("s")
        await nursery.start(sampler.run)
        await until(lambda: not sampler.statistics().streams)
        nursery.cancel_scope.cancel()


async def test_streams_with_many_groups_are_sampled_without_them(server: Server) -> None:
    server.commands(*[("XGROUP", "CREATE", "s", f"g{n}", "0", "MKSTREAM") for n in range(MAX_GROUPS + 1)])
    async with sampling(server) as sampler:
        rates = await until(lambda: sampler.rates("s"))
        assert rates.groups == {}


async def test_a_failed_sample_leaves_a_gap_and_the_sampler_goes_on(server: Server) -> None:
    server.command("XADD", "s", "*", "a", "b")
    async with sampling(server) as sampler:
        await until(lambda: sampler.rates("s"))
        server.command("ACL", "SETUSER", "default", "-xinfo")
        try:
            await until(lambda: sampler.statistics().failures)
        finally:
            server.command("ACL", "SETUSER", "default", "+xinfo")
        taken = sampler.statistics().samples
        await until(lambda: sampler.statistics().samples != taken)


def test_a_group_that_was_made_later_has_rates_of_its_own() -> None:
    rates = rates_between(
        deque(
            [
                sample(0.0, 100, 100),
                sample(60.0, 100, 100, g=(0, 90, 10), newest=(0, 0, 0)),
                sample(70.0, 110, 110, g=(0, 100, 10), newest=(0, 0, 0)),
            ]
        )
    )
    assert rates is not None
    assert rates.added_per_second == pytest.approx(10 / 70)
    assert rates.groups["g"].acknowledged_per_second == 1.0
    lone = rates_between(deque([sample(0.0, 1, 1), sample(5.0, 1, 1, g=(0, 0, 1))]))
    assert lone is not None
    assert lone.groups == {}


@pytest.mark.parametrize("counted", [True, False])
def test_whether_anything_is_being_finished_is_said_of_the_last_half_minute(*, counted: bool) -> None:
    def finishing(*done_and_pending: tuple[int, int]) -> bool:
        rates = rates_between(
            deque(
                sample(10.0 * n, None, 0, g=(pending, done + pending if counted else None, None))
                for n, (done, pending) in enumerate(done_and_pending)
            )
        )
        assert rates is not None
        return rates.groups["g"].finishing

    assert finishing((0, 100), (10, 90), (20, 80))
    # Whoever did that stopped half a minute ago.
    assert not finishing((0, 100), (20, 80), (20, 80), (20, 80), (20, 80))
    # Taking is not finishing.
    assert not finishing((0, 10), (0, 20))


def test_whether_the_lag_grows_is_said_of_the_last_half_minute() -> None:
    """A burst ten minutes ago is no growth while its entries are worked off."""
    lags = [0, 5_000, 4_800, 4_600, 4_300, 4_000]
    samples = deque(sample(10.0 * n, 5_000, 5_000, g=(0, None, lag)) for n, lag in enumerate(lags))
    rates = rates_between(samples)
    assert rates is not None
    assert rates.groups["g"].lag_per_second == (4_000 - 4_800) / 30
    # With one sample a minute the last two have to do.
    sparse = deque(sample(60.0 * n, 5_000, 5_000, g=(0, None, lag)) for n, lag in enumerate([0, 500, 440]))
    rates = rates_between(sparse)
    assert rates is not None
    assert rates.groups["g"].lag_per_second == -1.0


async def active_of(sampler: Sampler, stream: str) -> dict[str, int | None]:
    """Return the active consumers of each group by a sample that was begun after this call."""
    sampler.rates(stream)
    for _ in range(2):  # one may be under way
        last = sampler.samples(stream)[-1:]
        await until(lambda last=last: sampler.samples(stream)[-1:] not in ([], last))
    rates = sampler.rates(stream)
    assert rates is not None
    return {name: group.active_consumers for name, group in rates.groups.items()}


async def test_consumers_that_got_or_claimed_an_entry_since_sampling_began_are_active(server: Server) -> None:
    server.commands(
        ("XADD", "s", "1-1", "a", "b"),
        ("XGROUP", "CREATE", "s", "g", "0"),
        ("XGROUP", "CREATE", "s", "nobody", "0"),
        ("XREADGROUP", "GROUP", "g", "before", "STREAMS", "s", ">"),
        ("XGROUP", "CREATECONSUMER", "s", "g", "never"),
    )
    async with sampling(server) as sampler:
        assert await active_of(sampler, "s") == {"g": 0, "nobody": 0}
        server.commands(
            ("XREADGROUP", "GROUP", "g", "never", "STREAMS", "s", ">"),
            ("XADD", "s", "2-1", "a", "b"),
            ("XREADGROUP", "GROUP", "g", "reader", "STREAMS", "s", ">"),
            ("XCLAIM", "s", "g", "claimer", 0, "1-1"),
            ("XACK", "s", "g", "1-1", "2-1"),
        )
        assert await active_of(sampler, "s") == {"g": 2, "nobody": 0}
        # They were active within the window, which reaches back to the first sample.
        assert await active_of(sampler, "s") == {"g": 2, "nobody": 0}


async def test_who_stands_in_for_a_removed_consumer_is_not_active(server: Server) -> None:
    server.commands(("XADD", "s", "1-1", "a", "b"), ("XGROUP", "CREATE", "s", "g", "0"))
    async with sampling(server) as sampler:
        await until(lambda: sampler.rates("s"))
        server.commands(
            ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"),
            ("XCLAIM", "s", "g", RELEASED, 0, "1-1", "JUSTID"),
        )
        assert await active_of(sampler, "s") == {"g": 1}


def test_a_sample_asks_for_activity_since_the_beginning_of_its_own_window() -> None:
    followed = Series(0.0, deque(maxlen=120))
    assert followed.next_window is None
    for at in range(240):
        window = followed.next_window
        followed.samples.append(sample(float(at), None, 0))
        assert window is None or window == followed.samples[0].at


async def test_activity_ends_with_the_window(redis: Server) -> None:
    redis.commands(("XADD", "s", "1-1", "a", "b"), ("XGROUP", "CREATE", "s", "g", "0"))
    async with sampling(redis, samples_kept=5) as sampler:
        await until(lambda: sampler.rates("s"))
        redis.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
        while await active_of(sampler, "s") != {"g": 0}:
            pass
        redis.commands(("XADD", "s", "2-1", "a", "b"), ("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"))
        assert await active_of(sampler, "s") == {"g": 1}


async def test_consumers_are_looked_at_as_far_as_they_fit_and_the_others_are_unknown(
    server: Server,
) -> None:
    sizes = {"a": 3, "b": 3, "c": 2}
    server.command("XADD", "s", "1-1", "a", "b")
    for group, size in sizes.items():
        server.command("XGROUP", "CREATE", "s", group, "0")
        server.commands(*[("XGROUP", "CREATECONSUMER", "s", group, n) for n in range(size)])
    async with sampling(server, sampled_consumers=5) as sampler:
        assert await active_of(sampler, "s") == {"a": 0, "b": None, "c": 0}


async def test_the_more_streams_are_followed_the_fewer_consumers_of_each_are_looked_at(
    redis: Server,
) -> None:
    for stream in ("s", "t"):
        redis.command("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM")
        redis.commands(*[("XGROUP", "CREATECONSUMER", stream, "g", n) for n in range(2)])
    async with sampling(redis, sampled_consumers_in_all=2) as sampler:
        assert await active_of(sampler, "s") == {"g": 0}
        sampler.rates("t")
        assert await active_of(sampler, "s") == {"g": None}


@pytest.mark.parametrize(("took", "pause"), [(0.01, 5.0), (0.1, 5.0), (0.2, 10.0), (5.0, 60.0)])
def test_a_stream_that_is_slow_to_look_at_is_looked_at_less_often(took: float, pause: float) -> None:
    """XINFO STREAM carries its first and last entry: where these are huge, a second may pass."""
    looks: list[float] = []

    class Slow:
        """Stands for Redis, in a virtual time."""

        async def run_script(self, *_: object, **__: object) -> list[object]:
            looks.append(trio.current_time())
            await trio.sleep(took)
            return [len(looks), 1, 1, []]

    async def look_on() -> None:
        sampler = Sampler(cast("Redis", Slow()))
        async with trio.open_nursery() as nursery:
            await nursery.start(sampler.run)
            sampler.rates("huge")
            await trio.sleep(300)
            nursery.cancel_scope.cancel()

    trio.run(look_on, clock=trio.testing.MockClock(autojump_threshold=0))
    gaps = [later - look for look, later in pairwise(looks)]
    assert gaps == pytest.approx([took + pause] * len(gaps))
    assert len(gaps) > 1
