"""Waits that share reads: each is told exactly what its own read would have given."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from redstreamd.mcp_server.direct_waits import DirectWait
from redstreamd.redisio import Role
from redstreamd.streams import entry_ids
from redstreamd.streams.background import TOLD_AT_ONCE
from redstreamd.streams.bus import Bus
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.places import Place
from redstreamd.streams.sleepers import ANSWERED_AT_ONCE
from redstreamd.streams.waiting import Sleeper, Told
from tests.support.buses import asleep, running_bus
from tests.support.mcp_client import enveloped
from tests.support.servers import Server
from tests.support.two_ways import MODERN, Way, request, running_way, surface_over
from tests.support.waiting import until

FILTERS = (None, None, {"k": "a"}, {"k": "b"})


@attrs.define
class Crowd:
    """Clients of both eras that wait, and a second domain that reads for itself what they should be told.

    Attributes:
        redis: The server.
        bus: Serves the clients.
        alone: Serves nobody.
        ways: The clients' connections; one may be closed.
        waits: The arguments of those who wait, by connection and request id.
        ids: The entries that were added to each stream.
    """

    redis: Server
    bus: Bus
    alone: Bus
    ways: list[Way]
    waits: dict[tuple[int, int], dict[str, Any]] = attrs.field(factory=dict)
    ids: dict[str, list[str]] = attrs.field(factory=lambda: {"s": ["0-0"], "t": ["0-0"]})
    asked: int = 0
    told: int = 0

    async def wait(self, chance: random.Random) -> None:
        """Let one more wait, perhaps at a place where others do."""
        streams = chance.choice((["s"], ["s"], ["s"], ["t"], ["s", "t"]))
        # Most wait for what comes next.
        cursors = [chance.choice(self.ids[name][-2:]) for name in streams]
        arguments: dict[str, Any] = {
            "streams": streams,
            "cursor": entry_ids.join_cursor(streams, cursors),
            "count": chance.choice((1, 2, 10)),
            "timeout_seconds": 600,
        }
        wanted = chance.choice(FILTERS)
        # With several streams the order in an answer follows from where the last read began.
        if wanted and len(streams) == 1:
            arguments["filter"] = wanted
        number = chance.randrange(len(self.ways))
        self.asked += 1
        self.waits[number, self.asked] = arguments
        await self.ways[number].call(self.asked, "stream_wait", **arguments)

    def add(self, chance: random.Random) -> None:
        """Add some entries at once."""
        name = chance.choice("st")
        entries = [("XADD", name, "*", "k", chance.choice("abc")) for _ in range(chance.randint(1, 3))]
        *_, added = self.redis.commands(("MULTI",), *entries, ("EXEC",))
        self.ids[name] += [entry_id.decode() for entry_id in added]

    def delete(self, chance: random.Random) -> None:
        """Delete an entry."""
        name = chance.choice("st")
        self.redis.command("XDEL", name, self.ids[name][-1])

    async def cancel(self, chance: random.Random) -> None:
        """Let one give up."""
        if self.waits:
            number, request_id = chance.choice(list(self.waits))
            way = self.ways[number]
            params: dict[str, Any] = {"requestId": request_id}
            params = enveloped(params) if way.revision == MODERN else params
            line = request(None, "notifications/cancelled", params).replace(b'"id":null,', b"")
            del self.waits[number, request_id]
            await way.peer.send_all(line)

    def cut(self, chance: random.Random) -> None:
        """End connections to Redis."""
        roles = chance.choice((("watch",), ("bulk",), ("watch", "bulk")))
        for line in self.redis.command("CLIENT", "LIST").decode().splitlines():
            words = dict(word.partition("=")[::2] for word in line.split(" "))
            if words["name"].removeprefix("redstreamd:") in roles:
                self.redis.command("CLIENT", "KILL", "ID", words["id"])

    async def compare(self) -> None:
        """Return once everybody sleeps who should, and the others were told what they should be."""
        due = {}
        for key, arguments in self.waits.items():
            found: Waited = await self.alone.next_entries.wait(
                arguments["streams"],
                cursor=arguments["cursor"],
                count=arguments["count"],
                timeout_seconds=0,
                filter=arguments.get("filter"),
            )
            if found.entries:
                due[key] = [entry.id for _, entry in found.entries], found.cursor_after(len(found.entries))
        await asleep(self.bus, len(self.waits) - len(due))
        answered = {}
        for number, way in enumerate(self.ways):
            for _ in range(sum(key[0] == number for key in due)):
                message = await way.answer()
                answer = message["result"]["structuredContent"]
                answered[number, message["id"]] = (
                    [entry["id"] for entry in answer["entries"]],
                    answer["next_cursor"],
                )
        assert answered == due
        self.told += len(due)
        for key in due:
            del self.waits[key]


@asynccontextmanager
async def crowd(redis: Server) -> AsyncIterator[Crowd]:
    """Serve clients of both eras for the block."""
    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(running_bus(redis))
        alone = await stack.enter_async_context(running_bus(redis))
        surface = surface_over(bus)
        ways = [
            await stack.enter_async_context(running_way(surface, direct=True, revision=revision))
            for revision in (MODERN, "2025-11-25", MODERN)
        ]
        yield Crowd(redis, bus, alone, ways)


@pytest.mark.parametrize("seed", range(2))
async def test_each_is_told_what_its_own_read_would_have_given(redis: Server, seed: int) -> None:
    chance = random.Random(seed)
    async with crowd(redis) as all_:
        for _ in range(20):
            for _ in range(chance.randint(1, 8)):
                await all_.wait(chance)
            await all_.compare()
            step = chance.random()
            if step < 0.15:
                await all_.cancel(chance)
            elif step < 0.25:
                all_.cut(chance)
            elif step < 0.35:
                all_.delete(chance)
            if chance.random() < 0.7:
                all_.add(chance)
            await all_.compare()
        # Many were told, and many of them with others.
        assert all_.told > 30
        # A connection that ends takes its waits along, and no others.
        await all_.ways[0].peer.aclose()
        all_.waits = {key: arguments for key, arguments in all_.waits.items() if key[0] != 0}
        all_.ids["s"].append(redis.command("XADD", "s", "*", "k", "a").decode())
        await all_.compare()


# --- One place -----------------------------------------------------------------------------------


class Recorder(Sleeper, eq=False):
    """Notes what it is told."""

    outcome: Any = None

    def told(self, told: Told) -> None:
        assert self.outcome is None
        self.outcome = told

    def failed(self, error: Exception) -> None:
        assert self.outcome is None
        self.outcome = error

    @property
    def ids(self) -> list[str]:
        """The entries that it was told of."""
        return [entry.id for _, entry in self.outcome.found.entries]


def wait_at(
    bus: Bus,
    cursor: str = "0-0",
    wanted: dict[str, Any] | None = None,
    kind: type[Recorder] = Recorder,
    seconds: float = 600,
) -> Recorder:
    """Let somebody wait."""
    wait = bus.next_entries.wait_after(["s"], cursor, 10, seconds, wanted)
    recorder = kind(wait.ends(trio.current_time()))
    wait.join(recorder)
    return recorder


def reads(redis: Server) -> int:
    """How many reads Redis has executed: scripts, or plain reads where a page is known to be small."""
    lines = redis.command("INFO", "commandstats").decode().split("\r\n")
    calls = {
        line.split(":")[0]: int(line.split("calls=")[1].split(",")[0]) for line in lines if "calls=" in line
    }
    return calls.get("cmdstat_evalsha", 0) or calls.get("cmdstat_xrange", 0)


@asynccontextmanager
async def ready(redis: Server) -> AsyncIterator[Bus]:
    """Run a domain that has read once."""
    async with running_bus(redis) as bus:
        await bus.next_entries.wait(["s"], cursor="0-0", timeout_seconds=0)
        with bus.hub.watch(["another"]) as watch:
            await watch.changed()
        redis.command("CONFIG", "RESETSTAT")
        yield bus


async def who_comes_after_the_read_was_sent(redis: Server) -> tuple[list[str], object]:
    """Return what is told one who asked before an entry was deleted, and one who asked after that."""
    async with ready(redis) as bus:
        while True:
            redis.command("DEL", "s")
            redis.command("XADD", "s", "1-1", "f", "v")
            redis.command("CONFIG", "RESETSTAT")
            before = wait_at(bus)
            # The read is sent at the end of this pass. Nothing else runs while it is executed.
            await trio.lowlevel.checkpoint()
            while before.outcome is None and reads(redis) == 0:
                pass
            if before.outcome is None:
                break
            # This process was held up, and has taken the reply already.
        redis.command("XDEL", "s", "1-1")
        after = wait_at(bus)
        await until(lambda: before.outcome and (after.outcome or bus.hub.waiting == 1))
        found = before.ids, after.outcome
        after.leave()
        return found


async def test_who_comes_after_the_read_was_sent_is_not_told_what_it_found(redis: Server) -> None:
    assert await who_comes_after_the_read_was_sent(redis) == (["1-1"], None)


async def who_comes_after_a_change_that_nobody_has_pushed(redis: Server) -> list[str]:
    """Return what one is told who comes when nothing was found, and the key is not armed."""
    async with ready(redis) as bus:
        first = wait_at(bus)
        await asleep(bus, 1)
        # The push has not been read when the next one comes.
        redis.command("XADD", "s", "1-1", "f", "v")
        second = wait_at(bus)
        await until(lambda: first.outcome and second.outcome)
        assert first.ids == ["1-1"]
        return second.ids


async def test_who_sleeps_without_a_read_is_told_of_the_change_that_was_on_its_way(redis: Server) -> None:
    assert await who_comes_after_a_change_that_nobody_has_pushed(redis) == ["1-1"]


async def test_a_mutated_sharing_is_noticed(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Place, "_can_be_joined", property(lambda _: True))
        before, after = await who_comes_after_the_read_was_sent(redis)
        assert (before, after) != (["1-1"], None)


@pytest.mark.parametrize("wanted", [None, {"f": "v"}])
async def test_a_thousand_at_one_place_read_once_for_each_change(
    redis: Server, wanted: dict[str, Any] | None
) -> None:
    async with ready(redis) as bus:
        for size in (1, 1_000):
            redis.command("DEL", "s")
            all_ = [wait_at(bus, wanted=wanted) for _ in range(size)]
            await asleep(bus, size)
            redis.command("CONFIG", "RESETSTAT")
            redis.command("XADD", "s", "1-1", "f", "v")
            await until(lambda all_=all_: all(each.outcome for each in all_))
            assert {tuple(each.ids) for each in all_} == {("1-1",)}
            assert reads(redis) == 1
            # They share what was found.
            assert len({id(each.outcome) for each in all_}) == 1
            assert bus.hub.statistics().watches == len(bus.places) == 0


async def test_who_joins_those_who_sleep_reads_nothing(redis: Server) -> None:
    async with ready(redis) as bus:
        first = wait_at(bus)
        await asleep(bus, 1)
        redis.command("CONFIG", "RESETSTAT")
        others = [wait_at(bus) for _ in range(100)]
        await asleep(bus, 101)
        assert reads(redis) == 0
        redis.command("XADD", "s", "1-1", "f", "v")
        await until(lambda: all(each.outcome for each in [first, *others]))
        assert reads(redis) == 1


async def test_distinct_filters_at_one_position_read_once_for_each_change(redis: Server) -> None:
    async with ready(redis) as bus:
        all_ = [wait_at(bus, wanted={"f": str(number % 20)}) for number in range(200)]
        await asleep(bus, 200)
        redis.command("CONFIG", "RESETSTAT")
        redis.command("XADD", "s", "1-1", "f", "7")
        await until(lambda: sum(each.outcome is not None for each in all_) == 10)
        await asleep(bus, 190)
        assert [each.ids for each in all_ if each.outcome] == [["1-1"]] * 10
        assert reads(redis) == 1
        # Those who go on do so behind what did not match.
        redis.command("XADD", "s", "2-1", "f", "7")
        await bus.redis.ping(role=Role.WATCH)
        await asleep(bus, 190)
        for each in all_:
            each.leave()
        assert bus.hub.statistics().watches == len(bus.places) == 0


class Passes(trio.abc.Instrument):
    """Counts the passes of the scheduler."""

    seen = 0

    def before_io_wait(self, timeout: float) -> None:
        self.seen += 1


async def test_those_at_one_place_have_one_timer_and_each_ends_at_its_own_time(redis: Server) -> None:
    async with ready(redis) as bus:
        before = len(bus.hub.deadlines)
        ends = [600.0, 0.6, 500.0, 0.2, 0.4, 0.2]
        all_ = [wait_at(bus, seconds=seconds) for seconds in ends]
        await asleep(bus, len(all_))
        assert len(bus.hub.deadlines) == before + 1
        # The soonest leaves, and its timer finds nobody who is due.
        all_[3].leave()
        ended: list[float] = []
        for number in (5, 4, 1):
            await until(lambda number=number: all_[number].outcome is not None)
            assert all_[number].ids == []
            assert all_[number].is_over
            ended.append(trio.current_time())
            waiting = [each for each in all_ if each.outcome is None and each is not all_[3]]
            assert bus.hub.waiting == len(waiting)
        assert len(bus.hub.deadlines) == before + 1
        redis.command("XADD", "s", "1-1", "f", "v")
        await until(lambda: all_[0].outcome and all_[2].outcome)
        assert all_[0].ids == all_[2].ids == ["1-1"]
        assert all_[3].outcome is None
        assert len(bus.hub.deadlines) == before
        assert bus.hub.statistics().watches == len(bus.places) == 0


async def test_telling_many_gives_way_and_who_leaves_meanwhile_is_told_nothing(redis: Server) -> None:
    async with ready(redis) as bus:
        passes, told_in, noted = Passes(), [], []
        trio.lowlevel.add_instrument(passes)

        class Leaving(Recorder, eq=False):
            def told(self, told: Told) -> None:
                super().told(told)
                told_in.append(passes.seen)
                all_[-1].leave()

            def after_told(self) -> None:
                noted.append(len(told_in))

        all_ = [wait_at(bus, kind=Leaving) for _ in range(3 * TOLD_AT_ONCE)]
        await asleep(bus, len(all_))
        redis.command("XADD", "s", "1-1", "f", "v")
        await until(lambda: all(each.outcome for each in all_[:-1]))
        await until(lambda: bus.hub.statistics().watches == 0)
        assert all_[-1].outcome is None
        # In three passes at least, and in the order in which they came.
        assert sorted({told_in.count(seen) for seen in told_in}) == [TOLD_AT_ONCE - 1, TOLD_AT_ONCE]
        assert len(set(told_in)) == 3
        # What nobody waits for comes once all of a part are told.
        one, two, three = TOLD_AT_ONCE, 2 * TOLD_AT_ONCE, 3 * TOLD_AT_ONCE - 1
        assert noted == [one] * one + [two] * one + [three] * (one - 1)


@pytest.mark.parametrize("count", [2, ANSWERED_AT_ONCE, ANSWERED_AT_ONCE + 1])
async def test_of_a_few_each_is_answered_before_the_next_is_told(
    redis: Server, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    happened: list[str] = []
    write, told = os.write, DirectWait.told

    def noted_write(descriptor: int, data: bytes) -> int:
        if b'"entries"' in data:
            happened.append("answered")
        return write(descriptor, data)

    def noted_told(wait: DirectWait, what: Told) -> None:
        happened.append("told")
        told(wait, what)

    async with AsyncExitStack() as stack:
        bus = await stack.enter_async_context(running_bus(redis))
        surface = surface_over(bus)
        ways = [
            await stack.enter_async_context(running_way(surface, direct=True, revision=MODERN))
            for _ in range(count)
        ]
        for way in ways:
            await way.call(1, "stream_wait", streams=["s"], cursor="0-0", timeout_seconds=600)
        await asleep(bus, count)
        monkeypatch.setattr(os, "write", noted_write)
        monkeypatch.setattr(DirectWait, "told", noted_told)
        redis.command("XADD", "s", "1-1", "f", "v")
        for way in ways:
            assert not (await way.answer())["result"]["isError"]
    if count <= ANSWERED_AT_ONCE:
        assert happened == ["told", "answered"] * count
    else:
        assert happened == ["told"] * count + ["answered"] * count
