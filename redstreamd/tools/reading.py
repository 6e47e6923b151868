"""stream_list, stream_read, stream_wait: read streams without side effects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Annotated, Any, Literal

import attrs
import msgspec
from msgspec import Meta, Raw

from redstreamd import strict_json
from redstreamd.errors import BusError, Code
from redstreamd.policy import Permission
from redstreamd.presentation.entry_lines import encode_entries
from redstreamd.presentation.truncation import fitting
from redstreamd.presentation.views import stream_line
from redstreamd.streams.bus import Bus
from redstreamd.streams.next_entries import Waited
from redstreamd.streams.plans import Plan
from redstreamd.streams.reading import Page
from redstreamd.streams.waiting import Wait
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import reading
from redstreamd.tools.definition import NO_NEEDS, BeginWait, Call, Profile, needs_on, tool
from redstreamd.tools.progress_notifications import wait_seconds, waited
from redstreamd.tools.results import Result, structured

_encode = msgspec.json.Encoder().encode


@attrs.frozen
class StreamListArguments:
    """Arguments of stream_list."""

    pattern: Annotated[
        str, Meta(min_length=1, max_length=512, description="Glob pattern of names, such as 'billing:*'.")
    ] = "*"
    cursor: shared_arguments.Cursor | None = None
    count: Annotated[int, Meta(ge=1, le=100, description="Most streams to return.")] = 50


@attrs.frozen
class StreamList:
    """Answer of stream_list."""

    streams: Annotated[
        list[dict[str, Any]],
        Meta(description="{stream, uri, length, groups, last_entry_id, last_entry_time, age_seconds}"),
    ]
    next_cursor: str
    has_more: bool


@tool(
    title="List streams",
    profile=Profile.OBSERVER,
    permission=Permission.READ,
    needs=NO_NEEDS,
    hints=reading("It asks for keys, lengths and groups."),
)
async def stream_list(call: Call[Bus], args: StreamListArguments) -> StreamList:
    """List streams by name with their length, number of consumer groups and the age of the last entry.

    A page may be short or empty while has_more is true: go on with next_cursor.
    """
    page, cursor, more = await call.bus.lister.page(
        args.pattern, cursor=args.cursor, count=args.count, readable=call.readable
    )
    shown = fitting([stream_line(each) for each in page], call.bus.quotas.result_bytes(call.principal))
    if len(shown) < len(page):
        return StreamList(shown, shown[-1]["stream"], has_more=True)
    return StreamList(shown, cursor, more)


@attrs.frozen
class StreamReadArguments:
    """Arguments of stream_read."""

    stream: shared_arguments.Stream
    start: shared_arguments.Start | None = None
    end: shared_arguments.End | None = None
    cursor: shared_arguments.Cursor | None = None
    direction: Literal["forward", "backward"] = "forward"
    count: shared_arguments.Count = 10
    filter: shared_arguments.Filter | None = None


@attrs.frozen
class StreamPage:
    """Answer of stream_read."""

    entries: shared_arguments.Entries
    next_cursor: str
    has_more: bool


def _plan_read(call: Call[Bus], args: StreamReadArguments) -> Plan[StreamPage] | None:
    """Plan to read a page, unless there is a filter, or Redis has to be asked where to begin."""
    if args.filter:
        return None
    plan = call.bus.reader.plan_read(
        args.stream,
        start=args.start,
        end=args.end,
        cursor=args.cursor,
        direction=args.direction,
        count=args.count,
    )
    return None if plan is None else plan.then(partial(_page, call, args))


def _page(call: Call[Bus], args: StreamReadArguments, page: Page) -> StreamPage:
    most = call.bus.quotas.result_bytes(call.principal)
    shown, count = encode_entries(((args.stream, page.entries),), most)
    if count < len(page.entries):
        return StreamPage(shown, page.entries[count - 1].id, has_more=True)
    return StreamPage(shown, page.next_cursor, page.has_more)


@tool(
    title="Read entries",
    profile=Profile.OBSERVER,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "stream"),
    hints=reading("It reads with XRANGE, which does not affect groups."),
    plan=_plan_read,
)
async def stream_read(call: Call[Bus], args: StreamReadArguments) -> StreamPage:
    """Read entries of a stream, a page at a time, without taking them from anyone.

    Forward begins with the earliest entry, backward with the latest.
    """
    strict_json.check_names({"filter": args.filter})
    page = await call.bus.reader.read(
        args.stream,
        start=args.start,
        end=args.end,
        cursor=args.cursor,
        direction=args.direction,
        count=args.count,
        filter=args.filter,
    )
    return _page(call, args, page)


@attrs.frozen
class StreamWaitArguments:
    """Arguments of stream_wait."""

    streams: shared_arguments.Streams
    cursor: shared_arguments.Cursor | None = None
    timeout_seconds: shared_arguments.Timeout | None = None
    count: shared_arguments.Count = 10
    filter: shared_arguments.Filter | None = None


@attrs.frozen
class StreamWaited:
    """Answer of stream_wait."""

    entries: shared_arguments.Entries
    next_cursor: str
    timed_out: bool
    absent: Annotated[list[str], Meta(description="Streams that do not exist yet.")] | None = None


def _wait(call: Call[Bus], args: StreamWaitArguments) -> Wait | BeginWait:
    """Return the wait; without a cursor, what finds out where it begins."""
    if len(args.streams) > 1 and len(set(args.streams)) < len(args.streams):
        raise BusError(
            Code.INVALID_ARGUMENT,
            "streams names a stream twice.",
            cause="A cursor holds one position for each stream.",
            next_step="Name each stream once.",
        )
    if args.filter is not None:
        strict_json.check_names({"filter": args.filter})
    waits, convert = call.bus.next_entries, _waited(call.bus.quotas.result_bytes(call.principal))
    seconds = wait_seconds(call, args.timeout_seconds)
    if args.cursor is not None:
        return waits.wait_after(args.streams, args.cursor, args.count, seconds, args.filter, convert)
    return partial(waits.begin_wait, args.streams, args.count, seconds, args.filter, convert)


@functools.lru_cache
def _waited(most: int) -> Callable[[Waited], StreamWaited | Result]:
    """Return what makes the result, of at most so many bytes, of what was found; the same for all calls."""

    def convert(found: Waited) -> StreamWaited | Result:
        if len(found.entries) == 1:
            # As most are: in few steps, since it is what a wake takes longest for.
            stream, entry = found.entries[0]
            shown, count = encode_entries(((stream, (entry,)),), most)
            if count and type(shown) is Raw:
                body = bytes(shown), _encode(found.cursor_after(count))
                return structured(b'{"entries":%b,"next_cursor":%b,"timed_out":false}' % body)
        else:
            by_stream = groupby(found.entries, itemgetter(0))
            parts = [(stream, [entry for _, entry in entries]) for stream, entries in by_stream]
            shown, count = encode_entries(parts, most)
        return StreamWaited(
            entries=shown,
            next_cursor=found.cursor_after(count),
            timed_out=not count,
            absent=found.absent if found.absent and not count else None,
        )

    return convert


@tool(
    title="Wait for entries",
    profile=Profile.OBSERVER,
    permission=Permission.READ,
    needs=needs_on(Permission.READ, "streams"),
    hints=reading("It reads after a cursor that the caller keeps, and watches keys by client tracking."),
    wait=_wait,
)
async def stream_wait(call: Call[Bus], args: StreamWaitArguments) -> StreamWaited:
    """Wait until one of the streams has entries after the cursor, and return them.

    Without a cursor it waits for what comes after this call. When nothing came in time the answer
    has no entries and timed_out is true: call again with next_cursor, and nothing is missed.
    """
    found: StreamWaited = await waited(call, _wait(call, args), wait_seconds(call, args.timeout_seconds))
    return found


TOOLS = (stream_list, stream_read, stream_wait)
