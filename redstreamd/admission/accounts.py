"""Accounts: who holds and uses how much of the daemon.

Owns whom usage is attributed to. Accounts are a tree: all clients, the principals, the users of each, their
processes, and the connections of each process. What a connection holds counts for every account above it, so
a process with a hundred connections is one process, and a user with a hundred processes is one user.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs
import msgspec

from redstreamd.policy import Principal

#: What "of late" means where work is counted.
RECENT_SECONDS: Final = 5.0
#: Within so long the decay of what was done does not matter.
_REDUCED_EVERY_SECONDS: Final = 0.1
#: Of how many replies the expected size is about the mean.
_REPLIES: Final = 4
#: What a step of a task is taken to cost before the first one: a request through the SDK.
FIRST_PART_SECONDS: Final = 0.0003


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


_UNKNOWN: Final = Peer()


@attrs.define(eq=False, weakref_slot=False)
class Account:
    """What one client, or several together, hold and use.

    Attributes:
        level: What it stands for.
        name: Its name among the accounts of its parent, for people too: a principal's name, ``uid 1000``,
            ``pid 4711`` or an address, the ID of a connection.
        parent: The account that includes this one; None for that of all.
        members: The accounts that this one includes, by name.
        held: How much it holds now, by `Held`, including what its members hold.
        peer: Of a process and of a connection, who it is.
        rank: Seconds of work that were done for it, as `FairQueue` counts them: only differences between the
            members of one account mean anything.
        level_rank: The rank of the member that was next last in a `FairQueue`.
        began: Its rank as long as it got nothing.
        counted: The rank up to which its parent has counted it in `newcomer_rank`.
        newcomer_rank: The rank of the next new member. What its newest member did counts in it, and what
            those did that have left: else one that comes anew for each burst would always have got little.
        newest: The member that was opened last; None if it has left.
        rivals: How many members waited there then.
        places: In how many queues it has items, itself or through its members.
        service: Seconds of work that were done for this very account, of late: see `used`. What its members
            do is not counted here.
        served_at: When `service` was last reduced, in seconds of the caller's clock.
        queued: Commands for Redis that wait for their turn, of this account and its members; a large one
            counts as several.
        running: Commands for Redis that are under way, of this connection. Not for accounts above.
        part: Seconds that a step of this connection's tasks takes, of late.
        reply_bytes: How large this connection's replies are of late, by kind of command; those that are small
            are left out. None: all of them are.
        is_closed: Whether this connection's account was closed: then the accounts above it may be forgotten,
            and what is done for it counts for nobody who is there. Not for accounts above.
    """

    level: Level
    name: str
    parent: Account | None
    members: dict[str, Account]
    held: list[int]
    peer: Peer = _UNKNOWN
    rank: float = 0.0
    level_rank: float = 0.0
    began: float = 0.0
    counted: float = 0.0
    newcomer_rank: float = 0.0
    newest: Account | None = None
    rivals: int = 0
    places: int = 0
    service: float = 0.0
    served_at: float = 0.0
    queued: int = 0
    running: int = 0
    part: float = FIRST_PART_SECONDS
    reply_bytes: dict[str | bytes | float, float] | None = None
    is_closed: bool = False

    def charge(self, seconds: float, now: float) -> None:
        """Count work that was done for this connection, or for several of an account together.

        Args:
            seconds: How much.
            now: The time, in seconds of any one clock.
        """
        if now - self.served_at > _REDUCED_EVERY_SECONDS:
            self.service *= math.exp((self.served_at - now) / RECENT_SECONDS)
            self.served_at = now
        self.service += seconds
        account: Account | None = self
        while account is not None:
            account.rank += seconds
            account = account.parent

    def used(self, now: float) -> float:
        """Return the seconds of work that were done for it and its members of late.

        What was done `RECENT_SECONDS` ago counts a third, so `RECENT_SECONDS` is as much as there can be.
        """
        used = self.service * math.exp((self.served_at - now) / RECENT_SECONDS)
        return used + sum(member.used(now) for member in self.members.values())

    def under_way(self) -> int:
        """Return how many commands for Redis are under way for it and its members."""
        return self.running + sum(member.under_way() for member in self.members.values())

    def expect(self, kind: str | bytes | float, reply_bytes: int) -> None:
        """Take note of how large a reply to a kind of command was; 0 if it was small."""
        expected = self.reply_bytes
        if expected is None:
            expected = self.reply_bytes = {}
        mean = expected.get(kind, 0.0)
        mean += (reply_bytes - mean) / _REPLIES
        if mean >= 1:
            expected[kind] = mean
        elif kind in expected:
            del expected[kind]

    def add(self, member: Account) -> None:
        """Add a member, which begins where the newest one is, and those that have left were."""
        if self.newest is not None:
            self._count(self.newest)
        member.rank = member.began = member.counted = self.newcomer_rank
        self.members[member.name] = self.newest = member

    def remove(self, member: Account) -> None:
        """Remove a member."""
        self._count(member)
        del self.members[member.name]
        if member is self.newest:
            # No cycle is left for Python's collector.
            self.newest = None

    def _count(self, member: Account) -> None:
        """Count what a member did in the rank of the next new one: that is no more than what others have."""
        done, member.counted = member.rank - member.counted, member.rank
        self.newcomer_rank = max(self.newcomer_rank, min(self.newcomer_rank + done, self.level_rank))

    def queue(self, amount: int) -> None:
        """Count so many more commands as waiting; a negative amount counts less."""
        account: Account | None = self
        while account is not None:
            account.queued += amount
            account = account.parent

    def hold(self, what: int, amount: int = 1) -> None:
        """Count so much more of one of `Held`; a negative amount counts less."""
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
        names = (*names_of(principal, peer), connection_id)
        account = self.all
        for level, name in zip(list(Level)[1:], names, strict=True):
            member = account.members.get(name)
            if member is None:
                member = Account(level, name, account, {}, [0] * len(Held))
                account.add(member)
                if level >= Level.PROCESS:
                    member.peer = peer
            account = member
        account.hold(Held.CONNECTIONS)
        return account

    def close(self, account: Account) -> None:
        """Give back all that a connection's account holds, and forget the accounts that are left without."""
        for what in Held:
            account.hold(what, -account.held[what])
        account.is_closed = True
        while account.parent is not None and not account.members:
            account.parent.remove(account)
            account = account.parent

    def greatest(self, what: Held, level: Level = Level.CONNECTION) -> Account:
        """Return who holds most: the greatest principal, of that the greatest user, and so on to `level`.

        Without connections it is the account of all.
        """
        return descend(self.all, lambda account: account.held[what], level)

    def processes(self) -> Iterator[Account]:
        """Yield the account of each process; one that uses two sockets has one for each principal."""
        for principal in self.all.members.values():
            for user in principal.members.values():
                yield from user.members.values()


