"""Many listeners of a topic are told in parts that end by the clock, so that others are served meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import attrs
import trio

from redstreamd.streams.subscriptions.feeds import PART_SECONDS, Feeds, Listener
from redstreamd.streams.subscriptions.topics import StreamTopic
from tests.support.buses import running_bus
from tests.support.servers import Server
from tests.support.waiting import until


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    seen = 0

    def before_io_wait(self, timeout: float) -> None:
        self.seen += 1


@attrs.define
class Slow:
    """Takes a quarter of a part to be told, and notes in which pass it was."""

    passes: Passes
    told_in: list[int] = attrs.field(factory=list)
    on_told: Callable[[], None] | None = None

    def tell(self, name: str, version: str) -> None:
        ends = time.perf_counter() + PART_SECONDS / 4
        while time.perf_counter() < ends:
            pass
        self.told_in.append(self.passes.seen)
        if self.on_told is not None:
            self.on_told()


async def test_a_part_ends_by_the_clock_and_who_leaves_meanwhile_is_told_nothing(redis: Server) -> None:
    async with running_bus(redis) as bus, trio.open_nursery() as nursery:
        feeds, passes = Feeds(bus), Passes()
        trio.lowlevel.add_instrument(passes)
        await nursery.start(feeds.run)
        listening: list[tuple[Listener, Slow]] = []
        for _ in range(32):
            hearer = Slow(passes)
            listener = feeds.join(StreamTopic("s"), hearer, "s")
            await feeds.baseline(listener, None)
            listening.append((listener, hearer))
        left, never = listening.pop()
        listening[0][1].on_told = partial(feeds.leave, left)
        redis.command("XADD", "s", "*", "f", "v")
        await until(lambda: all(hearer.told_in for _, hearer in listening))
        in_each = Counter(hearer.told_in[0] for _, hearer in listening)
        # The clock is looked at after each eight, and then the part is over.
        assert list(in_each.values()) == [8, 8, 8, 7]
        assert not never.told_in
        for listener, _ in listening:
            feeds.leave(listener)
        nursery.cancel_scope.cancel()
