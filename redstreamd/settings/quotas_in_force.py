"""What the settings say of how much each principal may have: its quotas, and the limits of all principals."""

from __future__ import annotations

from typing import Final

from redstreamd.errors import SettingsError
from redstreamd.policy.quotas import Most, Quantity, Quotas
from redstreamd.settings.sections import Settings

#: For each quantity, the settings of what a principal may have that no quota concerns, and of what all may
#: have together.
_SETTINGS: Final = {
    Quantity.CONNECTIONS: ("limits.max_connections_per_principal", "limits.max_connections"),
    Quantity.WAITS: ("limits.max_waits_per_principal", "limits.max_waits"),
    Quantity.SUBSCRIPTIONS: ("limits.max_subscriptions_per_principal", "limits.max_subscriptions"),
    Quantity.RESULT_BYTES: ("tools.max_result_bytes", "tools.max_result_bytes"),
}


def quotas_of(settings: Settings) -> Quotas:
    """Return the quotas that the settings say."""
    quotas = Quotas()
    apply_quotas(quotas, settings)
    return quotas


def apply_quotas(quotas: Quotas, settings: Settings) -> None:
    """Replace the quotas in force by those of other settings."""
    others = {each: Most(_value(settings, own), own) for each, (own, _) in _SETTINGS.items()}
    quotas.replace(settings.policy.quotas, others)


def check_quotas(settings: Settings, source: str) -> None:
    """Raise SettingsError for a quota of more than all may have together.

    Args:
        settings: With the quotas.
        source: Where the quotas come from, for errors.
    """
    for number, quota in enumerate(settings.policy.quotas, 1):
        for quantity, amount in quota.amounts:
            _, bound = _SETTINGS[quantity]
            most = _value(settings, bound)
            if most is not None and amount > most:
                allowed = f"{quantity} of at most {bound} ({most}); item {number} has more"
                raise SettingsError("policy.quotas", value=str(quota), source=source, allowed=allowed)


def _value(settings: Settings, key: str) -> int | None:
    group, _, name = key.partition(".")
    value: int | None = getattr(getattr(settings, group), name)
    return value
