"""Many connections are read in one task: what is served there, and when a task goes on."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import weakref
from collections.abc import Callable, Iterator

import attrs
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import Place, Turns, turns
from redstreamd.mcpio.parked_readers import READ_BYTES, Left, Reader, readers
from redstreamd.policy import Principal
from tests.support.turns_clock import TurnsClock
from tests.support.waiting import until

pytestmark = pytest.mark.limit(20)


@attrs.define(eq=False)
class Client:
    """One connection, of which what is read is noted.

    Attributes:
        number: Its process.
        order: The numbers of all clients, as they were served.
        ours: What is read.
        theirs: Its other end.
        account: Its account.
        reader: Reads.
        leaves: What is left of what is read next, the last first; then nothing.
        taken: What was read.
        during: Called while something is taken.
    """

    number: int
    order: list[int]
    ours: socket.socket
    theirs: socket.socket
    account: Account
    reader: Reader = attrs.field(init=False)
    leaves: list[Left | Exception] = attrs.field(factory=list)
    taken: list[bytes | None] = attrs.field(factory=list)
    during: Callable[[], None] = lambda: None

    def __attrs_post_init__(self) -> None:
        self.ours.setblocking(False)
        self.reader = readers().open(self.ours.fileno(), self.account, self.take)

    def take(self, data: bytes | None) -> Left:
        self.during()
        self.taken.append(data)
        self.order.append(self.number)
        left = self.leaves.pop() if self.leaves else Left.NOTHING if data != b"" else Left.FOR_TASK
        if isinstance(left, Exception):
            raise left
        return left


@contextlib.contextmanager
def clients(count: int, processes: int | None = None) -> Iterator[list[Client]]:
    accounts, order = Accounts(), list[int]()
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            process = number % (processes or count)
            account = accounts.open(Principal("me", "unix"), Peer(os.getuid(), process), str(number))
            made.append(Client(number, order, ours, theirs, account))
            stack.callback(made[-1].reader.close)
        yield made


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pass have room for one turn only."""
    for name in ("TURN_SECONDS", "LIGHT_TURN_SECONDS", "LONE_TURN_SECONDS"):
        monkeypatch.setattr(f"redstreamd.admission.turns.{name}", -1.0)
    # Nobody is so far behind that it need not wait.
    monkeypatch.setattr("redstreamd.admission.turns.is_behind", lambda _process: False)


async def test_what_is_served_at_once_wakes_no_task() -> None:
    with clients(50) as made:
        async with trio.open_nursery() as nursery:
            for client in made:
                nursery.start_soon(client.reader.receive)
            await trio.testing.wait_all_tasks_blocked()
            for text in (b"one", b"two"):
                for client in made:
                    client.theirs.sendall(text)
                await until(lambda text=text: all(client.taken[-1:] == [text] for client in made))
            assert len(nursery.child_tasks) == len(made)
            assert all(client.taken == [b"one", b"two"] for client in made)
            nursery.cancel_scope.cancel()
    assert not turns().waiting


@pytest.mark.parametrize("is_alone", [True, False])
async def test_who_alone_sends_much_is_read_several_times_in_a_pass(is_alone: bool) -> None:
    with clients(1) as [client]:
        passes: list[float] = []

        def note() -> None:
            turns().is_shared = not is_alone
            passes.append(turns().now)

        client.during = note
        client.theirs.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.reader.receive)
            await trio.testing.wait_all_tasks_blocked()
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 5 * READ_BYTES:
                    sent += client.theirs.send(b"x" * READ_BYTES)
            assert sent >= 2 * READ_BYTES
            await until(
                lambda client=client, sent=sent: sum(len(each or b"") for each in client.taken) == sent
            )
            nursery.cancel_scope.cancel()
    most = max(map(passes.count, passes))
    assert 2 <= most <= 3 if is_alone else most == 1


async def test_a_task_goes_on_with_what_is_left_and_at_the_end() -> None:
    with clients(1) as [client]:
        client.leaves = [Left.FOR_TASK]
        client.theirs.sendall(b"one")
        assert await client.reader.receive()
        client.theirs.sendall(b"two")

        async def receive() -> None:
            with trio.testing.assert_checkpoints():
                await client.reader.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await until(lambda: client.taken == [b"one", b"two"])
            nursery.cancel_scope.cancel()
        # While no task waits for more nothing is read.
        client.theirs.sendall(b"three")
        await trio.sleep(0.01)
        assert client.taken == [b"one", b"two"]
        client.theirs.close()
        assert not await client.reader.receive()
        assert client.taken == [b"one", b"two", b"three", b""]


