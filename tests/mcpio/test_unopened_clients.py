"""Clients that were accepted wait for their turns: who connects often keeps nobody else waiting."""

from __future__ import annotations

import math
import socket
import time
from functools import partial

import pytest
import trio
import trio.lowlevel

from redstreamd.admission.accounts import Account, Accounts, Held, Peer
from redstreamd.admission.turns import turns
from redstreamd.admission.usage import usage
from redstreamd.mcpio.connection_events import Bound
from redstreamd.mcpio.unopened_clients import UnopenedClients
from tests.mcpio.serving import PRINCIPAL

GREEDY, OTHER = Peer(1000, 1), Peer(1000, 2)


class Field:
    """UnopenedClients in a pass that has no room for more, with a process that got much."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.changes = 0
        self.unopened = UnopenedClients(self.accounts, on_change=self._change)
        self.begun: list[str] = []
        self.refused: list[tuple[str, Bound, str]] = []
        turn = turns()
        turn.ends = turn._turn_ends = turn._ran = -math.inf
        self.accounts.open(PRINCIPAL, GREEDY, "busy").charge(10.0, 0.0)
        self.accounts.open(PRINCIPAL, OTHER, "idle").charge(0.001, 0.0)

    def add(self, name: str, peer: Peer, *, at_once: bool = False) -> socket.socket:
        """Let a client arrive, and return its side."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self.unopened.add(
            stream,
            PRINCIPAL,
            peer,
            partial(self._begin, name, ours),
            refuse=partial(self._refuse, name, ours),
            at_once=at_once,
        )
        return theirs

    def _begin(self, name: str, ours: socket.socket) -> None:
        self.begun.append(name)
        ours.close()

    def _refuse(self, name: str, ours: socket.socket, bound: Bound, why: str) -> None:
        self.refused.append((name, bound, why))
        ours.close()

    def _change(self) -> None:
        self.changes += 1

    def process(self, peer: Peer) -> Account:
        """Return the account of a process."""
        return next(each for each in self.accounts.processes() if each.peer == peer)

    def places(self) -> int:
        """Return how many connections are counted besides the two that are open."""
        return self.accounts.all.held[Held.CONNECTIONS] - 2


async def test_a_process_that_got_little_is_opened_before_those_that_connected_before_it() -> None:
    field = Field()
    greedy = [field.add(f"greedy {number}", GREEDY) for number in range(20)]
    other = field.add("other", OTHER)
    # They hold their places while they wait.
    assert field.begun == []
    assert field.places() == 21
    for _ in range(100):
        await trio.lowlevel.checkpoint()
    assert field.begun.index("other") <= 2
    assert sorted(field.begun) == sorted(["other", *(f"greedy {number}" for number in range(20))])
    assert field.places() == 0
    for each in [*greedy, other]:
        each.close()


async def test_all_that_wait_are_opened_when_the_daemon_stops() -> None:
    field = Field()
    clients = [field.add(f"{number}", GREEDY) for number in range(3)]
    assert field.begun == []
    field.unopened.begin_all()
    clients.append(field.add("at once", GREEDY, at_once=True))
    assert field.begun == ["0", "1", "2", "at once"]
    assert field.places() == len(turns().waiting) == 0
    for each in clients:
        each.close()


async def test_who_still_waits_in_the_end_is_closed_and_holds_nothing() -> None:
    field = Field()
    client = field.add("one", GREEDY)
    field.unopened.close()
    assert client.recv(1) == b""
    assert field.places() == len(turns().waiting) == 0
    assert field.begun == []
    client.close()


@pytest.mark.parametrize("ends_by", ["begin_all", "close", "give_way"])
async def test_a_turn_that_was_granted_before_the_client_was_opened_or_closed_does_nothing(
    ends_by: str,
) -> None:
    field = Field()
    client = field.add("one", GREEDY)
    # At the end of a pass the next one takes its place out of the queue, see `Turns._grant`.
    _, (granted, _) = turns().waiting.pop()
    assert not isinstance(granted, trio.lowlevel.Task)
    if ends_by == "give_way":
        assert field.unopened.give_way(field.process(GREEDY), Bound.CONNECTIONS, "why")
    else:
        getattr(field.unopened, ends_by)()
    granted.read()
    assert field.begun == (["one"] if ends_by == "begin_all" else [])
    assert field.places() == len(field.unopened) == 0
    client.close()


async def test_the_client_of_a_process_that_came_last_gives_way_first() -> None:
    field = Field()
    clients = [field.add(name, GREEDY) for name in ("first", "last")]
    other = field.add("other", Peer(1000, 3))
    assert (len(field.unopened), field.places(), field.changes) == (3, 3, 3)
    assert not field.unopened.give_way(field.process(OTHER), Bound.CONNECTIONS, "nobody waits")
    assert field.unopened.give_way(field.process(GREEDY), Bound.CONNECTIONS, "why")
    assert field.refused == [("last", Bound.CONNECTIONS, "why")]
    assert (len(field.unopened), field.places(), field.changes) == (2, 2, 4)
    assert len(turns().waiting) == 2
    assert field.unopened.give_way(field.process(GREEDY), Bound.CONNECTIONS, "why")
    assert not field.unopened.give_way(field.process(GREEDY), Bound.CONNECTIONS, "none is left")
    field.unopened.begin_all()
    assert field.begun == ["other"]
    assert field.places() == 0
    for each in [*clients, other]:
        each.close()


async def test_who_cannot_be_opened_or_refused_holds_nothing_afterwards() -> None:
    def break_down(_name: str, ours: socket.socket, *_why: object) -> None:
        ours.close()
        raise OSError("a defect of ours")

    field = Field()
    field._begin = field._refuse = break_down  # type: ignore[method-assign] # it is what is tested
    clients = [field.add(f"{number}", GREEDY) for number in range(2)]
    with pytest.raises(OSError, match="a defect of ours"):
        field.unopened.begin_all()
    with pytest.raises(OSError, match="a defect of ours"):
        field.unopened.give_way(field.process(GREEDY), Bound.CONNECTIONS, "why")
    assert field.places() == len(field.unopened) == len(turns().waiting) == 0
    for each in clients:
        each.close()


async def test_each_that_waits_is_a_connection_of_its_process_in_the_usage() -> None:
    field = Field()
    clients = [field.add(f"{number}", GREEDY) for number in range(3)]
    field.process(GREEDY).charge(1.0, time.perf_counter())
    (busiest,) = usage(field.accounts).busiest
    assert busiest.connections == 1 + 3
    field.unopened.close()
    for each in clients:
        each.close()
