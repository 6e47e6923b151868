"""Who is next, in virtual time: nothing runs, seconds are numbers."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.fair_queue import CREDIT_SECONDS, DEBT_SECONDS, FairQueue, is_behind
from redstreamd.policy import Principal

ME, OTHER = Principal("me", "unix"), Principal("other", "unix")


def connections(accounts: Accounts, pid: int, count: int = 1, *, uid: int = 1000) -> list[Account]:
    return [accounts.open(ME, Peer(uid, pid), f"{uid} {pid} {number}") for number in range(count)]


class Work:
    """Serves items one after the other, each for as many seconds as its account's items take."""

    def __init__(self, seconds: dict[Account, float]) -> None:
        self.seconds = seconds
        self.queue: FairQueue[int] = FairQueue()
        self.got: Counter[Account] = Counter()
        self.number = 0

    def add(self, account: Account) -> int:
        self.number += 1
        self.queue.push(account, self.number)
        return self.number

    def serve(self) -> tuple[Account, int]:
        account, item = self.queue.pop()
        seconds = self.seconds[account]
        account.charge(seconds, 0.0)
        self.got[account] += seconds  # type: ignore[assignment]
        return account, item

    def run(self, seconds: float) -> None:
        """Let all that are served ask again at once."""
        until = sum(self.got.values()) + seconds
        while sum(self.got.values()) < until:
            self.add(self.serve()[0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0001, 0.003), min_size=2, max_size=8), st.lists(st.integers(1, 20), min_size=8))
def test_processes_with_different_demands_get_equal_shares(costs: list[float], depths: list[int]) -> None:
    accounts = Accounts()
    clients = [connections(accounts, pid)[0] for pid in range(1, len(costs) + 1)]
    work = Work(dict(zip(clients, costs, strict=True)))
    for client, depth in zip(clients, depths, strict=False):
        for _ in range(depth):
            work.add(client)
    work.run(0.5)
    shares = [work.got[client] for client in clients]
    assert max(shares) - min(shares) <= 2 * max(costs) + CREDIT_SECONDS


def test_a_process_with_a_hundred_connections_gets_as_much_as_one_with_one() -> None:
    accounts = Accounts()
    many, one = connections(accounts, 1, 100), connections(accounts, 2)
    work = Work(dict.fromkeys([*many, *one], 0.001))
    for account in [*many, *one]:
        work.add(account)
    work.run(0.5)
    assert 0.24 <= work.got[one[0]] <= 0.26
    # And the connections of one process share what it gets.
    assert max(work.got[each] for each in many) - min(work.got[each] for each in many) <= 0.002


def test_users_share_before_their_processes_do() -> None:
    accounts = Accounts()
    many = [connections(accounts, pid)[0] for pid in range(1, 11)]
    one = connections(accounts, 20, uid=1001)
    work = Work(dict.fromkeys([*many, *one], 0.001))
    for account in [*many, *one]:
        work.add(account)
    work.run(0.5)
    assert 0.24 <= work.got[one[0]] <= 0.26


def test_one_that_asks_now_and_then_is_next() -> None:
    accounts = Accounts()
    greedy = [connections(accounts, pid)[0] for pid in range(1, 9)]
    polite = connections(accounts, 9)[0]
    work = Work(dict.fromkeys([*greedy, polite], 0.001))
    for account in greedy * 8:
        work.add(account)
    # Its handshake.
    polite.charge(0.001, 0.0)
    for _ in range(50):
        work.run(0.015)
        work.add(polite)
        assert work.serve()[0] is polite


def test_one_that_was_alone_for_an_hour_is_served_beside_a_new_one() -> None:
    accounts = Accounts()
    old = connections(accounts, 1)[0]
    work = Work({old: 0.001})
    work.add(old)
    old.charge(3600.0, 0.0)
    new = connections(accounts, 2)[0]
    work.seconds[new] = 0.001
    work.add(new)
    work.run(0.5)
    assert abs(work.got[old] - work.got[new]) <= DEBT_SECONDS + CREDIT_SECONDS


# What was done long ago must not count. In both, whoever waits already never leaves the queue: an account
# that leaves it is placed anew when it comes back, which would hide what is asked here.


