"""Checks what the rules and quotas of the settings grant: whether each has an effect."""

from __future__ import annotations

from collections.abc import Sequence

from redstreamd.doctor.report import CheckResult, ok, skipped, warning
from redstreamd.errors.remedies import setting
from redstreamd.settings import Settings

_POLICY = "policy"
_TRIED = "comparing rules and quotas with the sockets, the tools that are offered and the limits"


def check_policy(settings: Settings, without_effect: Sequence[str]) -> CheckResult:
    """Check the settings of `policy`.

    Args:
        settings: The settings.
        without_effect: A sentence for each rule or quota that has no effect.
    """
    policy = settings.policy
    if without_effect:
        seen = "; ".join(each.rstrip(".") for each in without_effect)
        where = setting("policy.rules", "policy.quotas")
        return warning(
            _POLICY, _TRIED, seen, f"Correct {where}; `redstreamd policy explain` says who may what."
        )
    if not (policy.rules or policy.quotas or policy.read_only):
        return skipped(_POLICY, _TRIED, "there are no rules: every client may use what the profile offers")
    seen = f"{len(policy.rules)} rules and {len(policy.quotas)} quotas, each with an effect"
    return ok(_POLICY, _TRIED, f"{seen}; nothing but reading is granted" if policy.read_only else seen)