async def test_an_error_is_that_of_the_connection_alone() -> None:
    with clients(2) as [broken, other]:
        broken.leaves = [ValueError("a defect")]
        other.leaves = [Left.FOR_TASK]
        broken.theirs.sendall(b"one")
        with pytest.raises(ValueError, match="a defect"):
            await broken.reader.receive()
        other.theirs.sendall(b"two")
        assert await other.reader.receive()


async def test_who_waits_for_turns_is_served_in_fair_order_and_what_is_left_once_more(no_room: None) -> None:
    with clients(3) as made:
        made[0].leaves = [Left.MESSAGES, Left.MESSAGES]
        async with trio.open_nursery() as nursery:
            for client in made:
                client.account.charge(1.0, 0.0)
                client.theirs.sendall(b"text")
                nursery.start_soon(client.reader.receive)
            await until(lambda: len(made[0].order) == 5)
            assert len(nursery.child_tasks) == len(made)
            nursery.cancel_scope.cancel()
        assert made[0].taken == [b"text", None, None]
        assert made[1].taken == made[2].taken == [b"text"]
        assert not turns().waiting


async def test_who_is_cancelled_while_waiting_for_a_turn_has_read_nothing(no_room: None) -> None:
    with clients(2) as [first, second]:
        reading = []

        async def read(client: Client) -> None:
            with trio.CancelScope() as scope:
                reading.append(scope)
                await client.reader.receive()

        async with trio.open_nursery() as nursery:
            for client in (first, second):
                client.theirs.sendall(b"text")
                nursery.start_soon(read, client)
            while not turns().waiting:
                await trio.lowlevel.checkpoint()
            for scope in reading:
                scope.cancel()
        assert not turns().waiting
        waiting = [client for client in (first, second) if not client.taken]
        assert waiting
        for client in waiting:
            client.leaves = [Left.FOR_TASK]
            assert await client.reader.receive()
            assert client.taken == [b"text"]


async def test_who_has_to_wait_pays_for_its_place_itself(
    turns_clock: TurnsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Turns.queue

    def slow(turn: Turns, account: Account, place: Place) -> None:
        turns_clock.now += 1.0
        queue(turn, account, place)

    def end_of_turn() -> None:
        turns_clock.now += 0.1

    monkeypatch.setattr(Turns, "queue", slow)
    monkeypatch.setattr("redstreamd.admission.turns.is_behind", lambda _process: False)
    with clients(2) as made:
        async with trio.open_nursery() as nursery:
            for client in made:
                client.during = end_of_turn
                client.theirs.sendall(b"text")
                nursery.start_soon(client.reader.receive)
            await until(lambda: len(made[0].order) == 2)
            nursery.cancel_scope.cancel()
        first, second = (made[number] for number in made[0].order)
        # What is charged to the last one is told when somebody else works.
        turns().work_for(None)
        assert first.account.service == pytest.approx(0.1)
        assert second.account.service > 0.9


async def test_those_of_one_process_who_have_to_wait_pay_for_their_places_together(
    turns_clock: TurnsClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Turns.queue

    def slow(turn: Turns, account: Account, place: Place) -> None:
        turns_clock.now += 0.01
        queue(turn, account, place)

    monkeypatch.setattr(Turns, "queue", slow)
    monkeypatch.setattr(Turns, "may_begin", lambda *_: False)
    with clients(5, processes=1) as made:
        async with trio.open_nursery() as nursery:
            for client in made:
                client.theirs.sendall(b"text")
                nursery.start_soon(client.reader.receive)
            await until(lambda: len(made[0].order) == 5)
            nursery.cancel_scope.cancel()
        turns().work_for(None)
        # The first one comes before it is known that others do.
        assert sorted(client.account.service for client in made) == pytest.approx([0, 0, 0, 0, 0.01])
        process = made[0].account.parent
        assert process is not None
        assert process.used(turns_clock.now) == pytest.approx(0.05, rel=0.02)
        assert process.rank == pytest.approx(0.05, rel=0.03)


async def test_what_a_closed_reader_was_for_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        with clients(1) as made:
            freed = weakref.ref(made[0])
            with trio.move_on_after(0.01):
                await made[0].reader.receive()
        made.clear()
        assert freed() is None
    finally:
        gc.enable()
