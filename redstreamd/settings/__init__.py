"""Frozen, strict settings: their definitions, sources and documentation."""

from redstreamd.policy.quotas import Quota
from redstreamd.policy.rate import Rate
from redstreamd.settings.description import Description, as_markdown, as_toml, describe
from redstreamd.settings.encryption_settings import EncryptionSettings
from redstreamd.settings.http_settings import HttpSettings
from redstreamd.settings.limits_settings import LimitsSettings
from redstreamd.settings.listen_address import Kind, ListenAddress
from redstreamd.settings.listener_demands import demands
from redstreamd.settings.loading import Loaded, load
from redstreamd.settings.metrics_settings import MetricsSettings
from redstreamd.settings.quarantine_settings import QuarantineSettings
from redstreamd.settings.quotas_in_force import apply_quotas, quotas_of
from redstreamd.settings.redis_settings import RedisSettings
from redstreamd.settings.sections import (
    DaemonSettings,
    LeasesSettings,
    ListenersSettings,
    PolicySettings,
    RecordsSettings,
    Settings,
    StreamsSettings,
    ToolsSettings,
)
from redstreamd.settings.sources import DEFAULT_FILE, Precedence, Source

__all__ = [
    "DEFAULT_FILE",
    "DaemonSettings",
    "Description",
    "EncryptionSettings",
    "HttpSettings",
    "Kind",
    "LeasesSettings",
    "LimitsSettings",
    "ListenAddress",
    "ListenersSettings",
    "Loaded",
    "MetricsSettings",
    "PolicySettings",
    "Precedence",
    "QuarantineSettings",
    "Quota",
    "Rate",
    "RecordsSettings",
    "RedisSettings",
    "Settings",
    "Source",
    "StreamsSettings",
    "ToolsSettings",
    "apply_quotas",
    "as_markdown",
    "as_toml",
    "demands",
    "describe",
    "load",
    "quotas_of",
]
