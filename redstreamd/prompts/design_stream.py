"""The prompt for designing a stream before it is used."""

from __future__ import annotations

from redstreamd.presentation.uris import STREAMS
from redstreamd.presentation.views import Views
from redstreamd.prompts.definition import Argument, PromptContent, prompt, value_or_error


@prompt(
    "design-stream",
    Argument("purpose", "What the stream is for: who writes, who reads, how much, how long it matters."),
    title="Design a stream",
    streams=(),
)
async def design(views: Views, purpose: str) -> PromptContent:
    """Choose a stream's name, the format of its entries, its groups and its retention."""
    return PromptContent(
        """\
Design a stream for my purpose. Ask me only what you cannot decide.

1. Name: service:purpose:stream in lower case, such as billing:invoices:created. Look at the streams that
   exist: use one of them if it fits, and do not invent a second name for the same thing.
2. Entries: a flat JSON object with a "type" and only what readers need, ids rather than copies of large
   documents. Name the fields, and give one example entry. Say which field makes a good idempotency_key.
3. Reading: one consumer group for each kind of work (each entry is processed once per group), stream_wait
   for readers that only follow. Name the groups.
4. Retention: max_length or max_age_seconds, from the rate of writing and from how far behind a reader may
   fall. What a group has not finished is never trimmed; say what readers without a group may lose, and who
   notices a group without consumers.
5. Failure: lease_seconds longer than the work usually takes, max_deliveries of each group (group_create
   sets it), and who looks at the dead letters.

End with the calls that set it up, ready to be made: group_create for each group, and one stream_add.
""",
        {STREAMS: await value_or_error(views, views.streams())},
    )


PROMPTS = (design,)
