"""The resource about the daemon itself."""

from __future__ import annotations

from redstreamd.presentation.uris import HEALTH
from redstreamd.resources.definition import Content, Reading, json_content, resource


@resource(
    HEALTH,
    title="Health",
    mime_type="application/json",
    streams=(),
    fresh_seconds=0.0,
    topic=None,
)
async def health(reading: Reading) -> Content:
    """How the daemon and its connections to Redis are; can be read while Redis is away."""
    return json_content(await reading.facts.daemon_health.report())


RESOURCES = (health,)
