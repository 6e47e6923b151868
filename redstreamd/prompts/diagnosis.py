"""Prompts that diagnose the connection to Redis, a stream, or a consumer group."""

from __future__ import annotations

from redstreamd.presentation.uris import HEALTH, group_uri, stream_uri
from redstreamd.presentation.views import Views
from redstreamd.prompts.definition import GROUP, STREAM, PromptContent, prompt, value_or_error


@prompt("diagnose-connection", title="Diagnose the connection to Redis", streams=(), permission=None)
async def connection(views: Views) -> PromptContent:
    """Find out whether redstreamd reaches Redis, and if not, why and what to do."""
    return PromptContent(
        """\
Find out whether redstreamd can use Redis, and tell me in a few sentences.

1. Look at redis.ping. Answered within a few milliseconds is healthy; tens of milliseconds point to a slow
   network or a busy server; not answered is an outage. redis.troubles lists what else is known to be wrong,
   such as a server that answers but refuses writes. If redis has nodes, it is several servers, each with its
   own ping, troubles and connections; streams of the others are served while one is away.
2. Look at each of redis.connections. "command" carries everything short, "watch" wakes those who wait,
   "bulk" carries large reads, "large" those that are known to be very large, "durable" carries adds that are
   to be confirmed. Each is opened when first needed: one that is not listed was not needed yet, which is not
   an error. One that is listed and not connected has a cause and a next step: explain them in your own words
   and say who has to act.
3. Look at waiting only if "watch" is among the connections; otherwise nobody has waited yet.
   waiting.tracking false while "watch" is connected means that this server refuses key tracking: waits are
   then served by polling, up to a quarter of a second late.
4. If something is wrong, name the one cause that explains all of it, and what to do first. If nothing is,
   say so and stop.
""",
        {HEALTH: await views.health()},
    )


@prompt("diagnose-stream", STREAM, title="Diagnose a stream", streams=("stream",))
async def stream(views: Views, stream: str) -> PromptContent:
    """Find out whether a stream is being written and read as it should be."""
    return PromptContent(
        """\
Find out whether this stream is in good order, and tell me what you find, most serious first.

1. Is it written? Compare age_seconds with the times between its latest entries. A stream that went quiet
   points to its producers.
2. Is it read? For each group compare lag (entries not yet delivered; with lag_between it is an estimate)
   and pending (delivered and not finished) with length. A lag that is large needs more consumers or faster
   ones; pending without lag means that consumers take work and do not finish it.
3. Does it grow without end? A length far above what any group still needs calls for retention: max_length
   or max_age_seconds of stream_add.
4. Are its entries alike? Say if their fields differ so much that consumers could trip over them.

Call stream_health or stream_read where the facts are not enough. For each finding give the evidence, the
likely cause and the next call to make. If the facts hold a failure, explain that instead.
""",
        {stream_uri(stream): await value_or_error(views, views.stream(stream))},
    )


@prompt("diagnose-group", STREAM, GROUP, title="Diagnose a consumer group", streams=("stream",))
async def group(views: Views, stream: str, group: str) -> PromptContent:
    """Find out whether the consumers of a group keep up, and who holds what."""
    return PromptContent(
        """\
Find out whether the consumers of this group do their work, and tell me what you find, most serious first.

1. Does the group keep up? lag is what waits to be delivered (if it is an estimate, the facts say why).
2. Is work stuck? oldest_pending is what was taken first and not finished: long idle means that its consumer
   died or hangs; many deliveries mean that the entry itself makes consumers fail.
3. Are consumers alive? One that is idle for long and holds pending entries is probably gone; its entries go
   to the others when their lease runs out. One that is idle and holds nothing is harmless.
4. Is work shared evenly, or does one consumer hold most of it?

Call pending_list where the facts are not enough. For each finding give the evidence, the likely cause and
the next call to make. Change nothing without asking me. If the facts hold a failure, explain that instead.
""",
        {group_uri(stream, group): await value_or_error(views, views.group(stream, group))},
    )


PROMPTS = (connection, stream, group)
