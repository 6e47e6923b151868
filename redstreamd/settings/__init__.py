"""Frozen, strict settings: their definitions, where they come from, and how they are described.

A leaf: imports nothing of redstreamd but `errors` and `paths`.
"""

from redstreamd.settings.description import Description, as_markdown, as_toml, describe
from redstreamd.settings.listen_address import Kind, ListenAddress
from redstreamd.settings.loading import Loaded, load
from redstreamd.settings.sections import (
    DaemonSettings,
    LeasesSettings,
    LimitsSettings,
    RedisSettings,
    Settings,
    StreamsSettings,
    ToolsSettings,
)
from redstreamd.settings.sources import DEFAULT_FILE, Rank, Source

__all__ = [
    "DEFAULT_FILE",
    "DaemonSettings",
    "Description",
    "Kind",
    "LeasesSettings",
    "LimitsSettings",
    "ListenAddress",
    "Loaded",
    "Rank",
    "RedisSettings",
    "Settings",
    "Source",
    "StreamsSettings",
    "ToolsSettings",
    "as_markdown",
    "as_toml",
    "describe",
    "load",
]
