"""request_reply: publishes a request and waits for the reply."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import attrs
from msgspec import Meta

from redstreamd.policy import Permission
from redstreamd.presentation.entries import view
from redstreamd.presentation.truncation import bound_entries
from redstreamd.streams.bus import Bus
from redstreamd.streams.request_reply import Request, Requested
from redstreamd.streams.waiting import Wait
from redstreamd.tools import shared_arguments
from redstreamd.tools.annotations import no, writing, yes
from redstreamd.tools.argument_types import NameOf
from redstreamd.tools.definition import BeginWait, Call, Profile, needs_on, tool
from redstreamd.tools.new_streams import join_warnings, naming_warning
from redstreamd.tools.progress_notifications import wait_seconds, waited

_WAITING = (
    "The request was put into quarantine: nobody sees it, and so nobody answers it, before an operator "
    "releases it. Ask the operator; then call again with the same correlation_id, which adds nothing."
)


@attrs.frozen
class RequestReplyArguments:
    """Arguments of request_reply."""

    stream: shared_arguments.Stream
    entry: Annotated[dict[str, Any], Meta(description="The request, a JSON object.")]
    timeout_seconds: shared_arguments.Timeout | None = None
    correlation_id: (
        Annotated[str, Meta(min_length=1, max_length=256, description="Default: a new one.")] | None
    ) = None
    reply_to: (
        Annotated[
            str,
            Meta(min_length=1, max_length=512, description="Reply stream; default: your own."),
            NameOf.STREAM,
        ]
        | None
    ) = None
    idempotency_key: shared_arguments.IdempotencyKey | None = None


@attrs.frozen
class RequestReplied:
    """Answer of request_reply."""

    answered: bool
    request_id: str
    correlation_id: str
    reply_to: str
    reply: (
        Annotated[dict[str, Any], Meta(description="{id, time, fields, sender?}; others' data.")] | None
    ) = None
    resumed: Annotated[bool, Meta(description="The request had been added before.")] | None = None
    waiting: (
        Annotated[str, Meta(description="It is in quarantine under request_id: what that means.")] | None
    ) = None
    warning: str | None = None
    next_call: (
        Annotated[
            dict[str, Any],
            Meta(description="{tool, arguments, match}: gets a late reply, the entry that matches."),
        ]
        | None
    ) = None


def _wait(call: Call[Bus], args: RequestReplyArguments) -> BeginWait:
    """Return what adds the request, and waits for its reply then."""
    seconds = wait_seconds(call, args.timeout_seconds)

    async def begin() -> Wait:
        warning = await naming_warning(call, args.stream)
        if args.reply_to is not None:
            warning = join_warnings(warning, await naming_warning(call, args.reply_to))
        request = Request(
            stream=args.stream,
            members=args.entry,
            principal=call.principal,
            correlation_id=args.correlation_id,
            reply_to=args.reply_to,
            idempotency_key=args.idempotency_key,
            waits=call.quarantines(args.stream),
        )
        wait = await call.bus.requests.ask(request, timeout_seconds=seconds)
        follow = call.may_somewhere(Permission.READ)
        return wait.then(partial(_replied, call.bus.quotas.result_bytes(call.principal), warning, follow))

    return begin


def _replied(max_bytes: int, warning: str | None, follow: bool, asked: Requested) -> RequestReplied:
    reply = None
    if asked.reply is not None:
        bounded, _ = bound_entries([view(asked.reply_to, asked.reply)], max_bytes, droppable=False)
        reply = bounded[0]
    return RequestReplied(
        answered=reply is not None,
        request_id=asked.id,
        correlation_id=asked.correlation_id,
        reply_to=asked.reply_to,
        reply=reply,
        resumed=asked.resumed or None,
        waiting=_WAITING if asked.waits and reply is None else None,
        warning=warning,
        next_call=None
        # Who may read nothing is not offered stream_wait, and calls again with the same correlation_id.
        if reply is not None or not follow
        else {
            "tool": "stream_wait",
            "arguments": {"streams": [asked.reply_to], "cursor": asked.cursor},
            "match": {"correlation_id": asked.correlation_id},
        },
    )


@tool(
    title="Ask and wait for the answer",
    profile=Profile.WORKER,
    permission=Permission.PUBLISH,
    needs=needs_on(Permission.PUBLISH, "stream", "reply_to", creates=True)
    + needs_on(Permission.READ, "reply_to"),
    hints=writing(
        "It adds the request, and creates the reply stream, which expires when it is not used.",
        destructive=yes(
            "It trims the caller's own reply stream to its newest 10,000 replies, whether or not the others "
            "were read."
        ),
        idempotent=no("Without correlation_id or idempotency_key each call adds a request."),
    ),
    wait=_wait,
    unaudited="It trims nothing but replies to the caller.",
)
async def request_reply(call: Call[Bus], args: RequestReplyArguments) -> RequestReplied:
    """Add an entry as a request and wait for its answer.

    A worker answers with work_done's reply; to a reply_to that you name, also with stream_add and the
    correlation_id.
    If no answer came in time, call again with the same correlation_id or idempotency_key: it goes on
    waiting and adds nothing.
    """
    replied: RequestReplied = await waited(call, _wait(call, args), wait_seconds(call, args.timeout_seconds))
    return replied


TOOLS = (request_reply,)
