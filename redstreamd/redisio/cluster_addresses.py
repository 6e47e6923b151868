"""Where the nodes of a cluster are reached.

A node that announces an address at which it does not answer is used at the one where it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from redstreamd.redisio.announced_address import Address
from redstreamd.redisio.cluster_views import Source, ask_one
from redstreamd.redisio.slot_map import SlotMap, View
from redstreamd.redisio.target import Deployment, Target


class ClusterAddresses:
    """The addresses of the nodes of one cluster, as they were found out."""

    def __init__(self, deployment: Deployment, *, seconds: float) -> None:
        """Know nothing yet.

        Args:
            deployment: The cluster that the settings name, and its login.
            seconds: How long a node may take to answer where it announces.
        """
        self._deployment = deployment
        self._seconds = seconds
        # Announced address -> where the node answers instead; and those of which that was found out.
        self._aliases: dict[Address, Address] = {}
        self._checked: set[Address] = set()

    def target_of(self, address: Address) -> Target:
        """Return where the node is that announces an address."""
        if (found := self._aliases.get(address)) is None:
            return self._deployment.target_at(*address)
        return attrs.evolve(self._deployment.target, host=found[0], port=found[1], path=None)

    def keep(self, connected: Iterable[Address]) -> None:
        """Forget where nodes answer other than those at these announced addresses."""
        known = set(connected)
        self._checked &= known
        self._aliases = {each: place for each, place in self._aliases.items() if each in known}

    async def check(self, found: SlotMap, views: list[View]) -> None:
        """Find out whether nodes that were asked elsewhere than they announce answer where they announce."""

        async def check_one(id_: str, announced: Address, reached: Address) -> None:
            told = None
            with trio.move_on_after(self._seconds):
                told = await ask_one(Source(self._deployment.target_at(*announced)))
            if not isinstance(told, View) or told.id != id_:
                self._aliases[announced] = reached
            self._checked.add(announced)

        async with trio.open_nursery() as nursery:
            for view in views:
                announced = found.addresses.get(view.id)
                if announced is None or announced in self._checked:
                    continue
                target = self._deployment.target_at(*announced)
                if (target.host, target.port) != view.reached:
                    nursery.start_soon(check_one, view.id, announced, view.reached)