def test_one_that_got_much_long_ago_is_served_beside_one_that_got_little() -> None:
    accounts = Accounts()
    busy, idle = connections(accounts, 1)[0], connections(accounts, 2)[0]
    busy.charge(3600.0, 0.0)
    idle.charge(0.001, 0.0)
    work = Work({busy: 0.001, idle: 0.001})
    for account in (idle, idle, idle, busy, busy, busy):
        work.add(account)
    work.run(0.5)
    assert abs(work.got[busy] - work.got[idle]) <= DEBT_SECONDS + CREDIT_SECONDS


def test_one_that_got_little_for_long_does_not_keep_others_waiting_for_as_long() -> None:
    accounts = Accounts()
    busy, idle = connections(accounts, 1)[0], connections(accounts, 2)[0]
    idle.charge(0.001, 0.0)
    work = Work({busy: 0.001, idle: 0.001})
    for _ in range(3):
        work.add(busy)
    work.run(2)
    before = work.got[busy]
    for _ in range(3):
        work.add(idle)
    work.run(0.5)
    assert abs(work.got[busy] - before - work.got[idle]) <= DEBT_SECONDS + CREDIT_SECONDS


def test_clients_that_come_anew_again_and_again_keep_nobody_waiting() -> None:
    accounts = Accounts()
    steady = connections(accounts, 1)[0]
    work = Work({steady: 0.001})
    work.add(steady)
    for pid in range(2, 102):
        new = connections(accounts, pid)[0]
        work.seconds[new] = 0.001
        work.add(new)
        if work.serve()[0] is steady:
            work.add(steady)
    assert work.got[steady] >= 0.01


def burst(work: Work, accounts: Accounts, account: Account) -> float:
    """Return the seconds that a process gets at once because it is behind; it has 9 ms of work."""
    got = 0.0
    while got < 0.009 and is_behind(account.path()[-2]):
        account.charge(0.001, 0.0)
        got += 0.001
    return got


def test_who_comes_as_a_new_process_each_time_is_behind_as_often_as_one_that_stays() -> None:
    accounts = Accounts()
    greedy = connections(accounts, 1)[0]
    work = Work({greedy: 0.001})
    work.add(greedy)
    work.run(0.1)
    for leaves_at_once in (True, False):
        got = 0.0
        for pid in range(2, 102):
            new = connections(accounts, pid + 100 * leaves_at_once)[0]
            got += burst(work, accounts, new)
            if leaves_at_once:
                accounts.close(new)
            work.run(0.001)
        # As much as the other, and what one may be behind.
        assert got <= 0.1 + DEBT_SECONDS + CREDIT_SECONDS, leaves_at_once


def test_a_new_process_that_asks_for_little_is_behind_each_time() -> None:
    accounts = Accounts()
    greedy = connections(accounts, 1)[0]
    work = Work({greedy: 0.001})
    work.add(greedy)
    work.run(0.1)
    # One that had its share and more leaves.
    left = connections(accounts, 2)[0]
    left.charge(10.0, 0.0)
    accounts.close(left)
    for pid in range(3, 50):
        work.run(0.015)
        new = connections(accounts, pid)[0]
        assert is_behind(new.path()[-2])
        new.charge(0.001, 0.0)
        accounts.close(new)


# Beside many a wait is about a round of all: a turn of a millisecond each.

MANY = 50


def many(accounts: Accounts, rank: float) -> list[Account]:
    """Return connections of as many processes that got so much."""
    found = [connections(accounts, pid)[0] for pid in range(1, MANY + 1)]
    for each in found:
        each.charge(rank, 0.0)
    return found


def until_served(work: Work, account: Account) -> float:
    """Return the seconds of work until an account is served; the others ask again at once."""
    before = work.got.total()
    work.add(account)
    while (served := work.serve()[0]) is not account:
        work.add(served)
    return work.got.total() - before


def test_who_comes_after_many_that_had_nothing_to_do_waits_a_round() -> None:
    accounts = Accounts()
    idle, busy, late = many(accounts, 0.001), *connections(accounts, 98), *connections(accounts, 99)
    work = Work(dict.fromkeys([*idle, busy, late], 0.001))
    for _ in range(2):
        work.add(busy)
    work.run(0.1)
    late.charge(work.got[busy], 0.0)
    for each in idle:
        work.add(each)
    # With the same credit for each, however many, it would be ten rounds.
    assert until_served(work, late) <= 3 * MANY * 0.001


