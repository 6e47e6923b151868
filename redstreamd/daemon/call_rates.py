"""The rates of the settings, as what the toolbox asks of each call."""

from __future__ import annotations

from redstreamd.admission.rates import Rates, Rule
from redstreamd.errors import SettingsError
from redstreamd.settings import Settings
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import UnknownToolError
from redstreamd.tools.invocation import CheckRate


def check_rate(settings: Settings, source: str = "the settings") -> CheckRate | None:
    """Return what counts calls against their rates; None if no rates are set.

    Args:
        settings: They may name tools that are not offered.
        source: Where the rates come from, for errors.

    Raises:
        SettingsError: There is no such tool.
    """
    rates = settings.limits.rates
    for rate in rates:
        try:
            REGISTRY.get(rate.tool)
        except UnknownToolError as unknown:
            known = f"rates of tools that exist, such as {unknown.nearest[0]}"
            raise SettingsError("limits.rates", value=str(rate), source=source, allowed=known) from None
    if not rates:
        return None
    return Rates(
        [Rule(each.tool, each.principal, each.per_second, each.burst, str(each)) for each in rates]
    ).check
