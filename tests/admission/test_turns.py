from __future__ import annotations

import contextlib
import contextvars
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import ACCOUNT, MAX_QUEUED, next_turn, turns
from redstreamd.policy import Principal
from tests.support.turns_clock import TurnsClock

pytestmark = pytest.mark.limit(20)


def connection(accounts: Accounts, pid: int, number: int = 0) -> Account:
    return accounts.open(Principal("me", "unix"), Peer(os.getuid(), pid), f"{pid} {number}")


def start(nursery: trio.Nursery, account: Account, task: object, *args: object) -> None:
    """Start a task that works for an account."""
    context = contextvars.copy_context()
    context.run(ACCOUNT.set, account)
    context.run(nursery.start_soon, task, *args)


async def test_long_work_of_one_process_in_many_tasks_leaves_another_its_turns(
    turns_clock: TurnsClock,
) -> None:
    accounts, seconds, enough = Accounts(), Counter[int](), trio.Event()

    async def work(pid: int) -> None:
        while True:
            turns_clock.now += 0.0005
            seconds[pid] += 1
            if seconds.total() >= 400:
                enough.set()
            await next_turn()

    async with trio.open_nursery() as nursery:
        for number in range(20):
            start(nursery, connection(accounts, 1, number), work, 1)
        start(nursery, connection(accounts, 2), work, 2)
        await enough.wait()
        nursery.cancel_scope.cancel()
    # Turn by turn it would be a twentieth. Half of it is what it gets once it is known how little it had.
    assert seconds[2] >= 0.3 * seconds.total()
    assert not turns().waiting
    assert accounts.all.members["me"].used(turns_clock.now) > 0.1


async def test_nobody_is_charged_for_the_time_of_other_programs(turns_clock: TurnsClock) -> None:
    account = connection(Accounts(), 1)
    account.parent = None
    turns()

    async def work() -> None:
        for seconds, lost in ((0.002, 0.0), (0.01, 0.008), (0.02, 0.015), (0.003, 0.0)):
            turns_clock.now += seconds
            turns_clock.lost += lost
            turns().work_for(account)
        turns_clock.now += 0.001

    async with trio.open_nursery() as nursery:
        start(nursery, account, work)
    assert account.rank == pytest.approx(0.002 + 0.002 + 0.005 + 0.003 + 0.001)


async def test_each_is_charged_at_least_what_it_ran_and_at_most_its_time_by_the_clock(
    turns_clock: TurnsClock,
) -> None:
    chosen, accounts, turn = random.Random(1), Accounts(), turns()
    clients = [connection(accounts, pid) for pid in range(3)]
    for _ in range(200):
        await trio.lowlevel.checkpoint()
        for account in chosen.choices([None, *clients], k=chosen.randint(1, 8)):
            before = [client.rank for client in clients]
            ran = chosen.choice((0.0002, 0.0009, 0.003))
            lost = chosen.choice((0.0, 0.0, 0.0001, 0.005))
            turn.work_for(account)
            turns_clock.now += ran + lost
            turns_clock.lost += lost
            turn.work_for(None)
            for client, rank in zip(clients, before, strict=True):
                least, most = (ran, ran + lost) if client is account else (0.0, 0.0)
                assert least - 1e-9 <= client.rank - rank <= most + 1e-9


async def test_what_is_lost_in_the_daemons_own_steps_gives_nobody_more_than_its_share(
    turns_clock: TurnsClock,
) -> None:
    accounts, seconds, enough = Accounts(), Counter[int](), trio.Event()

    async def own() -> None:
        while True:
            turns_clock.now += 0.004
            turns_clock.lost += 0.004
            await trio.lowlevel.checkpoint()

    async def work(pid: int, step: float) -> None:
        while True:
            await next_turn()
            turns_clock.now += step
            seconds[pid] += step  # type: ignore[assignment]
            if seconds.total() >= 0.4:
                enough.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(own)
        for number in range(4):
            start(nursery, connection(accounts, 1, number), work, 1, 0.0012)
            start(nursery, connection(accounts, 2, number), work, 2, 0.0008)
        await enough.wait()
        nursery.cancel_scope.cancel()
    assert min(seconds[1], seconds[2]) >= 0.4 * seconds.total()


async def test_outside_a_call_a_turn_is_a_checkpoint() -> None:
    with trio.testing.assert_checkpoints():
        await next_turn()
    with trio.CancelScope() as scope:
        scope.cancel()
        await next_turn()
    assert scope.cancelled_caught


async def test_who_is_cancelled_gives_up_the_turn_and_others_go_on() -> None:
    accounts, went_on = Accounts(), trio.Event()

    async def one_turn() -> None:
        await next_turn()
        went_on.set()

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            account = connection(accounts, 1)
            token = ACCOUNT.set(account)
            try:
                scope.cancel()
                await next_turn()
            finally:
                ACCOUNT.reset(token)
        assert scope.cancelled_caught
        assert not turns().waiting
        start(nursery, account, one_turn)
        await went_on.wait()


async def test_a_process_is_held_back_until_fewer_than_half_of_its_commands_wait() -> None:
    account = connection(Accounts(), 1)
    process = account.parent
    assert process is not None
    account.queue(MAX_QUEUED // 2 + 1)
    order: list[int] = []

    async def wait(number: int) -> None:
        await turns().wait_fewer_queued(process)
        order.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 1)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, 2)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as impatient:
            await wait(3)
        assert impatient.cancelled_caught
        account.queue(-1)
        turns().dequeued(account)
        await trio.testing.wait_all_tasks_blocked()
        assert order == []
        account.queue(-1)
        turns().dequeued(account)
    # Woken in the same pass of the scheduler, which has its own order.
    assert sorted(order) == [1, 2]