def names_of(principal: Principal, peer: Peer) -> tuple[str, str, str]:
    """Return the names of the accounts of a connection, from its principal to its process."""
    return (
        principal.name,
        "unknown user" if peer.uid is None else f"uid {peer.uid}",
        peer.address or (f"pid {peer.pid}" if peer.pid else "unknown process"),
    )


def descend(account: Account, measure: Callable[[Account], float], level: Level) -> Account:
    """Go down from an account to `level`, at each step to the member with the greatest measure."""
    while account.level < level and account.members:
        account = max(account.members.values(), key=measure)
    return account


def gives_way(within: Account, what: Held, to: Account | Sequence[str]) -> Account | None:
    """Return the process that holds most within an account, if another should have a place of it.

    One that holds more than one more than who asks: then both do not change places over and over. Where the
    branch of who asks holds as much as any other, only what is in that branch is looked at.

    Args:
        within: The account of all, or of a principal, in which who asks is.
        what: What is asked for.
        to: Who asks: an account, or the names of one that is not open yet, from its principal on.

    Returns:
        None if nobody should give way.
    """
    names = [each.name for each in to.path()[1:]] if isinstance(to, Account) else to
    account, is_own = within, True
    while account.level < Level.PROCESS and account.members:
        greatest = max(account.members.values(), key=lambda member: member.held[what])
        if is_own:
            own = account.members.get(names[account.level])
            if greatest.held[what] >= (0 if own is None else own.held[what]) + 2:
                is_own = own is greatest
            elif own is None:
                return None
            else:
                greatest = own
        account = greatest
    return None if is_own else account
