"""The resource about a consumer group."""

from __future__ import annotations

from redstreamd.presentation.uris import STREAMS
from redstreamd.resources.definition import Content, Reading, json_content, resource
from redstreamd.streams.subscriptions.topics import GroupTopic


@resource(
    f"{STREAMS}/{{stream}}/groups/{{group}}",
    title="Consumer group",
    mime_type="application/json",
    streams=("stream",),
    fresh_seconds=0.0,
    topic=GroupTopic,
)
async def group(reading: Reading, *, stream: str, group: str) -> Content:
    """A consumer group: lag, pending entries and consumers.

    An update follows at most once a second, and within five for what other programs do.
    """
    return json_content(await reading.facts.group(stream, group))


RESOURCES = (group,)
