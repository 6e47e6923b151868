"""The resource of the daemon's health."""

from __future__ import annotations

from redstreamd.presentation.uris import HEALTH
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import Content, json_content, resource


@resource(
    HEALTH,
    title="Health",
    mime_type="application/json",
    streams=(),
    permission=None,
    fresh_seconds=0.0,
    topic=None,
)
async def health(views: Views) -> Content:
    """The health of the daemon and its connections to Redis; can be read while Redis is down."""
    return json_content(await views.health())


RESOURCES = (health,)
