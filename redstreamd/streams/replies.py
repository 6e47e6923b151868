"""Publishing the reply to a request, once, however often the request is finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.redisio.client import Redis
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.streams import entry_decoding, entry_encoding
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.error_context import explain_errors
from redstreamd.streams.lease_tokens import Lease
from redstreamd.streams.leases import Action, Outcome, select_entries
from redstreamd.streams.names import check_stream, is_reply_stream, is_reserved, reply_stream_owner
from redstreamd.streams.publishing import KeyReused, Publisher
from redstreamd.streams.request_reply import Requests
from redstreamd.streams.work import WorkQueue

#: Why a reply stream cannot be used, where another one would do.
_OF_THE_TARGET: Final = frozenset({Code.INVALID_STREAM, Code.PERMISSION_DENIED, Code.WRONG_TYPE})


class Replied(msgspec.Struct, frozen=True):
    """A published reply.

    Attributes:
        stream: The reply stream.
        id: Its entry ID; None if another attempt published another reply before, which is kept.
        duplicate: It was published before.
        waits: It was put into quarantine, where it waits for a release.
    """

    stream: str
    id: str | None
    duplicate: bool
    waits: bool = False


class Replies:
    """Replies to requests that are held under a lease."""

    def __init__(
        self,
        redis: Redis,
        publisher: Publisher,
        work: WorkQueue,
        requests: Requests,
        *,
        lease_seconds: float,
    ) -> None:
        """Publish through `publisher`; the lease is extended to `lease_seconds` for that."""
        self._redis = redis
        self._publisher = publisher
        self._work = work
        self._requests = requests
        self._lease_seconds = lease_seconds

    def reconfigure(self, *, lease_seconds: float) -> None:
        """Extend leases by another time from now on."""
        self._lease_seconds = lease_seconds

    async def publish(
        self,
        lease: Lease,
        requested: Sequence[str] | None,
        reply: Mapping[str, Any],
        *,
        authorise: Callable[[str, Permission], None],
        quarantines: Callable[[str], bool],
    ) -> Replied | None:
        """Publish the reply to a request before the request is acknowledged.

        If a crash comes between, a second attempt is made, whose reply is dropped in favour of the first. So
        a request gets exactly one reply (within the idempotency window). An attempt that is settled publishes
        nothing, and gets the reply that was published, if any.

        Args:
            lease: The lease; its principal replies.
            requested: The request's entry ID; None if the lease holds only that entry.
            reply: The reply.
            authorise: Raises `BusError` if the principal may not publish to the reply stream.
            quarantines: Says whether what the principal publishes there waits for a release.

        Returns:
            What was published; None if another attempt owns the request, or it was settled without reply.

        Raises:
            BusError: INVALID_ARGUMENT if the lease holds several entries and none is named, or the entry has
                no `reply_to`; else as `WorkQueue.settle` and `Publisher.add`. The entry is not acknowledged.
        """
        ids = select_entries(lease, requested)
        if len(ids) != 1:
            raise BusError(
                Code.INVALID_ARGUMENT,
                f"A reply belongs to one entry, not to {len(ids)}.",
                cause="The lease holds several entries, each with a reply stream of its own.",
                next_step="Call work_done for each of them, naming it in entry_ids.",
            )
        # Errors in the reply or its target are raised before anything is changed.
        entry_encoding.encode(reply, Stamp())
        async with explain_errors(self._redis, lease.stream):
            entries = await self._redis.xrange(lease.stream, ids[0], ids[0], 1)
        stamp = entry_decoding.decode(entries[0].fields).stamp if entries else Stamp()
        if entries and stamp.reply_to is None:
            raise _no_reply_wanted("The entry names no reply_to stream.")
        if stamp.reply_to is not None:
            with _chosen_by_sender():
                _check_target(stamp.reply_to, stamp.sender)
                authorise(stamp.reply_to, Permission.PUBLISH)
        # Checks that this attempt still owns the entry, and keeps it while the reply is published.
        settled = await self._work.settle(
            lease, Action.HOLD, entry_ids=ids, delay_seconds=self._lease_seconds
        )
        outcome = settled.outcomes[ids[0]]
        if outcome in (Outcome.LOST, Outcome.GONE):
            return None
        if stamp.reply_to is None:
            if outcome is Outcome.ALREADY:
                return None
            raise _no_reply_wanted("The entry was deleted, and its reply_to with it.")
        key = "\0".join((lease.stream, lease.group, ids[0]))
        if outcome is Outcome.ALREADY and not await self._publisher.remembers(
            stamp.reply_to, key, key_space="reply"
        ):
            return None
        try:
            with _chosen_by_sender():
                await self._requests.prepare(stamp.reply_to)
                added = await self._publisher.add(
                    stamp.reply_to,
                    [reply],
                    Stamp(
                        sender=lease.principal,
                        correlation_id=stamp.correlation_id,
                        in_reply_to=entry_encoding.request_name(lease.stream, ids[0], stamp),
                    ),
                    idempotency_key=key,
                    key_space="reply",
                    waits=quarantines(stamp.reply_to),
                )
        except KeyReused:
            return Replied(stamp.reply_to, None, duplicate=True)
        return Replied(stamp.reply_to, added.ids[0], added.duplicate, added.waits)


@contextmanager
def _chosen_by_sender() -> Iterator[None]:
    """Say in an error of the reply stream what the worker can do, who cannot choose another one.

    What Redis itself refuses is left as it is: its next step is the operator's.
    """
    try:
        yield
    except BusError as error:
        if isinstance(error, ServerReplied) or error.code not in _OF_THE_TARGET:
            raise
        raise BusError(
            error.code,
            error.message,
            cause=f"{error.cause.rstrip('.')}. The entry names it as its reply_to; it is not acknowledged.",
            next_step="Call work_done without reply to finish the entry, or work_fail to give it back.",
        ) from error


def _check_target(reply_to: str, requester: str | None) -> None:
    """Refuse to publish on a requester's behalf to a key of redstreamd, or to another's reply stream."""
    # A reply stream made by redstreamd may exceed the length of names: it contains the stream's.
    if not is_reply_stream(reply_to):
        check_stream(reply_to)
    if is_reserved(reply_to):
        raise _no_reply_wanted(f"Its reply_to, {reply_to[:80]!r}, is a key reserved for redstreamd.")
    if reply_stream_owner(reply_to) not in (None, requester):
        raise _no_reply_wanted("Its reply_to is not a reply stream of its sender.")


def _no_reply_wanted(cause: str) -> BusError:
    return BusError(
        Code.INVALID_ARGUMENT,
        "There is no stream to send the reply to.",
        cause=cause,
        next_step="Call work_done without reply, or publish with stream_add first.",
    )
