"""Leases and retries while the server's clock is set back or forward by an hour."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import attrs
import msgspec
import pytest
import trio

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.plans import run_plan
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work
from tests.support.buses import running_bus
from tests.support.calls import ME, call
from tests.support.counts import counts
from tests.support.measured import measured
from tests.support.server_clock import SetClock, milliseconds, running_with_set_clock
from tests.support.servers import Server, redis_binary, valkey_binary

pytestmark = pytest.mark.limit(60)

HOUR = 3_600.0
GROUP = {"stream": "s", "group": "g"}
ABOUT, DUE = (companion_key("s", kind, "g") for kind in (Kind.GROUP, Kind.DUE))
#: However often it is delivered.
FOREVER = Settings(leases=LeasesSettings(max_deliveries=0))
#: Seconds that the machine may be late with anything, shared with other work as it is.
LATE = 10.0


@pytest.fixture(scope="module", params=["redis", "valkey"])
def running_clock(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SetClock]:
    binary = {"redis": redis_binary, "valkey": valkey_binary}[request.param]()
    with running_with_set_clock(binary, tmp_path_factory.mktemp("clock")) as clock:
        yield clock


@pytest.fixture
def clock(running_clock: SetClock) -> SetClock:
    """The clock of an empty server that is right."""
    running_clock.set(0)
    running_clock.server.flush()
    return running_clock


@pytest.fixture
def server(clock: SetClock) -> Server:
    """The server of the clock."""
    return clock.server


def take(consumer: str = "c", *, count: int = 1, lease_seconds: float = 60.0, resume: bool = False) -> Take:
    return Take("s", "g", consumer, count, lease_seconds, None, "0", resume)


async def settle(bus: Bus, work: Work, action: Action, delay_seconds: float = 0.0) -> list[Outcome]:
    assert work.lease is not None
    settled = await bus.work.settle(
        bus.work.read_lease(str(work.lease), ME), action, delay_seconds=delay_seconds
    )
    return list(settled.outcomes.values())


def ids(work: Work) -> list[str]:
    return [entry.id for entry in work.taken.entries]


async def test_the_clock_of_the_server_can_be_set(clock: SetClock) -> None:
    """Else the rest would show nothing: its time, its entry IDs and its idle times follow."""
    here = milliseconds(clock.server)
    clock.server.command("XADD", "s", "*", "n", "1")
    clock.server.command("XGROUP", "CREATE", "s", "g", "0")
    clock.server.command("XREADGROUP", "GROUP", "g", "cli", "STREAMS", "s", ">")
    clock.set(HOUR)
    assert milliseconds(clock.server) - here >= HOUR * 1000
    assert clock.server.command("XPENDING", "s", "g", "-", "+", 1)[0][2] >= HOUR * 1000
    clock.set(-HOUR)
    assert milliseconds(clock.server) - here < -HOUR * 900


@pytest.mark.parametrize("step", [-HOUR, HOUR])
@pytest.mark.parametrize("end", ["lease", "retry", "extension", "hand-over"])
async def test_what_is_due_comes_due_as_if_the_clock_had_not_been_set(
    bus: Bus, clock: SetClock, step: float, end: str
) -> None:
    seconds = 1.0
    added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
    held = await bus.work.take(take(lease_seconds=seconds), ME)
    began = trio.current_time()
    if end == "retry":
        assert await settle(bus, held, Action.RETRY, seconds) == [Outcome.RETRIED]
    elif end == "extension":
        assert await settle(bus, held, Action.EXTEND, seconds) == [Outcome.EXTENDED]
    elif end == "hand-over":
        await bus.groups.remove_consumer("s", "g", "c", heir="heir", heir_seconds=seconds)
    clock.set(step)
    # A forward step would have ended it by now, and so would this take find it.
    assert not ids(await bus.work.take(take("early"), ME)), "early"
    again = await bus.work.take(take("next"), ME, timeout_seconds=seconds + LATE)
    took = trio.current_time() - began
    assert ids(again) == added
    # The daemon's count of the time is a request's and a reply's time late at most.
    with measured:
        assert seconds - 0.25 <= took


async def test_a_lease_that_began_before_a_step_is_renewed_and_finished_after_it(
    bus: Bus, clock: SetClock
) -> None:
    added = (await bus.publisher.add("s", [{"n": n} for n in range(4)], Stamp())).ids
    keyed = msgspec.structs.replace(take(count=4, lease_seconds=600), idempotency_key="k")
    held = await bus.work.take(keyed, ME)
    for step, remembered in ((-HOUR, True), (0.0, True), (HOUR, False), (-HOUR, False)):
        clock.set(step)
        assert await settle(bus, held, Action.EXTEND, 600) == [Outcome.EXTENDED] * 4, step
        assert not ids(await bus.work.take(take("other"), ME)), step
        # The record of a key expires by the server's clock, so a step forward ends it.
        if remembered:
            assert ids(await bus.work.take(keyed, ME)) == added, step
    assert await settle(bus, held, Action.DONE) == [Outcome.DONE] * 4


@pytest.mark.parametrize("step", [-HOUR, HOUR])
async def test_times_that_are_shown_are_those_of_the_servers_clock(
    bus: Bus, clock: SetClock, step: float
) -> None:
    await bus.publisher.add("s", [{"n": n} for n in range(2)], Stamp())
    held = await bus.work.take(take(lease_seconds=600), ME)
    clock.set(step)
    later = await bus.work.take(take("d", lease_seconds=600), ME)
    assert held.lease is not None
    extended = await bus.work.settle(
        bus.work.read_lease(str(held.lease), ME), Action.EXTEND, delay_seconds=600
    )
    page = await run_plan(bus.redis, bus.pending.plan_page("s", "g", ME))
    now = milliseconds(clock.server)
    for due in (later.taken.expires, extended.due, *(one.due for one in page.items)):
        assert due is not None
        assert abs(due - now - 600_000) < LATE * 1000


async def test_a_daemon_that_knows_nothing_still_goes_on_after_a_step_back(clock: SetClock) -> None:
    """What lies beside the stream is enough: it has no count of its own of the time before."""
    async with running_bus(clock.server) as bus:
        added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
        await bus.work.take(take(lease_seconds=1), ME)
    clock.set(-HOUR)
    async with running_bus(clock.server) as bus:
        again = await bus.work.take(take("next"), ME, timeout_seconds=1 + LATE)
    assert ids(again) == added


async def test_a_small_step_forward_ends_a_lease_early_by_no_more_than_itself(
    bus: Bus, clock: SetClock
) -> None:
    """Below ten seconds it cannot be told from a request that was on its way for so long."""
    added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
    await bus.work.take(take(lease_seconds=30), ME)
    clock.set(9)
    assert not ids(await bus.work.take(take("early"), ME))
    clock.set(18)
    assert not ids(await bus.work.take(take("early"), ME))
    # From here on it is told: the lease runs on.
    clock.set(40)
    assert not ids(await bus.work.take(take("early"), ME))
    page = await run_plan(bus.redis, bus.pending.plan_page("s", "g", ME))
    left = (page.items[0].due or 0) - page.now
    assert [one.entry.id for one in page.items] == added
    assert 0 < left <= 12_000


async def test_waiting_at_a_group_where_nothing_is_due_writes_nothing(bus: Bus, clock: SetClock) -> None:
    await call(bus, "group_create", **GROUP)
    for step in (0.0, -HOUR, HOUR):
        clock.set(step)
        assert not ids(await bus.work.take(take(), ME, timeout_seconds=0.05))
        assert clock.server.command("EXISTS", ABOUT, DUE) == 0
    # Nor does a record that says that the clock was set outlive what was due.
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    held = await bus.work.take(take(), ME)
    clock.set(0)
    assert await settle(bus, held, Action.EXTEND, 60) == [Outcome.EXTENDED]
    before = clock.server.command("HGET", ABOUT, "clock").split()
    assert int(before[0]) - int(before[1]) > HOUR * 900
    assert await settle(bus, held, Action.DONE) == [Outcome.DONE]
    await bus.publisher.add("s", [{"n": 2}], Stamp())
    await bus.work.take(take(), ME)
    after = clock.server.command("HGET", ABOUT, "clock").split()
    assert after[0] == after[1]
    assert after[2] != before[2]


async def test_a_record_goes_with_its_group_and_with_its_stream(bus: Bus, clock: SetClock) -> None:
    for stream, tool, how in (
        ("s", "group_manage", {"group": "g", "action": "destroy"}),
        ("s", "stream_manage", {"action": "delete", "force": True}),
    ):
        await bus.publisher.add(stream, [{"n": 1}], Stamp())
        assert ids(await bus.work.take(take(), ME))
        assert 0 < clock.server.command("PTTL", ABOUT) <= 90 * 86_400_000
        await call(bus, tool, stream=stream, **how, dry_run=False)
        assert clock.server.command("EXISTS", ABOUT, DUE) == 0


@pytest.mark.parametrize(("step", "way"), [(-HOUR, "back"), (HOUR, "forward")])
async def test_stream_health_says_that_the_clock_was_set(
    bus: Bus, clock: SetClock, step: float, way: str
) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    held = await bus.work.take(take(lease_seconds=600), ME)
    before = await call(bus, "stream_health", **GROUP)
    clock.set(step)
    # Whether somebody took meanwhile or not.
    at_once = await call(bus, "stream_health", **GROUP)
    await bus.work.take(take("other"), ME)
    later = await call(bus, "stream_health", **GROUP)
    assert await settle(bus, held, Action.DONE) == [Outcome.DONE]
    finished = await call(bus, "stream_health", **GROUP)
    for told in (at_once, later):
        (finding,) = (one for one in told["findings"] if one["code"] == "clock_set")
        assert abs(finding["evidence"]["step_seconds"] - step) < LATE
        assert way in finding["cause"]
        assert "synchroni" in finding["cause"]
    codes = [{one["code"] for one in told["findings"]} for told in (before, later, finished)]
    assert ["clock_set" in each for each in codes] == [False, True, False]
    # New entries go on from the IDs of before, which lie in the future now.
    assert ["ids_ahead_of_clock" in each for each in codes] == [False, step < 0, step < 0]


@attrs.define
class Delivery:
    """What is known of the latest delivery of an entry; times by the tests' own clock."""

    sent: float = -math.inf  #: When its take was sent: the lease ran from no earlier.
    until: float = -math.inf  #: Nobody else may get the entry before.
    late_after: float = math.inf  #: Somebody should have got it by then.


