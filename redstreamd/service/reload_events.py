"""What there is to record about a reload of the settings."""

from __future__ import annotations

import msgspec


class SettingsReloaded(msgspec.Struct, frozen=True):
    """The settings were read again, and those that can be changed were changed.

    Attributes:
        changed: The dotted keys of those that apply from now on.
        restart: The dotted keys of those that differ and apply after a restart only.
        findings: Sentences about rules of the policy that have no effect.
    """

    changed: tuple[str, ...]
    restart: tuple[str, ...]
    findings: tuple[str, ...]


class ReloadRefused(msgspec.Struct, frozen=True):
    """The settings were read again and are not valid; nothing was changed.

    Attributes:
        reason: What `check-config` says of them.
    """

    reason: str


ReloadEvent = SettingsReloaded | ReloadRefused
