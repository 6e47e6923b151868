"""Clients that were accepted and are opened when it is their turn.

A listening socket has one line for all: who connects a thousand times a second would keep whoever connects
once waiting behind that. So connections are accepted as fast as they come, which is cheap, and wait here for
turns, where each process has its share. Each holds its place among the connections meanwhile.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec
import trio

from redstreamd.admission.accounts import FIRST_PART_SECONDS, Account, Accounts, Peer
from redstreamd.admission.turns import turns
from redstreamd.policy import Principal


class _Unopened(msgspec.Struct, eq=False):
    """A client that waits to be opened.

    Attributes:
        clients: Where it waits.
        stream: Its connection.
        account: Holds its place.
        begin: Opens it.
    """

    clients: UnopenedClients
    stream: trio.SocketStream
    account: Account
    begin: Callable[[], None]

    def read(self) -> None:
        """Open it: its turn has come."""
        self.clients.begin(self)


class UnopenedClients:
    """The clients that wait to be opened."""

    def __init__(self, accounts: Accounts) -> None:
        """Count them in `accounts`."""
        self._accounts = accounts
        self._waiting: dict[_Unopened, tuple[_Unopened, float]] = {}

    def add(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        peer: Peer,
        begin: Callable[[], None],
        *,
        at_once: bool,
    ) -> None:
        """Open a client, now or when it is its turn.

        Args:
            stream: Its connection, which is closed by `close` if it was not opened by then.
            principal: On whose behalf it calls.
            peer: Who connected.
            begin: Opens it; must not block or raise.
            at_once: Whether it is opened now in any case.
        """
        turn = turns()
        if at_once or not (turn.waiting.count or (time.perf_counter() >= turn.ends and turn.is_over())):
            begin()
            return
        client = _Unopened(self, stream, self._accounts.open(principal, peer, secrets.token_hex(8)), begin)
        place = self._waiting[client] = client, FIRST_PART_SECONDS
        turn.work_for(client.account)
        if turn.let_pass(client.account.parent or client.account):
            self.begin(client)
        else:
            turn.queue(client.account, place)
        turn.work_for(None)

    def begin(self, client: _Unopened) -> None:
        """Open a client that waits for its turn no more."""
        del self._waiting[client]
        # Its connection has an account of its own by then, so that what the process got is not forgotten.
        client.begin()
        self._accounts.close(client.account)

    def begin_all(self) -> None:
        """Open all, whether it is their turn or not."""
        for client, place in list(self._waiting.items()):
            turns().leave(client.account, place)
            self.begin(client)

    def close(self) -> None:
        """Close the connections of all that wait."""
        for client, place in list(self._waiting.items()):
            turns().leave(client.account, place)
            client.stream.socket.close()
            self._accounts.close(client.account)
        self._waiting.clear()
