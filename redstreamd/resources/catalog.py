"""All the resources there are."""

from __future__ import annotations

from redstreamd.resources import groups, health, streams
from redstreamd.resources.definition import Library

LIBRARY = Library((*streams.RESOURCES, *groups.RESOURCES, *health.RESOURCES))
