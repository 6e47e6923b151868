"""Accounts: who holds and uses how much of the daemon.

Owns whom usage is attributed to. Accounts are a tree: all clients, the principals, the users of each, their
processes, and the connections of each process. What a connection holds counts for every account above it, so
a process with a hundred connections is one process, and a user with a hundred processes is one user.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import msgspec

from redstreamd.policy import Principal


class Level(enum.IntEnum):
    """What an account stands for, from the root to the leaves."""

    ALL = 0
    PRINCIPAL = 1
    USER = 2
    PROCESS = 3
    CONNECTION = 4


class Held(enum.IntEnum):
    """What accounts hold, as places of `Account.held`."""

    CONNECTIONS = 0
    WAITS = 1
    SUBSCRIPTIONS = 2
    BYTES = 3


class Peer(msgspec.Struct, frozen=True):
    """Who is at the other end of a connection, as far as the kernel tells.

    Attributes:
        uid: The user; None over TCP, or if it is not known.
        pid: The process; 0 if it is not known.
        address: The address; empty over a Unix socket.
    """

    uid: int | None = None
    pid: int = 0
    address: str = ""


class Account(msgspec.Struct, eq=False):
    """What one client, or several together, hold and use.

    Attributes:
        level: What it stands for.
        name: Its name among the accounts of its parent, for people too: a principal's name, ``uid 1000``,
            ``pid 4711`` or an address, the ID of a connection.
        parent: The account that includes this one; None for that of all.
        members: The accounts that this one includes, by name.
        held: How much it holds now, by `Held`, including what its members hold.
    """

    level: Level
    name: str
    parent: Account | None
    members: dict[str, Account]
    held: list[int]

    def hold(self, what: Held, amount: int = 1) -> None:
        """Count so much more; a negative amount counts less."""
        account: Account | None = self
        while account is not None:
            account.held[what] += amount
            account = account.parent

    def path(self) -> tuple[Account, ...]:
        """Return the accounts from that of all down to this one."""
        above = () if self.parent is None else self.parent.path()
        return (*above, self)


class Accounts:
    """The accounts of all open connections.

    Attributes:
        all: The account of all connections together.
    """

    def __init__(self) -> None:
        """Begin without connections."""
        self.all: Final = Account(Level.ALL, "all", None, {}, [0] * len(Held))

    def open(self, principal: Principal, peer: Peer, connection_id: str) -> Account:
        """Return a new account for a connection; it holds that connection until `close`."""
        names = (
            principal.name,
            "unknown user" if peer.uid is None else f"uid {peer.uid}",
            peer.address or (f"pid {peer.pid}" if peer.pid else "unknown process"),
            connection_id,
        )
        account = self.all
        for level, name in zip(list(Level)[1:], names, strict=True):
            member = account.members.get(name)
            if member is None:
                member = account.members[name] = Account(level, name, account, {}, [0] * len(Held))
            account = member
        account.hold(Held.CONNECTIONS)
        return account

    def close(self, account: Account) -> None:
        """Give back all that a connection's account holds, and forget the accounts that are left without."""
        for what in Held:
            account.hold(what, -account.held[what])
        while account.parent is not None and not account.members:
            del account.parent.members[account.name]
            account = account.parent

    def greatest(self, what: Held, level: Level = Level.CONNECTION) -> Account:
        """Return who holds most: the greatest principal, of that the greatest user, and so on to `level`.

        Without connections it is the account of all.
        """
        return descend(self.all, lambda account: account.held[what], level)


def descend(account: Account, measure: Callable[[Account], float], level: Level) -> Account:
    """Go down from an account to `level`, at each step to the member with the greatest measure."""
    while account.level < level and account.members:
        account = max(account.members.values(), key=measure)
    return account
