"""The rates of the settings, as what the toolbox asks of each call."""

from __future__ import annotations

from collections.abc import Iterator

from redstreamd.admission.rates import Rule
from redstreamd.errors import SettingsError
from redstreamd.policy.quotas import QUOTAS
from redstreamd.policy.rate import Rate
from redstreamd.settings import Settings
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import UnknownToolError


def rate_rules(settings: Settings) -> list[Rule]:
    """Return the rates of the quotas, then those of all principals: the first that concerns a call counts.

    Raises:
        SettingsError: There is no such tool.
    """
    check_tools(settings)
    return [
        *(
            _rule(rate, pattern, QUOTAS)
            for quota in settings.policy.quotas
            for rate in quota.rates
            for pattern in quota.principals
        ),
        *(_rule(rate, rate.principal, "limits.rates") for rate in settings.limits.rates),
    ]


def check_tools(settings: Settings, *, source_of: dict[str, str] | None = None) -> None:
    """Raise SettingsError for a rate of a tool that does not exist; it may be one that is not offered.

    Args:
        settings: With the rates.
        source_of: Where the settings come from, for errors, by their dotted keys.
    """
    for key, rate in _rates(settings):
        try:
            REGISTRY.get(rate.tool)
        except UnknownToolError as unknown:
            known = f"rates of tools that exist, such as {unknown.nearest[0]}"
            source = (source_of or {}).get(key, "the settings")
            raise SettingsError(key, value=str(rate), source=source, allowed=known) from None


def _rates(settings: Settings) -> Iterator[tuple[str, Rate]]:
    for rate in settings.limits.rates:
        yield "limits.rates", rate
    for quota in settings.policy.quotas:
        for rate in quota.rates:
            yield QUOTAS, rate


def _rule(rate: Rate, pattern: str, setting: str) -> Rule:
    return Rule(rate.tool, pattern, rate.per_second, rate.burst, str(rate), setting)
