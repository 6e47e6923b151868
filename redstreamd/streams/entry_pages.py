"""Reading entries a page at a time, bounded in number and in bytes, whatever their writers put into them.

Owns the bound: how many entries of what size one reply carries. Replies come over the bulk connection, so
that nothing short waits behind them. What a page is read for is not known here.
"""

from __future__ import annotations

import attrs

from redstreamd.redisio import reply_parsing
from redstreamd.redisio.connection_manager import Manager, Role
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.streams.scripts import load

_PAGE = load("read_page")
_DELIVER = load("read_group")


@attrs.frozen
class Batch:
    """Entries that one reply carried.

    Attributes:
        entries: In the direction of reading.
        has_more: The range holds more: either the number or the size was reached.
    """

    entries: list[RawEntry]
    has_more: bool


class Pages:
    """Reads parts of streams."""

    def __init__(self, manager: Manager) -> None:
        """Read through `manager`."""
        self._manager = manager

    async def read(
        self, stream: str, first: str, last: str, *, most: int, most_bytes: int, forward: bool = True
    ) -> Batch:
        """Read entries from `first` to `last`, inclusive unless prefixed with ``(``.

        Args:
            stream: The stream; one that does not exist is empty.
            first: Where to begin, in the direction of reading.
            last: Where to end.
            most: The most entries.
            most_bytes: No further entry is read once the content reaches this size. The last one may exceed
                it by any amount: an entry is whole or not there.
            forward: By growing ID, else newest first.

        Raises:
            BusError: As `Manager.run_script`; WRONG_TYPE.
        """
        page, more = await self._manager.run_script(
            _PAGE,
            keys=[stream],
            args=["XRANGE" if forward else "XREVRANGE", first, last, most, most_bytes],
            retry_safe=True,
            role=Role.BULK,
        )
        return Batch(reply_parsing.entries(page), bool(more))

    async def deliver(
        self, stream: str, group: str, consumer: str, *, most: int, most_bytes: int
    ) -> list[RawEntry]:
        """Deliver new entries to a consumer of a group, without waiting; they are pending from then on.

        Args:
            stream: The stream.
            group: The group.
            consumer: The consumer; created if need be.
            most: The most entries.
            most_bytes: As in `read`.

        Raises:
            BusError: As `Manager.run_script`; WRONG_TYPE, GROUP_NOT_FOUND. After OUTCOME_UNKNOWN there may be
                entries pending that nobody has seen.
        """
        delivered = await self._manager.run_script(
            _DELIVER,
            keys=[stream],
            args=[group, consumer, most, most_bytes],
            retry_safe=False,
            role=Role.BULK,
        )
        return reply_parsing.entries(delivered)
