"""Errors of the server, explained for the stream or group that a call is about.

The redisio layer knows what the server replied. This module knows the stream and group of the call, and which
names exist instead.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from redstreamd.admission.turns import next_turn
from redstreamd.errors import BusError, Code
from redstreamd.errors.nearest_names import nearest_names
from redstreamd.redisio.client import Redis
from redstreamd.redisio.error_replies import NO_SUCH_KEY
from redstreamd.redisio.redis_errors import ServerReplied
from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.streams.batches import UNAVAILABLE, ask_in_batches
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.known_names import KnownStreams
from redstreamd.streams.names import has_stray_braces, is_reply_stream


@asynccontextmanager
async def explain_errors(redis: Redis, stream: str, group: str | None = None) -> AsyncIterator[None]:
    """Turn errors of the server into errors that name `stream` and `group`, and what exists instead."""
    try:
        yield
    except ServerReplied as refusal:
        kind = refusal.kind
        if kind == "WRONGTYPE":
            raise await _wrong_type(redis, stream) from refusal
        if kind == "CROSSSLOT" and has_stray_braces(stream):
            raise BusError(
                Code.INVALID_STREAM,
                f"{stream[:80]!r} cannot name a stream on a Redis cluster.",
                cause="Unpaired braces in a name put the keys beside the stream into other slots.",
                next_step="Choose a name without braces, or with one part in braces, such as {orders}:new.",
            ) from refusal
        if kind == "NOGROUP" and group is not None:
            if await _type_of(redis, stream) == "none":
                raise await stream_not_found(redis, stream) from refusal
            raise await group_not_found(redis, stream, group) from refusal
        if kind == NO_SUCH_KEY:
            raise await stream_not_found(redis, stream) from refusal
        raise


@contextmanager
def append_to_errors(done: Callable[[], str]) -> Iterator[None]:
    """Append to an error of the block what the same call had done before.

    Args:
        done: Called on an error. Returns a sentence, or an empty text if nothing was done.
    """
    try:
        yield
    except BusError as error:
        if not (sentence := done()):
            raise
        raise appended(error, sentence) from error


def appended(error: BusError, sentence: str) -> BusError:
    """Return an error with a sentence after its cause."""
    cause = f"{error.cause.rstrip('.')}. {sentence}"
    return BusError(
        error.code,
        error.message,
        cause=cause,
        next_step=error.next_step,
        retry_after_seconds=error.retry_after_seconds,
        similar=error.similar,
    )


async def check_exists(redis: Redis, stream: str) -> None:
    """Return if a stream of which nothing was read exists. Raises STREAM_NOT_FOUND."""
    async with explain_errors(redis, stream):
        if await redis.key_type(stream) == "none":
            raise await stream_not_found(redis, stream)


async def stream_not_found(redis: Redis, stream: str) -> BusError:
    """Return the error for a stream that does not exist, with the similar names that are known to exist.

    Those that our user of Redis may not access are left out. For a reply stream none are named: the error is
    the same as for that of another principal.
    """
    if is_reply_stream(stream):
        return no_such_stream(stream)
    known = await redis.shared(KnownStreams).names()
    similar = await _similar(stream, known)
    return no_such_stream(stream, await _permitted(redis, similar))


def no_such_stream(stream: str, similar: Sequence[str] = ()) -> BusError:
    """Return the error for a stream that does not exist; `similar` are names that do."""
    next_step = "Call stream_list to see the streams; stream_add and group_create create one."
    if is_reply_stream(stream):
        next_step = "request_reply reads the replies to you; work_done with reply answers a request."
    return BusError(
        Code.STREAM_NOT_FOUND,
        f"There is no stream {stream!r}.",
        cause="Nothing was added to it yet, or it was deleted.",
        next_step=next_step,
        similar=similar,
    )


async def group_not_found(redis: Redis, stream: str, group: str) -> BusError:
    """Return the error for a group that does not exist, with the stream's groups."""
    cause = "This user of Redis may not list its groups."
    with suppress(ServerReplied):
        known = (await redis.shared(GroupLists).of(stream)).groups
        shown = heapq.nsmallest(10, known)
        cause = f"Its groups are: {quoted(shown) or 'none'}."
        if len(known) > len(shown):
            cause = f"Its groups are, among others: {quoted(shown)}." + await _nearest(group, known)
    return BusError(
        Code.GROUP_NOT_FOUND,
        f"Stream {stream!r} has no consumer group {group!r}.",
        cause=cause,
        next_step="Call group_create, or work_take, which creates the group.",
    )


async def find_group(redis: Redis, stream: str, group: str) -> GroupInfo:
    """Return a group of a stream. Raises STREAM_NOT_FOUND, GROUP_NOT_FOUND, WRONG_TYPE."""
    async with explain_errors(redis, stream, group):
        found = await redis.shared(GroupLists).find(stream, group)
    if found is not None:
        return found
    raise await group_not_found(redis, stream, group)


async def _wrong_type(redis: Redis, stream: str) -> BusError:
    kind = await _type_of(redis, stream)
    if kind in ("stream", "none"):
        # So it was another key of the command.
        return BusError(
            Code.WRONG_TYPE,
            f"A key that redstreamd keeps beside {stream!r} is in use for something else.",
            cause=f"One of the keys {stream[:80]}:rs:... holds another type than it should.",
            next_step="Look at the TYPE of these keys with redis-cli, and delete or rename the wrong one.",
        )
    return BusError(
        Code.WRONG_TYPE,
        f"{stream!r} is not a stream.",
        cause=f"A key of this name holds {'another type' if kind is None else f'a {kind}'}.",
        next_step="Choose another name, or delete that key if nothing needs it.",
    )


async def _type_of(redis: Redis, key: str) -> str | None:
    """Return the type of `key`; None if this user of Redis may not ask."""
    try:
        return await redis.key_type(key)
    except ServerReplied:
        return None


def quoted(names: Iterable[str]) -> str:
    """Return names of others for a sentence, in quotes: a name may read like an instruction."""
    return ", ".join(map(repr, names))


async def _similar(name: str, known: Collection[str]) -> Sequence[str]:
    """Return the nearest names, when it is this call's turn."""
    await next_turn()
    return nearest_names(name, known, 3, least=0.6)


async def _permitted(redis: Redis, streams: Sequence[str]) -> list[str]:
    """Return the few streams that our user of Redis may access, as far as that is known now."""
    try:
        replies = await ask_in_batches(redis, [(stream, ("TYPE", stream)) for stream in streams])
    except UNAVAILABLE:
        return []
    return [
        stream for stream, reply in zip(streams, replies, strict=True) if not isinstance(reply, ServerReplied)
    ]


async def _nearest(name: str, known: Collection[str]) -> str:
    """Return a sentence with the nearest names; empty if there are none."""
    similar = await _similar(name, known)
    return f" The nearest names are: {quoted(similar)}." if similar else ""