def test_who_is_far_in_debt_waits_for_rounds_not_for_all_that_it_got() -> None:
    accounts = Accounts()
    others, greedy = many(accounts, 0.001), *connections(accounts, 99)
    work = Work(dict.fromkeys([*others, greedy], 0.001))
    for each in others:
        work.add(each)
    work.run(0.1)
    greedy.charge(1.0, 0.0)
    assert MANY * 0.001 <= until_served(work, greedy) <= 5 * MANY * 0.001


def test_who_is_served_alone_in_one_queue_makes_nobody_wait_longer_in_another() -> None:
    accounts = Accounts()
    others, ahead, late = many(accounts, 0.001), *connections(accounts, 98), *connections(accounts, 99)
    work = Work(dict.fromkeys([*others, ahead, late], 0.001))
    for each in others * 2:
        work.add(each)
    late.charge(0.001, 0.0)
    elsewhere = Work({ahead: 0.001})
    elsewhere.add(ahead)
    elsewhere.run(0.1)
    assert until_served(work, late) <= 5 * MANY * 0.001


def test_what_waits_in_a_queue_that_is_held_up_puts_nobody_ahead_in_another() -> None:
    accounts = Accounts()
    one, two, three = connections(accounts, 1, 3)
    other, held_up = *connections(accounts, 2), *connections(accounts, 3)
    work = Work(dict.fromkeys([one, two, other, held_up], 0.001))
    for account in (one, two, other, other):
        work.add(account)
    held_up.charge(0.001, 0.0)
    elsewhere: FairQueue[int] = FairQueue()
    elsewhere.push(held_up, 1)
    work.run(2)
    # Others got 2 s since then.
    assert elsewhere.pop()[0] is held_up
    before = work.got.copy()
    FairQueue[int]().push(three, 1)
    work.run(0.2)
    got = [work.got[one] + work.got[two], work.got[other]]
    assert abs(got[0] - before[one] - before[two] - got[1] + before[other]) <= 0.002


class Queue(RuleBasedStateMachine):
    """Operations in any order: nothing is lost, repeated, or out of the order of its account."""

    def __init__(self) -> None:
        super().__init__()
        tree = Accounts()
        self.accounts = [
            tree.open(principal, Peer(uid, pid), f"{principal.name} {uid} {pid} {number}")
            for principal in (ME, OTHER)
            for uid in (1, 2)
            for pid in (uid * 10, uid * 10 + 1)
            for number in range(2)
        ]
        self.queue: FairQueue[int] = FairQueue()
        self.items: list[tuple[Account, int]] = []
        self.number = 0

    @rule(place=st.integers(0, 15))
    def push(self, place: int) -> None:
        self.number += 1
        account = self.accounts[place]
        self.queue.push(account, self.number)
        self.items.append((account, self.number))

    @precondition(lambda self: self.items)
    @rule(seconds=st.floats(0.0, 0.05))
    def pop(self, seconds: float) -> None:
        account, item = self.queue.pop()
        assert item == next(number for owner, number in self.items if owner is account)
        self.items.remove((account, item))
        account.charge(seconds, 0.0)

    @precondition(lambda self: self.items)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        account, item = data.draw(st.sampled_from(self.items))
        assert self.queue.remove(account, item)
        assert not self.queue.remove(account, item)
        self.items.remove((account, item))

    @rule(place=st.integers(0, 15), seconds=st.floats(0.0, 100.0))
    def charge(self, place: int, seconds: float) -> None:
        """Work that did not wait."""
        self.accounts[place].charge(seconds, 0.0)

    @invariant()
    def has_as_many(self) -> None:
        assert len(self.queue) == len(self.items)

    def teardown(self) -> None:
        popped = [self.queue.pop()[1] for _ in range(len(self.queue))]
        assert sorted(popped) == sorted(number for _, number in self.items)
        assert not any(each.places for account in self.accounts for each in account.path())


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
