"""All the resources there are."""

from __future__ import annotations

from redstreamd.resources import group_resources, health_resource, stream_resources
from redstreamd.resources.definition import Library

LIBRARY = Library((*stream_resources.RESOURCES, *group_resources.RESOURCES, *health_resource.RESOURCES))
