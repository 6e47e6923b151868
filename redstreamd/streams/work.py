"""Work from consumer groups: taking with a wait, and settling by lease token.

Owns the queue of those who wait for work. They take turns per stream and group, first come, first
served: one of them watches and takes, the others wait for the turn. Whoever got entries passes the
turn on, and the next looks at once. So one new entry causes one take, however many wait.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from redstreamd.errors import BusError, Code
from redstreamd.redisio.commands import Commands
from redstreamd.redisio.redis_errors import OutcomeUnknown
from redstreamd.streams import entry_ids
from redstreamd.streams.error_context import explained, telling
from redstreamd.streams.group_records import Creation, GroupRecords
from redstreamd.streams.lease_tokens import Lease, LeaseKey
from redstreamd.streams.leases import Action, Leases, Settled, Take, Taken
from redstreamd.streams.tail_hub import TailHub

#: Seconds after which a waiting take looks again without being woken: a retry that another daemon
#: released early, or an entry that another program left, changes no watched key.
_LOOK_AGAIN = 5.0


@attrs.frozen
class Work:
    """Entries under a lease.

    Attributes:
        taken: The entries and what else the take did.
        lease: The token that settles them; None if there are no entries.
    """

    taken: Taken
    lease: str | None


class WorkQueue:
    """Hands out and settles work of any stream and group."""

    def __init__(
        self, commands: Commands, hub: TailHub, leases: Leases, records: GroupRecords, key: LeaseKey
    ) -> None:
        """Take through `leases`, create groups with `records`, wait through `hub`, sign tokens with `key`."""
        self._commands = commands
        self._hub = hub
        self._leases = leases
        self._records = records
        self._key = key
        self._turns: dict[tuple[str, str], _Turn] = {}

    async def take(self, take: Take, principal: str, *, timeout_seconds: float = 0.0) -> Work:
        """Lease entries, waiting up to `timeout_seconds` for the first; 0 answers at once.

        A request to resume never waits. Only `principal` can settle the lease, and only the same principal
        gets it again by its idempotency key.

        Raises:
            BusError: GROUP_NOT_FOUND, STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR; RATE_LIMITED if too
                many wait.

        Cancellation: see `Leases.take`.
        """
        if take.idempotency_key is not None:
            take = attrs.evolve(take, idempotency_key=f"{principal}\0{take.idempotency_key}")
        if take.resume or timeout_seconds <= 0 or self._hub.draining:
            taken = await self._take_now(take)
        else:
            taken = await self._take_in_turn(take, trio.current_time() + timeout_seconds)
        lease = None
        if taken.entries:
            attempts = {entry.id: attempt for entry, attempt in taken.entries}
            whose = (take.stream, take.group, take.consumer, principal)
            limit = taken.group_limit if taken.own_limit is None else taken.own_limit
            lease = self._key.sign(Lease(*whose, attempts, taken.at, limit, taken.lease_ms, taken.own_limit))
        return Work(taken, lease)

    async def settle(
        self,
        token: str,
        principal: str,
        action: Action,
        *,
        entry_ids: Sequence[str] | None = None,
        delay_seconds: float | None = None,
        reason: str = "",
        delete: bool = False,
    ) -> Settled:
        """Settle a lease; see `Leases.settle`.

        Raises:
            BusError: PERMISSION_DENIED if the lease was given to another principal; GROUP_NOT_FOUND,
                STREAM_NOT_FOUND if they are gone.
        """
        lease = self.read_lease(token, principal)
        async with explained(self._commands, lease.stream, lease.group):
            settled = await self._leases.settle(
                lease,
                action,
                entry_ids=entry_ids,
                delay_seconds=delay_seconds,
                reason=reason,
                delete=delete,
            )
        if action is Action.RETRY:
            # No key that is watched changed, and whoever waits may be due earlier than it thinks.
            self._hub.poke(lease.stream)
        return settled

    def read_lease(self, token: str, principal: str) -> Lease:
        """Return what a token says if it was given to `principal`, else raise PERMISSION_DENIED."""
        lease = self._key.read(token)
        if lease.principal != principal:
            raise BusError(
                Code.PERMISSION_DENIED,
                "This lease belongs to somebody else.",
                cause=f"It was given to {lease.principal!r}, and you are {principal!r}.",
                next_step="Settle it over the connection door it was taken through.",
            )
        return lease

    async def create_group(
        self, stream: str, group: str, position: str, *, max_deliveries: int | None = None
    ) -> Creation:
        """Create a consumer group, and the stream if there is none.

        Args:
            stream: The stream.
            group: The group.
            position: Its last-delivered ID; see `group_position`.
            max_deliveries: See `GroupRecords.create`.

        Raises:
            BusError: WRONG_TYPE; CONNECTION_ERROR.
        """
        async with explained(self._commands, stream):
            creation = await self._records.create(stream, group, position, max_deliveries=max_deliveries)
        if creation.created:
            # No key that is watched changed, and subscribers are told how many groups there are.
            self._hub.poke(stream)
        return creation

    async def _take_now(self, take: Take) -> Taken:
        try:
            async with explained(self._commands, take.stream, take.group):
                taken = await self._leases.take(take)
        except OutcomeUnknown as lost:
            raise BusError(
                lost.code,
                "It is not known whether entries were taken: the reply was lost.",
                cause=lost.cause,
                next_step=f"Call work_take with resume: true and consumer {take.consumer!r} "
                "to get what was taken. With an idempotency_key this is done for you.",
            ) from lost
        if taken.group_created:
            self._hub.poke(take.stream)
        return taken

    async def _take_in_turn(self, take: Take, deadline: float) -> Taken:
        with trio.move_on_at(deadline) as patience:
            async with self._turn(take.stream, take.group):
                # From here on only the wait itself may end early: a take must be answered.
                patience.deadline = math.inf
                with self._hub.watch((take.stream,)) as watch:
                    taken: Taken | None = None
                    while True:
                        watch.mark()
                        taken = await self._take_again(take, taken)
                        remaining = deadline - trio.current_time()
                        if taken.entries or taken.replayed or remaining <= 0 or self._hub.draining:
                            return taken
                        with trio.move_on_after(min(remaining, _until_due(taken))):
                            await watch.changed()
        # The turn never came, so others were served; there may be something left.
        return await self._take_now(take)

    async def _take_again(self, take: Take, earlier: Taken | None) -> Taken:
        """Take once more; what the call did before is in the answer, be it an error."""
        with telling(lambda: "" if earlier is None else earlier.did()):
            taken = await self._take_now(take)
        return taken.including(earlier)

    @asynccontextmanager
    async def _turn(self, stream: str, group: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault((stream, group), _Turn())
        turn.interested += 1
        try:
            # Whoever waits for the turn is one of those who wait, and makes room for itself when it has it.
            with self._hub.watch(()):
                await turn.lock.acquire()
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.interested -= 1
            if turn.interested == 0:
                del self._turns[stream, group]


@attrs.define
class _Turn:
    """The queue of those who wait for one group; it goes when the last of them does."""

    lock: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock)
    interested: int = 0


def group_position(start: str) -> str:
    """Return the last-delivered ID of a group whose first entry is the first at or after `start`.

    The server names the last entry that was delivered, ours the first that will be, as everywhere else.
    """
    position = entry_ids.position(start, argument="start")
    if position == "-":
        return "0"
    if position == "+":
        return "$"
    return entry_ids.before(position if "-" in position else f"{position}-0")


def _until_due(taken: Taken) -> float:
    if taken.next_due is None:
        return _LOOK_AGAIN
    # Both are by the group's clock. A millisecond late is in time; one early is another round trip.
    return min(_LOOK_AGAIN, max(0.0, (taken.next_due - taken.now) / 1000) + 0.001)
