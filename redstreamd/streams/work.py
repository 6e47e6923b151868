"""Work from consumer groups: taking with a wait, and settling by lease token.

Where nobody waits, a take asks before it queues (see ``take_queues``); those that find nothing in the same
pass of the scheduler queue in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any, Final

import msgspec
import trio

from redstreamd.errors import BusError
from redstreamd.policy import Principal
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import OutcomeUnknown
from redstreamd.redisio.reply_parsing import RawEntry
from redstreamd.settings import LeasesSettings
from redstreamd.streams import entry_ids
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.group_records import Creation, GroupRecords
from redstreamd.streams.lease_tokens import Lease, LeaseKey, not_a_lease
from redstreamd.streams.leases import Action, Leases, Settled
from redstreamd.streams.plans import Plan, UnfinishedError, run_plan
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.take_queues import TakeQueues
from redstreamd.streams.take_values import Take, Taken
from redstreamd.streams.waiting import Wait, run_wait

_entry_id: Final = attrgetter("id")


class Work(msgspec.Struct, frozen=True):
    """Entries under a lease.

    Attributes:
        taken: The result of the take.
        lease: The token that settles the entries; None if there are none.
    """

    taken: Taken
    lease: str | None


class WorkQueue:
    """Hands out and settles work of any stream and group."""

    def __init__(
        self,
        redis: Redis,
        hub: TailHub,
        leases: Leases,
        records: GroupRecords,
        key: LeaseKey,
        encryption: Encryption,
        limits: Bounds = DEFAULT_BOUNDS,
    ) -> None:
        """Take through `leases`, create groups with `records`, wait through `hub`, sign tokens with `key`."""
        self._encryption = encryption
        self._redis = redis
        self._hub = hub
        self._leases = leases
        self._records = records
        self._key = key
        self._queues = TakeQueues(redis, hub, self._plan_take, limits.work_recheck_seconds)

    def reconfigure(self, settings: LeasesSettings, *, max_bytes: int, max_groups: int) -> None:
        """Apply other values from now on; see `Leases.reconfigure`."""
        self._leases.reconfigure(settings, max_bytes=max_bytes, max_groups=max_groups)

    def forget(self) -> None:
        """Forget which tokens were signed of late; they are checked again."""
        self._key.forget()

    @property
    def queues(self) -> int:
        """How many groups have waiting takes."""
        return len(self._queues)

    async def take(self, take: Take, principal: Principal, *, timeout_seconds: float = 0.0) -> Work:
        """Lease entries; wait up to `timeout_seconds` for the first, 0 for no wait.

        A request to resume never waits. Only `principal` can settle the lease, and resume it or get it again
        by its idempotency key.

        Raises:
            BusError: GROUP_NOT_FOUND, STREAM_NOT_FOUND, WRONG_TYPE; CONNECTION_ERROR; RATE_LIMITED if too
                many calls wait.

        Cancellation: see `Leases.plan_take`.
        """
        plan = self.plan_take(take, principal, timeout_seconds=timeout_seconds)
        if plan is not None:
            return await run_plan(self._redis, plan)
        work: Work = await run_wait(self._wait(take, principal, timeout_seconds))
        return work

    def plan_take(
        self, take: Take, principal: Principal, *, timeout_seconds: float = 0.0
    ) -> Plan[Work] | None:
        """Plan a take, whose rest is the wait; see `take`. None if it has to queue behind others first."""
        if timeout_seconds > 0 and self._queues_behind_others(take, timeout_seconds):
            return None
        plan = self._plan_take(take, principal)
        if timeout_seconds > 0 and not take.resume:
            deadline = trio.current_time() + timeout_seconds

            def taken(first: Taken) -> Taken:
                if not (first.entries or first.replayed or self._hub.draining):
                    wait = self._queues.wait(take, principal, deadline, first)
                    raise UnfinishedError(partial(run_wait, wait), wait)
                return first

            plan = plan.then(taken)
        return plan.then(partial(self._leased, take, principal))

    def wait_to_take(self, take: Take, principal: Principal, *, timeout_seconds: float) -> Wait | None:
        """Return a take as a wait behind others; see `take`. None if nobody waits, or it does not wait."""
        if self._queues_behind_others(take, timeout_seconds):
            return self._wait(take, principal, timeout_seconds)
        return None

    def _queues_behind_others(self, take: Take, timeout_seconds: float) -> bool:
        return (
            timeout_seconds > 0
            and not take.resume
            and (take.stream, take.group) in self._queues
            and not self._hub.draining
        )

    def _wait(self, take: Take, principal: Principal, timeout_seconds: float) -> Wait:
        wait = self._queues.wait(take, principal, trio.current_time() + timeout_seconds, None)
        return wait.then(partial(self._leased, take, principal))

    def _leased(self, take: Take, principal: Principal, taken: Taken) -> Work:
        """Sign a lease for what was taken."""
        lease = None
        if taken.entries:
            lease = self._key.sign(
                Lease(
                    take.stream,
                    take.group,
                    taken.consumer,
                    principal.name,
                    dict(zip(map(_entry_id, taken.entries), taken.attempts, strict=True)),
                    taken.taken_at,
                    taken.group_limit if taken.own_limit is None else taken.own_limit,
                    taken.lease_ms,
                    taken.own_limit,
                )
            )
        return Work(taken, lease)

    def plan_settle(
        self,
        lease: Lease,
        action: Action,
        *,
        entry_ids: Sequence[str] | None = None,
        delay_seconds: float | None = None,
        reason: str = "",
        delete: bool = False,
    ) -> Plan[Settled]:
        """Plan to settle a lease that `read_lease` returned; see `Leases.plan_settle`."""
        plan = self._leases.plan_settle(
            lease, action, entry_ids=entry_ids, delay_seconds=delay_seconds, reason=reason, delete=delete
        )
        return plan.then(self._retried) if action is Action.RETRY else plan

    async def settle(self, lease: Lease, action: Action, **options: Any) -> Settled:
        """Settle a lease; see `plan_settle` for the options.

        Raises:
            BusError: GROUP_NOT_FOUND, STREAM_NOT_FOUND if they do not exist any more.
        """
        return await run_plan(self._redis, self.plan_settle(lease, action, **options))

    def _retried(self, settled: Settled) -> Settled:
        # No watched key changed, and the retry may be due before the next check of waiting takes.
        self._hub.notify(settled.lease.stream)
        return settled

    def read_lease(self, token: str, principal: Principal) -> Lease:
        """Return the lease of a token.

        Raises:
            BusError: INVALID_ARGUMENT if it is no lease, or that of another principal.
        """
        lease = self._key.read(token)
        if not principal.owns(lease.principal):
            raise not_a_lease(token)
        return lease

    async def create_group(
        self, stream: str, group: str, position: str, *, max_deliveries: int | None = None
    ) -> Creation:
        """Create a consumer group, and the stream if it does not exist.

        Args:
            stream: The stream.
            group: The group.
            position: Its last-delivered ID; see `group_position`.
            max_deliveries: See `GroupRecords.create`.

        Raises:
            BusError: WRONG_TYPE; CONNECTION_ERROR.
        """
        plan = self.plan_create_group(stream, group, position, max_deliveries=max_deliveries)
        return await run_plan(self._redis, plan)

    def plan_create_group(
        self, stream: str, group: str, position: str, *, max_deliveries: int | None = None
    ) -> Plan[Creation]:
        """Plan to create a consumer group; see `create_group`."""

        def created(creation: Creation) -> Creation:
            if creation.created:
                self._on_created(stream)
            return creation

        return self._records.plan_create(stream, group, position, max_deliveries=max_deliveries).then(created)

    def _on_created(self, stream: str) -> None:
        self._redis.shared(GroupLists).forget(stream)
        # No watched key changed, and subscribers are notified of the number of groups.
        self._hub.notify(stream)

    def _plan_take(self, take: Take, principal: Principal) -> Plan[Taken]:
        plan = self._leases.plan_take(
            take, principal, on_created=self._on_created, reword=partial(_taking_unknown, take)
        )
        return plan.then(partial(self._opened, take.stream))

    def _opened(self, stream: str, taken: Taken) -> Taken:
        """Open the entries of a take, which is done whatever they hold."""
        # Asked now: a reload may have brought the first key while they were on their way.
        if not self._encryption.opens:
            return taken
        return self._encryption.open_page(stream, taken.entries, partial(_with_entries, taken))


def _with_entries(taken: Taken, entries: list[RawEntry]) -> Taken:
    """Return what was taken with entries that were opened."""
    return msgspec.structs.replace(taken, entries=entries, together=None)


def _taking_unknown(take: Take, error: BusError) -> BusError:
    """Return the error of a take; if it is not known what it did, with what to do then."""
    if not isinstance(error, OutcomeUnknown):
        return error
    return BusError(
        error.code,
        "It is not known whether entries were taken: the reply was lost.",
        cause=error.cause,
        next_step=f"Call work_take with resume: true and consumer {take.consumer!r} "
        "to get what was taken. With an idempotency_key this is done for you.",
    )


@lru_cache(maxsize=256)
def group_position(start: str) -> str:
    """Return the last-delivered ID of a group that begins with the first entry at or after `start`."""
    position = entry_ids.position(start, argument="start")
    if position == "-":
        return "0"
    if position == "+":
        return "$"
    return entry_ids.before(position if "-" in position else f"{position}-0")
