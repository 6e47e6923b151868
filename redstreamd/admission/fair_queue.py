"""Who is next: a queue in which each account gets an equal share of what is scarce.

Owns the order, and nothing of what is queued. The scarce thing is counted in seconds of work: `charge` says
who got them. Whoever got least is next: of all principals the one that got least, of its users the one that
got least, and so on down to the connection, whose own items keep their order. So a process with a hundred
connections gets as much as one with a single connection.

Prior art: start-time fair queueing (Goyal, Vin, Cheng 1996) and Linux's CFS, hierarchical in both. As there,
what happened long ago does not count: an account that begins to wait is taken to have got about as much as
the least served of those that wait beside it. Without that, a client that was alone for an hour would not
be served for an hour once there is another, and a new one could keep all others waiting for as long.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Generic, TypeVar

import msgspec

from redstreamd.admission.accounts import Account, Level

ItemT = TypeVar("ItemT", bound=Hashable)

#: Seconds of work that an account which begins to wait may have in advance of those that wait already. A
#: client that calls now and then needs no more, and so is next whenever it calls; a greedy one has used it up
#: at once.
CREDIT_SECONDS: Final = 0.01
#: Seconds of work that one which never got anything is taken to have got more than the others: else a process
#: for each call would always be first.
NEW_SECONDS: Final = 0.001
#: Seconds of work that an account may be behind: for so long others come first once it waits beside them.
DEBT_SECONDS: Final = 0.02
#: Both are less where more than so many wait. Who is in debt waits until each of the others has caught up,
#: and who is behind keeps each of them waiting, so what is waited grows with their number. It is to be a few
#: rounds of all at the most, whether there are eight or a thousand.
_FEW: Final = 8


def _scale(rivals: int) -> float:
    """Return which part of credit and debt there is where so many wait."""
    return _FEW / rivals if rivals > _FEW else 1.0


def is_behind(process: Account) -> bool:
    """Return whether a process got so much less than those that waited last that it need not wait itself.

    It is taken to be behind by `DEBT_SECONDS` at most, so this ends soon if it goes on.
    """
    has_company = False
    account, parent = process, process.parent
    while parent is not None:
        if len(parent.members) > 1:
            has_company = True
            scale = _scale(parent.rivals)
            least = parent.level_rank - scale * DEBT_SECONDS
            if account.rank < least:
                if account.rank == account.began:
                    # It has got nothing still.
                    account.began = least
                account.rank = least
            if account.rank > parent.level_rank - scale * CREDIT_SECONDS:
                return False
        account, parent = parent, parent.parent
    return has_company


class _Node(msgspec.Struct, Generic[ItemT], eq=False):
    """An account that has items in the queue, itself or through its members; and the root.

    Invariant: but for the root it has items or members.

    Attributes:
        account: The account; the root has one of its own, which nobody reads.
        above: The node of its parent; of the root None.
        item: The first of its own items; None without any. Most accounts have one item and no members.
        others: Its other items, in order; None without any.
        heap: For each member with items its `entry`; others are out of date. None until there is a member.
        members: How many entries of `heap` are not out of date.
        entry: What its account had got when that was last looked at, a number for the order among equals, and
            the node itself. Invariant: accounts only get more, so the least of a heap is at most the least
            there is.
    """

    account: Account
    above: _Node[ItemT] | None
    item: ItemT | None = None
    others: dict[ItemT, None] | None = None
    heap: list[_Entry[ItemT]] | None = None
    members: int = 0
    entry: _Entry[ItemT] | None = None


_Entry = tuple[float, int, _Node[ItemT]]


class FairQueue(Generic[ItemT]):
    """Items of accounts, each at most once; None is no item.

    Attributes:
        count: How many items there are; to be read only.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.count = 0
        self._root: _Node[ItemT] = _Node(Account(Level.ALL, "", None, {}, []), None)
        self._nodes: dict[Account, _Node[ItemT]] = {}
        self._entries = 0

    def __len__(self) -> int:
        """Return how many items there are."""
        return self.count

    def push(self, account: Account, item: ItemT) -> None:
        """Add an item behind those of the same account."""
        node = self._nodes.get(account) or self._add(account)
        if node.item is None:
            node.item = item
        elif node.item == item or (node.others is not None and item in node.others):
            return
        elif node.others is None:
            node.others = {item: None}
        else:
            node.others[item] = None
        self.count += 1

    def pop(self) -> tuple[Account, ItemT]:
        """Remove and return the next item, and its account.

        Raises:
            IndexError: There is none.
        """
        if not self.count:
            raise IndexError("no item waits")
        node = self._root
        while members := node.members:
            heap: list[_Entry[ItemT]] = node.heap  # type: ignore[assignment] # it has members
            # The only one is the next, however much it got; most levels have no more.
            first = heap[0][2] if members == len(heap) == 1 else self._first(heap)
            account = node.account
            account.rivals = members
            account.level_rank = first.account.rank
            node = first
        item: ItemT = node.item  # type: ignore[assignment] # without members it has items
        self._take_out(node, item)
        return node.account, item

    def remove(self, account: Account, item: ItemT) -> bool:
        """Remove an item; return whether it was there."""
        node = self._nodes.get(account)
        if node is None or not (item == node.item or (node.others is not None and item in node.others)):
            return False
        self._take_out(node, item)
        return True

    def _take_out(self, node: _Node[ItemT], item: ItemT) -> None:
        self.count -= 1
        others = node.others
        if others is None:
            node.item = None
        else:
            if item == node.item:
                node.item = next(iter(others))
                del others[node.item]
            else:
                del others[item]
            if not others:
                node.others = None
        above = node.above
        while above is not None and node.item is None and not node.members:
            account = node.account
            # Entries that are out of date have nodes that refer to this one.
            node.entry = node.above = node.heap = None
            del self._nodes[account]
            account.places -= 1
            above.members = members = above.members - 1
            heap: list[_Entry[ItemT]] = above.heap  # type: ignore[assignment] # it had a member
            if heap[0][2] is node:
                heappop(heap)
            elif len(heap) > 2 * members + 8:
                self._tidy(heap)
            node, above = above, above.above

    def _add(self, account: Account) -> _Node[ItemT]:
        """Return a node of an account that has none; it waits from now on."""
        parent = account.parent
        above = self._root if parent is None else self._nodes.get(parent) or self._add(parent)
        # How much it got long ago is forgotten before it waits beside others.
        members, heap = above.members, above.heap
        if heap is None:
            above.heap = heap = []
        first = level = above.account.level_rank
        if members:
            first = self._first(heap).account.rank
            if first > level:
                level = first
        scale = _FEW / members if members > _FEW else 1.0
        rank = before = account.rank
        if rank == account.began:
            rank = level + NEW_SECONDS
        elif rank < (least := level - scale * CREDIT_SECONDS):
            rank = least
        places = account.places
        if not places and rank > (most := first + scale * DEBT_SECONDS):
            # The level may be that of another queue, in which others wait. While it waits in another one
            # itself, what was forgiven here would put it ahead there of all who got as much.
            rank = most
        if rank != before:
            account.rank = rank
        account.places = places + 1
        node = self._nodes[account] = _Node(account, above)
        above.members = members + 1
        self._entries += 1
        node.entry = entry = (rank, self._entries, node)
        heappush(heap, entry)
        return node

    def _first(self, heap: list[_Entry[ItemT]]) -> _Node[ItemT]:
        """Return the member that is next; there is one."""
        while True:
            entry = heap[0]
            node = entry[2]
            if entry is not node.entry:
                heappop(heap)
                continue
            rank = node.account.rank
            if rank == entry[0]:
                return node
            self._entries += 1
            node.entry = entry = (rank, self._entries, node)
            heapreplace(heap, entry)

    @staticmethod
    def _tidy(heap: list[_Entry[ItemT]]) -> None:
        """Drop entries that are out of date: they are the most."""
        heap[:] = [entry for entry in heap if entry is entry[2].entry]
        heapify(heap)
