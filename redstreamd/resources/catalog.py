"""The registry of all resources."""

from __future__ import annotations

from redstreamd.resources import group_resources, health_resource, stream_resources
from redstreamd.resources.definition import ResourceRegistry

RESOURCES = ResourceRegistry(
    (*stream_resources.RESOURCES, *group_resources.RESOURCES, *health_resource.RESOURCES)
)
