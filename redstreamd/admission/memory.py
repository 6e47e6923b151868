"""One budget of memory for what all clients together make the daemon hold.

Owns what happens beyond the budget: whoever holds most gives back first. Most is decided from the top of the
tree of accounts: the principal, of that the user, the process, the connection. So a client with many
connections cannot make another one pay. What a connection gives back is for the connection to decide.

Only what has grown is counted, in steps of `STEP_BYTES`, so a short message costs nothing here.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Final, Protocol

import msgspec

from redstreamd.admission.accounts import Account, Accounts, Held, Level

#: What may change in one place of a connection before it is counted. 4,096 connections with three places each
#: keep 48 MiB uncounted at most, and usually nothing.
STEP_BYTES: Final = 4_096
#: Processes, and connections of each, that are asked to give back at a time. More would hold up the event
#: loop; who sends the next bytes asks again.
_PROCESSES: Final = 4
_CONNECTIONS: Final = 4


class Holder(Protocol):
    """What holds memory on behalf of a client: a connection."""

    def give_back(self) -> bool:
        """Free the largest thing that is held, and return whether there was one."""
        ...

    def on_refused(self) -> None:
        """Take note that a request was refused."""
        ...


class Share(msgspec.Struct, eq=False):
    """What one connection holds of a budget; made by `Memory.open`.

    Attributes:
        memory: The budget.
        account: Where it is counted.
        holder: The connection.
    """

    memory: Memory
    account: Account
    holder: Holder

    def hold(self, amount: int) -> None:
        """Count so many bytes more, or fewer; beyond the budget, whoever holds most gives back."""
        self.account.hold(Held.BYTES, amount)
        if amount > 0 and self.memory.is_exceeded:
            self.memory.reclaim()

    def may_hold(self, amount: int) -> bool:
        """As `hold`; but beyond the budget, if nobody holds more than this one, count nothing: False."""
        if amount > 0 and self.memory.is_greedy(self.account, amount):
            return False
        self.hold(amount)
        return True

    def detach(self) -> None:
        """Let go of the connection, which has ended."""
        del self.holder

    def close(self) -> None:
        """Ask the connection no more. What it still holds goes with its account."""
        self.memory.close(self.account)


class Memory:
    """The budget.

    Attributes:
        max_bytes: The budget.
    """

    def __init__(self, accounts: Accounts, max_bytes: int) -> None:
        """Let what `accounts` hold be at most so many bytes."""
        self.max_bytes = max_bytes
        self._accounts = accounts
        self._holders: dict[Account, Holder] = {}
        self._is_reclaiming = False

    def open(self, account: Account, holder: Holder) -> Share:
        """Return the share of a connection, until `Share.close`."""
        self._holders[account] = holder
        return Share(self, account, holder)

    def close(self, account: Account) -> None:
        """Forget a connection."""
        del self._holders[account]

    @property
    def is_exceeded(self) -> bool:
        """Whether more is held than the budget."""
        return self._accounts.all.held[Held.BYTES] > self.max_bytes

    def is_greedy(self, account: Account, amount: int) -> bool:
        """Return whether so many bytes more would exceed the budget, and nobody would then hold more."""
        if self._accounts.all.held[Held.BYTES] + amount <= self.max_bytes:
            return False
        path = account.path()
        for parent, member in itertools.pairwise(path):
            most = member.held[Held.BYTES] + amount
            if any(each.held[Held.BYTES] > most for each in parent.members.values() if each is not member):
                return False
        return True

    def reclaim(self) -> None:
        """Have those who hold most give back, until the budget is met or enough were asked."""
        # Who gives back may send an error, which is counted, too.
        if self._is_reclaiming:
            return
        self._is_reclaiming = True
        try:
            for _ in range(_PROCESSES):
                process = self._accounts.greatest(Held.BYTES, Level.PROCESS)
                connections = process.members.values()
                for account in heapq.nlargest(_CONNECTIONS, connections, key=_bytes_of):
                    if not self.is_exceeded:
                        return
                    # None: clients that are not opened yet, which hold nothing.
                    if (holder := self._holders.get(account)) is not None:
                        holder.give_back()
        finally:
            self._is_reclaiming = False


def _bytes_of(account: Account) -> int:
    return account.held[Held.BYTES]
