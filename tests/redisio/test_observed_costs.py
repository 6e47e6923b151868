"""What dear requests are taken to cost; in virtual time, and on a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
import trio

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import Turns, turns
from redstreamd.policy import Principal
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.observed_costs import ARRIVALS, MAX_PLACES, InputPolls, ObservedCosts
from redstreamd.redisio.pipeline import Pipeline
from redstreamd.redisio.redis_request import Request
from redstreamd.redisio.script import Script
from redstreamd.redisio.work_window import SCRIPT_SECONDS, SHARED_WINDOW_SECONDS
from tests.redisio.running import over_tcp, running_connection
from tests.support.servers import Server
from tests.support.turns_clock import TurnsClock

DEAR, CHEAP = ("take", "orders:group"), ("take", "others:group")


def connection(accounts: Accounts, pid: int = 1) -> Account:
    return accounts.open(Principal("me", "unix"), Peer(1000, pid), str(pid))


class Polls(InputPolls):
    """Those of a process that is none."""

    def note(self, now: float) -> None:
        """Nothing: the test says it."""


class Link:
    """A connection to a server, in virtual time.

    Attributes:
        way: Seconds to the server and back.
    """

    def __init__(self, clock: TurnsClock) -> None:
        self.clock = clock
        self.way = 0.0001
        self.polls = Polls()
        self.costs = ObservedCosts(self.polls)
        self.account = connection(Accounts())
        self.pipeline = Pipeline(lambda: None)

    def requests(self, places: Sequence[tuple[str, str]]) -> deque[Request]:
        found: deque[Request] = deque()
        for place in places:
            observed = self.costs.dear.get(place, 0.0)
            seconds = SCRIPT_SECONDS + observed
            found.append(Request(self.pipeline, None, self.account, "take", seconds, place, observed))
        return found

    def ask(self, *places: tuple[str, str], took: float, busy: float = 0.0) -> None:
        """Send requests, which take the server so long together; then this process is busy for a while."""
        requests = self.requests(places)
        arrives = self.clock.now + self.way + took
        looked = self.clock.now + busy
        # It is asleep until they arrive, or finds them when it looks the next time.
        self.polls.unready = arrives if looked < arrives else self.clock.now
        round_trip = max(arrives, looked) - self.clock.now
        self.clock.now += round_trip
        self.costs.arrived(requests, len(requests), round_trip)
        self.costs.given_at = self.clock.now


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    clock = TurnsClock()
    monkeypatch.setattr("redstreamd.redisio.observed_costs.time", clock)
    made = Link(clock)
    # As the login is.
    made.ask(took=0.0)
    return made


def test_what_takes_long_several_times_in_a_row_is_dear_until_it_is_cheap(link: Link) -> None:
    for number in range(ARRIVALS):
        assert not link.costs.dear
        link.ask(*[DEAR] * 10, took=0.009 + number * 0.001)
    assert link.costs.dear == {DEAR: pytest.approx(0.0009, rel=0.05)}
    for _ in range(100):
        link.ask(DEAR, took=0.0009)
    assert 0.0007 < link.costs.dear[DEAR] < 0.001
    link.ask(DEAR, took=0.00002)
    assert link.costs.dear.get(DEAR, 0.0) < 0.0002


def test_a_server_without_a_core_now_and_then_makes_nothing_dear(link: Link) -> None:
    for number in range(100):
        link.ask(*[CHEAP] * 4, took=0.02 if number % ARRIVALS else 0.0001)
    assert not link.costs.dear


def test_a_far_server_makes_nothing_dear(link: Link) -> None:
    link.way = 0.02
    far = Link(link.clock)
    far.way = 0.02
    for _ in range(100):
        far.ask(CHEAP, took=0.0001)
    assert not far.costs.dear
    # One that has come to be farther does for a while.
    for _ in range(5_000):
        link.ask(CHEAP, took=0.0001)
    assert not link.costs.dear


def test_what_this_process_does_meanwhile_makes_nothing_dear(link: Link) -> None:
    for _ in range(100):
        link.ask(*[CHEAP] * 10, took=0.0002, busy=0.01)
    assert not link.costs.dear


def test_what_is_cheap_is_not_dear_for_long_because_it_came_with_what_is(link: Link) -> None:
    for _ in range(ARRIVALS):
        link.ask(DEAR, DEAR, CHEAP, took=0.002)
    for _ in range(10):
        link.ask(CHEAP, took=0.00002)
        link.ask(DEAR, took=0.001)
    assert set(link.costs.dear) == {DEAR}
    for _ in range(100):
        link.ask(DEAR, CHEAP, took=0.001)
    assert set(link.costs.dear) == {DEAR}


def test_no_more_is_kept_than_there_is_room_for(link: Link) -> None:
    for number in range(MAX_PLACES + 10):
        for _ in range(ARRIVALS):
            # Several at once: what a place takes alone may be the way.
            link.ask(*[("take", f"{number}")] * 10, took=0.01)
        link.ask(took=0.0)
    assert len(link.costs.dear) == MAX_PLACES
    assert ("take", f"{MAX_PLACES + 9}") in link.costs.dear


def test_what_the_server_does_once_for_many_makes_none_of_them_dear(link: Link) -> None:
    # As with ``appendfsync always``: the disk is written to once, however many commands there were.
    for _ in range(20):
        link.ask(("add", "a"), took=0.003)
        link.ask(*[("add", "a")] * 16, took=0.003)
    assert not link.costs.dear


def test_a_far_server_whose_way_differs_makes_nothing_dear(link: Link) -> None:
    link.way = 0.010
    for number in range(3000):
        link.ask(*[("add", "a")] * 16, took=(number * 7 % 11) * 0.0005)
    assert not link.costs.dear


def test_a_way_that_becomes_longer_makes_nothing_dear_for_long(link: Link) -> None:
    for _ in range(100):
        link.ask(*[("add", "a")] * 16, took=0.0001)
    link.way = 0.030
    for _ in range(300):
        link.ask(*[("add", "a")] * 16, took=0.0001)
    assert not link.costs.dear


@pytest.mark.usefixtures("turns_clock")
def test_requests_that_wait_are_sent_and_charged_as_what_was_found_meanwhile() -> None:
    accounts, turn = Accounts(), Turns()
    greedy, other = connection(accounts), connection(accounts, 2)
    pipeline = Pipeline(lambda: None, turn)
    for account in (greedy, other):
        turn.work_for(account)
    turn.is_shared = True
    turn.work_for(greedy)
    for _ in range(200):
        pipeline.enqueue(("EVALSHA", "take", 1, "orders:group"), lambda _: None)
    first = pipeline.queued - pipeline.deferred
    assert first > 20
    pipeline.take(0.0)
    pipeline.awaited.costs.dear["take", "orders:group"] = 0.0009
    turn.work_for(None)
    before = greedy.rank
    assert pipeline.awaited.answer([b"ok"] * first, print) == ()
    sent = pipeline.queued - pipeline.deferred
    # One more may be sent while less than the limit is there.
    assert sent <= 1 + SHARED_WINDOW_SECONDS / 0.0009
    assert greedy.rank - before >= sent * 0.0009
    # Nothing is left when all are answered.
    while pipeline.queued:
        pipeline.take(0.0)
        assert pipeline.awaited.answer([b"ok"] * pipeline.in_flight, print) == ()
    assert pipeline.deferred == 0


async def test_a_script_that_takes_long_is_found_on_a_server(redis_server: Server) -> None:
    script = Script("local n = 0 for i = 1, tonumber(ARGV[1]) do n = n + i % 7 end return n")
    assert isinstance(redis_server.command("SCRIPT", "LOAD", script.source), bytes)
    link = Connection(over_tcp(redis_server), role="test")
    async with running_connection(link):
        pipeline = link.pipeline
        account = connection(Accounts())

        async def ask(key: str, rounds: int) -> None:
            together = []
            for _ in range(8):
                turns().work_for(account)
                together.append(pipeline.enqueue(("EVALSHA", script.sha, 1, key, rounds)))
                turns().work_for(None)
            for request in together:
                await request.reply()

        dear = pipeline.awaited.costs.dear
        with trio.fail_after(20):
            while (script.sha, "dear") not in dear:
                await ask("dear", 200_000)
                await ask("cheap", 1)
        assert dear[script.sha, "dear"] >= 0.0001
        with trio.fail_after(20):
            while (script.sha, "cheap") in dear:
                await ask("cheap", 1)
            # It is not dear any more.
            while (script.sha, "dear") in dear:
                await ask("dear", 1)