async def test_all_who_are_held_back_go_on_once_nothing_waits() -> None:
    account = connection(Accounts(), 1)
    process = account.parent
    assert process is not None
    account.queue(MAX_QUEUED)
    async with trio.open_nursery() as nursery:
        for _ in range(3 * MAX_QUEUED):
            nursery.start_soon(turns().wait_fewer_queued, process)
        await trio.testing.wait_all_tasks_blocked()
        # Who comes meanwhile waits behind them.
        assert process in turns().held_back
        account.queue(-MAX_QUEUED)
        turns().dequeued(account)
    assert process not in turns().held_back


class _Reader:
    """Reads one connection, and notes when."""

    def __init__(self, account: Account, source: socket.socket, done: list[str]) -> None:
        self.account, self.source, self.done = account, source, done
        self.has_task = False

    def is_free(self) -> bool:
        return not self.has_task

    def read(self) -> None:
        self.done.append("read " + self.source.recv(100).decode())


class _Server:
    """A server of which is noted what is done."""

    def __init__(self, source: socket.socket, done: list[str]) -> None:
        self.source, self.done = source, done

    def send_now(self) -> None:
        # What is sent may be that of others.
        assert turns().account is None
        self.done.append("send")

    def take_replies(self) -> bool:
        self.done.append("reply " + self.source.recv(100).decode())
        return True


class _Greedy:
    """Does one thing a turn, and then has more work until it has to give way."""

    def __init__(self, account: Account, things: list[Callable[[], object]], done: list[str]) -> None:
        self.account, self.things, self.done, self.place = account, things, done, (self, 0.0)
        self.over = trio.Event()

    def read(self) -> None:
        if self.things:
            self.things.pop(0)()
            while not (time.perf_counter() >= turns().ends and turns().is_over()):
                pass
            self.done.append("others")
            turns().queue(self.account, self.place)
        else:
            self.over.set()


async def test_what_arrives_for_who_got_little_is_taken_up_in_the_turn_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("TURN_SECONDS", "LIGHT_TURN_SECONDS", "LONE_TURN_SECONDS", "_LIGHT_SECONDS"):
        monkeypatch.setattr(f"redstreamd.admission.turns.{name}", 600.0)
    accounts, turn, done, passes = Accounts(), turns(), list[str](), set[float]()
    greedy, light = connection(accounts, 1), connection(accounts, 2)
    assert greedy.parent is not None
    assert light.parent is not None
    with contextlib.ExitStack() as stack:
        ours, theirs, to_server, server = (
            each for _ in range(2) for each in map(stack.enter_context, socket.socketpair())
        )
        reader = _Reader(light, ours, done)
        turn.arrivals.readers = {ours.fileno(): reader}
        turn.arrivals.watch(to_server.fileno(), _Server(to_server, done))
        stack.callback(turn.arrivals.forget, to_server.fileno())
        greedy.charge(1.0, 0.0)
        await turn.turn(greedy, 0.0)
        assert not turn.let_pass(greedy.parent, ours.fileno())
        assert turn.let_pass(light.parent, ours.fileno())

        def while_a_task_has_it() -> None:
            passes.add(turn.now)
            reader.has_task = True
            theirs.send(b"another message")
            server.send(b"another")

        things = [
            lambda: passes.add(turn.now) or theirs.send(b"a message"),  # type: ignore[func-returns-value]
            lambda: server.send(b"a reply"),
            while_a_task_has_it,
        ]
        # What is light is known from the next pass on.
        await trio.testing.wait_all_tasks_blocked()
        others = _Greedy(greedy, things, done)
        turn.queue(greedy, others.place)
        await others.over.wait()
    assert done == [
        *("others", "read a message", "send"),
        *("others", "reply a reply"),
        *("others", "reply another"),
    ]
    assert len(passes) == 1


class _Busy(_Server):
    """A server whose replies cannot be handled now."""

    def take_replies(self) -> bool:
        self.done.append("replies")
        return False


async def test_a_server_that_cannot_handle_its_replies_keeps_nobody_from_their_turns(
    turns_clock: TurnsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TURN_SECONDS", "LIGHT_TURN_SECONDS", "LONE_TURN_SECONDS", "_LIGHT_SECONDS"):
        monkeypatch.setattr(f"redstreamd.admission.turns.{name}", 600.0)
    accounts, turn, done = Accounts(), turns(), list[str]()
    greedy, light = connection(accounts, 1), connection(accounts, 2)
    assert greedy.parent is not None
    assert light.parent is not None
    over = trio.Event()

    class Work:
        left = 100

        def read(self) -> None:
            turns_clock.now += 0.0001
            Work.left -= 1
            done.append("work")
            if Work.left:
                turn.queue(greedy, (self, 0.0))
            else:
                over.set()

    with contextlib.ExitStack() as stack:
        ours, theirs, to_server, server = (
            each for _ in range(2) for each in map(stack.enter_context, socket.socketpair())
        )
        turn.arrivals.watch(to_server.fileno(), _Busy(to_server, done))
        stack.callback(turn.arrivals.forget, to_server.fileno())
        greedy.charge(1.0, 0.0)
        await turn.turn(greedy, 0.0)
        assert turn.let_pass(light.parent, ours.fileno())
        server.send(b"replies")
        await trio.testing.wait_all_tasks_blocked()
        turn.queue(greedy, (Work(), 0.0))
        await over.wait()
        assert theirs.fileno() >= 0
    # It is looked each 0.4 ms of the 10 that the work takes, and when a turn begins.
    assert 0 < done.count("replies") <= 30
