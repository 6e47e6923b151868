"""Clients that were accepted and are opened when it is their turn.

A listening socket has one line for all: who connects a thousand times a second would keep whoever connects
once waiting behind that. So connections are accepted as fast as they come, which is cheap, and wait here for
turns, where each process has its share. Each holds its place among the connections meanwhile, and gives it to
another process as those that are open do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import trio

from redstreamd.admission.accounts import FIRST_PART_SECONDS, Account, Accounts, Held, Peer, names_of
from redstreamd.admission.turns import Place, turns
from redstreamd.mcpio.connection_events import Bound
from redstreamd.policy import Principal

# The account in which those of a process are counted, beside those of its connections, which have hex digits.
_NAME = "unopened"

Names = tuple[str, str, str]
Refuse = Callable[[Bound, str], None]
"""Tells a client why it is not served, and closes it."""


class _Unopened(msgspec.Struct, eq=False):
    """A client that waits to be opened.

    Attributes:
        clients: Where it waits.
        names: Its process, see `names_of`.
        account: Holds the places of all of its process that wait.
        stream: Its connection.
        begin: Opens it.
        refuse: Closes it instead.
    """

    clients: UnopenedClients
    names: Names
    account: Account
    stream: trio.SocketStream
    begin: Callable[[], None]
    refuse: Refuse

    @property
    def place(self) -> Place:
        """What waits for its turn."""
        return self, FIRST_PART_SECONDS

    def read(self) -> None:
        """Open it, unless it was opened or closed after its turn was granted."""
        self.clients.begin(self)


class UnopenedClients:
    """The clients that wait to be opened."""

    def __init__(self, accounts: Accounts, on_change: Callable[[], None]) -> None:
        """Count them in `accounts`.

        Args:
            accounts: Where they hold their places.
            on_change: Called when there is one more, and when one is closed.
        """
        self._accounts = accounts
        self._on_change = on_change
        # By process, in the order in which they came. Invariant: no empty ones.
        self._waiting: dict[Names, dict[_Unopened, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def add(
        self,
        stream: trio.SocketStream,
        principal: Principal,
        peer: Peer,
        begin: Callable[[], None],
        *,
        refuse: Refuse,
        at_once: bool,
    ) -> None:
        """Open a client, now or when it is its turn.

        Args:
            stream: Its connection, which is closed by `close` if it was not opened by then.
            principal: On whose behalf it calls.
            peer: Who connected.
            begin: Opens it; must not block or raise.
            refuse: Called instead if it has to give way; likewise.
            at_once: Whether it is opened now in any case.
        """
        turn = turns()
        if at_once or not (turn.waiting.count or (time.perf_counter() >= turn.ends and turn.is_over())):
            begin()
            return
        names = names_of(principal, peer)
        waiting = self._waiting.get(names)
        if waiting is None:
            waiting, account = (
                self._waiting.setdefault(names, {}),
                self._accounts.open(principal, peer, _NAME),
            )
        else:
            account = next(reversed(waiting)).account
            account.hold(Held.CONNECTIONS)
        client = _Unopened(self, names, account, stream, begin, refuse)
        waiting[client] = None
        self._count += 1
        self._on_change()
        turn.work_for(account)
        if turn.let_pass(account.parent or account):
            self.begin(client)
        else:
            turn.queue(account, client.place)
        turn.work_for(None)

    def begin(self, client: _Unopened) -> None:
        """Open a client, if it waits."""
        if not self._take(client):
            return
        try:
            client.begin()
        finally:
            # Its connection has an account of its own by then, so that what the process got is not forgotten.
            self._forget(client)

    def begin_all(self) -> None:
        """Open all, whether it is their turn or not."""
        for client in self._all():
            self.begin(client)

    def give_way(self, process: Account, bound: Bound, why: str) -> bool:
        """Refuse the client of a process that came last; False if none of it waits.

        Args:
            process: The account of the process.
            bound: Which one another client has reached.
            why: What it is told.
        """
        principal, user, name = (each.name for each in process.path()[1:])
        waiting = self._waiting.get((principal, user, name))
        if waiting is None:
            return False
        client = next(reversed(waiting))
        self._take(client)
        try:
            client.refuse(bound, why)
        finally:
            self._forget(client)
            self._on_change()
        return True

    def close(self) -> None:
        """Close the connections of all that wait."""
        for client in self._all():
            self._take(client)
            client.stream.socket.close()
            self._forget(client)
        self._on_change()

    def _all(self) -> list[_Unopened]:
        return [client for waiting in self._waiting.values() for client in waiting]

    def _take(self, client: _Unopened) -> bool:
        """Have a client wait no more, neither here nor for its turn; return whether it did."""
        waiting = self._waiting.get(client.names)
        if waiting is None or client not in waiting:
            return False
        del waiting[client]
        if not waiting:
            del self._waiting[client.names]
        self._count -= 1
        turns().leave(client.account, client.place)
        return True

    def _forget(self, client: _Unopened) -> None:
        """Give the place of a client back, and the account of its process with the last one."""
        client.account.hold(Held.CONNECTIONS, -1)
        if not client.account.held[Held.CONNECTIONS]:
            self._accounts.close(client.account)
