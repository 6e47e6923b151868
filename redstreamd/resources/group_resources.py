"""The resource of a consumer group."""

from __future__ import annotations

from redstreamd.presentation.uris import STREAMS
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import Content, json_content, resource
from redstreamd.streams.subscriptions.topics import GroupTopic


@resource(
    f"{STREAMS}/{{stream}}/groups/{{group}}",
    title="Consumer group",
    mime_type="application/json",
    streams=("stream",),
    fresh_seconds=0.0,
    topic=GroupTopic,
)
async def group(views: Views, *, stream: str, group: str) -> Content:
    """A consumer group: lag, pending entries and consumers.

    An update follows at most once a second, and within five for what other programs do.
    """
    return json_content(await views.group(stream, group))


RESOURCES = (group,)
