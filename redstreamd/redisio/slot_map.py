"""Which primary of a Redis Cluster serves which slot, as its nodes tell.

Owns the reading of what a node tells, and what holds where nodes differ. Asks nobody, and holds no
connection: asking is done in ``cluster_views``, following in ``cluster``. redis-py computes slots; its module
that takes the reply apart brings two clients with it. Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import attrs
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.announced_address import Address, announced_address

__all__ = ["QUESTIONS", "SLOTS", "NoSlotsError", "SlotMap", "View", "agreed", "slot_of"]

#: What a node is asked; `View.read` takes the replies.
QUESTIONS: Final = (("CLUSTER", "MYID"), ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))

#: Nodes of a cluster with its replicas: the specification recommends no more. Each is connected to.
MAX_NODES: Final = 1_000

#: Keys whose slot is remembered: those of streams come again and again.
_REMEMBERED_KEYS: Final = 16_384
#: What a node announces that does not know the name by which it is to be called.
_NO_HOST: Final = (None, "", "?", b"", b"?")


@functools.lru_cache(_REMEMBERED_KEYS)
def slot_of(key: str | bytes) -> int:
    """Return the slot of a key, or of the hash tag in it."""
    return key_slot(key.encode() if isinstance(key, str) else key)


class NoSlotsError(Exception):
    """A node knows of no slot that anybody serves: it belongs to no cluster yet."""


@attrs.frozen
class _Slots:
    """Slots that lie side by side and have the same nodes.

    Attributes:
        first: The first of them.
        last: The last of them.
        owner: The ID of the primary.
        addresses: Node ID -> what the node announces, the primary first.
    """

    first: int
    last: int
    owner: str
    addresses: dict[str, Address]


@attrs.frozen
class View:
    """What one node tells of its cluster.

    Attributes:
        reached: Where it was asked.
        id: Its node ID.
        is_ok: Whether it says that the cluster serves commands (``cluster_state``).
        epoch: The highest configuration epoch that it has heard of: it rises with each failover, and with the
            first slot that moves to a node (``cluster_current_epoch``).
        own_epoch: That of what it says of its own slots (``cluster_my_epoch``).
        slots: All slots that it knows somebody to serve.
    """

    reached: Address
    id: str
    is_ok: bool
    epoch: int
    own_epoch: int
    slots: tuple[_Slots, ...]

    @classmethod
    def read(cls, reached: Address, replies: Sequence[Any]) -> View:
        """Read the replies to `QUESTIONS`, in their order.

        Raises:
            NoSlotsError: The node knows of none.
            unexpected_replies.UNREADABLE: No cluster node answers so.
        """
        my_id, info, slots = replies
        told = reply_parsing.info(info)
        epoch, own_epoch = int(told["cluster_current_epoch"]), int(told["cluster_my_epoch"])
        found = tuple(_slots(slots, reached[0]))
        if not found:
            raise NoSlotsError
        if len({id_ for each in found for id_ in each.addresses}) > MAX_NODES:
            raise ValueError("more nodes than a cluster has")
        return cls(reached, _id(my_id), told["cluster_state"] == "ok", epoch, own_epoch, found)

    @property
    def served(self) -> int:
        """How many slots somebody serves."""
        return sum(each.last - each.first + 1 for each in self.slots)

    def owners(self) -> list[str | None]:
        """Return the ID of each slot's primary."""
        owners: list[str | None] = [None] * SLOTS
        for each in self.slots:
            _claim(owners, each)
        return owners


def _slots(reply: Any, host: str) -> Iterator[_Slots]:
    """Read CLUSTER SLOTS; where a node announces no host, it is the one that was asked."""
    count = 0
    for first, last, *nodes in reply:
        count += last - first + 1
        if not 0 <= first <= last < SLOTS or count > SLOTS or not nodes:
            raise ValueError("no slots of a cluster")
        addresses = {_id(each[2]): address_of(each[0], each[1], host=host) for each in nodes}
        yield _Slots(first, last, next(iter(addresses)), addresses)


def address_of(announced: str | bytes | None, port: Any, *, host: str) -> Address:
    """Return where a node is to be reached that is announced so by a node on `host`.

    Raises:
        ValueError: Nothing can listen there.
    """
    return announced_address(host if announced in _NO_HOST else announced, port)


def _id(raw: bytes) -> str:
    """Read a node ID; interned, because those of all slots are compared."""
    return sys.intern(str(raw, "ascii"))


def _claim(owners: list[str | None], slots: _Slots) -> None:
    owners[slots.first : slots.last + 1] = [slots.owner] * (slots.last - slots.first + 1)


@attrs.frozen
class SlotMap:
    """Who serves which slot.

    Attributes:
        owners: The node ID of each slot's primary; None where nobody serves the slot.
        addresses: Node ID -> address, of primaries and replicas.
        is_ok: Whether the nodes say that the cluster serves commands.
        epoch: The highest one that any node told.
        shards: Node ID of a primary -> the addresses of it and of its replicas.
        is_disputed: Whether some nodes tell something else.
    """

    owners: list[str | None]
    addresses: dict[str, Address]
    is_ok: bool
    epoch: int
    shards: dict[str, tuple[Address, ...]]
    is_disputed: bool

    @functools.cached_property
    def primaries(self) -> dict[str, Address]:
        """The nodes that serve slots, by ID, in a stable order."""
        return dict(sorted(((id_, self.addresses[id_]) for id_ in set(self.owners) if id_), key=_address))

    @functools.cached_property
    def runs(self) -> tuple[tuple[int, int, str | None], ...]:
        """The first and the last slot of each run of slots, and who serves it."""
        runs, first = [], 0
        for owner, slots in groupby(self.owners):
            count = len(list(slots))
            runs.append((first, first + count - 1, owner))
            first += count
        return tuple(runs)

    @property
    def unserved(self) -> str:
        """The slots that nobody serves, such as "0-5460, 7000"; empty if there are none."""
        return ", ".join(
            f"{first}-{last}" if last > first else str(first)
            for first, last, owner in self.runs
            if owner is None
        )


def _address(node: tuple[str, Address]) -> Address:
    return node[1]


def agreed(views: Sequence[View]) -> SlotMap:
    """Return what holds, by what at least one node tells.

    Base is the node that says that the cluster serves, and has heard of most: one that was cut off has heard
    of less, and one that tries in vain to be elected says that it does not serve. It may know an old owner of
    a slot still, for a while; so what primaries say of their own slots comes before, in the order in which
    the nodes themselves settle it: that of their epochs.
    """
    base = max(views, key=lambda view: (view.is_ok, view.epoch, view.served))
    equals = [view for view in views if (view.is_ok, view.epoch) == (base.is_ok, base.epoch)]
    owners = base.owners()
    addresses: dict[str, Address] = {}
    for view in (base, *equals):
        for each in view.slots:
            for id_, address in each.addresses.items():
                addresses.setdefault(id_, address)
    for view in sorted(equals, key=lambda view: view.own_epoch):
        for each in view.slots:
            if each.owner == view.id:
                _claim(owners, each)
    shards = {each.owner: tuple(each.addresses.values()) for view in (*equals, base) for each in view.slots}
    disputed = any(view.owners() != owners for view in views)
    return SlotMap(owners, addresses, base.is_ok, max(view.epoch for view in views), shards, disputed)