@pytest.mark.parametrize("seconds", counts(4, ci=20, full=120))
@pytest.mark.limit(60, seconds=1)
async def test_under_load_nothing_is_delivered_early_and_nothing_is_stuck(
    clock: SetClock, seconds: float
) -> None:
    """Two daemons and eight workers, while the clock jumps between an hour back and an hour forward."""
    dice = random.Random(20_261_128)
    lease, entries = 0.5, 400
    latest: dict[str, Delivery] = {}
    finished: set[str] = set()
    early: list[float] = []
    stuck: list[float] = []
    steps = deliveries = 0

    async def work(number: int, bus: Bus, end: float) -> None:
        nonlocal deliveries
        while trio.current_time() < end or len(finished) < len(latest):
            sent = trio.current_time()
            work = await bus.work.take(
                take(f"c{number}", count=3, lease_seconds=lease), ME, timeout_seconds=0.2
            )
            got = trio.current_time()
            for entry_id in ids(work):
                before = latest[entry_id]
                assert entry_id not in finished
                if got < before.until:
                    early.append(before.until - got)
                if got > before.late_after:
                    stuck.append(got - before.late_after)
                latest[entry_id] = Delivery(sent, sent + lease, got + lease + LATE)
                deliveries += 1
            if work.taken.entries:
                await deal_with(bus, work)

    async def deal_with(bus: Bus, work: Work) -> None:
        what = dice.choice(["done", "done", "done", "extend", "retry", "release", "crash"])
        if what == "crash":
            return
        sent = trio.current_time()
        if what == "extend":
            outcomes = await settle(bus, work, Action.EXTEND, lease)
        elif what == "done":
            outcomes = await settle(bus, work, Action.DONE)
        else:
            # What is given back may be taken before this task hears that it was.
            delay = lease if what == "retry" else 0.0
            for entry_id in ids(work):
                latest[entry_id].until = min(latest[entry_id].until, sent + delay)
            outcomes = await settle(bus, work, Action.RETRY, delay)
        got = trio.current_time()
        for entry_id, outcome in zip(ids(work), outcomes, strict=True):
            if outcome is Outcome.DONE:
                finished.add(entry_id)
            elif outcome is Outcome.EXTENDED and latest[entry_id].until < sent + lease:
                latest[entry_id].until = sent + lease
                latest[entry_id].late_after = got + lease + LATE

    async def set_clock(end: float) -> None:
        nonlocal steps
        while trio.current_time() < end or steps < 5:
            clock.set(dice.choice([-HOUR, 0.0, HOUR]))
            steps += 1
            await trio.sleep(dice.uniform(0.05, 0.4))

    async with running_bus(clock.server, FOREVER) as one, running_bus(clock.server, FOREVER) as two:
        for _ in range(0, entries, 50):
            added = await one.publisher.add("s", [{"n": n} for n in range(50)], Stamp())
            latest.update({entry_id: Delivery() for entry_id in added.ids})
        # Each daemon has heard of the group before the clock is set.
        for bus in (one, two):
            await bus.work.take(take("first", lease_seconds=lease), ME)
        end = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(set_clock, end)
            for number in range(8):
                nursery.start_soon(work, number, (one, two)[number % 2], end)
        assert clock.server.command("XPENDING", "s", "g")[0] == 0
    assert deliveries > entries
    assert finished == set(latest)
    # The daemons' count may differ from the server's by a quarter of a second; see `streams.group_clocks`.
    with measured:
        assert [round(by, 3) for by in early if by > 0.25] == []
        assert [round(by, 3) for by in stuck] == []
