"""Clients that were accepted wait for their turns: who connects often keeps nobody else waiting."""

from __future__ import annotations

import math
import socket
from functools import partial

import trio
import trio.lowlevel

from redstreamd.admission.accounts import Accounts, Held, Peer
from redstreamd.admission.turns import turns
from redstreamd.mcpio.unopened_clients import UnopenedClients
from tests.mcpio.serving import PRINCIPAL

GREEDY, OTHER = Peer(1000, 1), Peer(1000, 2)


class Field:
    """UnopenedClients in a pass that has no room for more, with a process that got much."""

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.unopened = UnopenedClients(self.accounts)
        self.begun: list[str] = []
        turn = turns()
        turn.ends = turn._turn_ends = turn._ran = -math.inf
        self.accounts.open(PRINCIPAL, GREEDY, "busy").charge(10.0, 0.0)
        self.accounts.open(PRINCIPAL, OTHER, "idle").charge(0.001, 0.0)

    def add(self, name: str, peer: Peer, *, at_once: bool = False) -> socket.socket:
        """Let a client arrive, and return its side."""
        ours, theirs = socket.socketpair()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self.unopened.add(stream, PRINCIPAL, peer, partial(self._begin, name, ours), at_once=at_once)
        return theirs

    def _begin(self, name: str, ours: socket.socket) -> None:
        self.begun.append(name)
        ours.close()

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
