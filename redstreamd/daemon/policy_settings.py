"""The policy of the settings: in force, checked for rules without effect, and explained.

Owns what connects the rules with the tools that are offered and with the names of principals and keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from redstreamd.daemon.sockets import principals_of
from redstreamd.errors.remedies import setting
from redstreamd.policy import Permission, Policy
from redstreamd.policy.access import Verdict
from redstreamd.policy.quotas import Quantity, Quota
from redstreamd.policy.rules import matcher
from redstreamd.policy.unused_quotas import without_effect
from redstreamd.policy.unused_rules import unused
from redstreamd.settings import Settings, quotas_of
from redstreamd.streams.names import check_stream, judged_by
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile, Registry, StreamNeeds, Tool


def policy_of(settings: Settings) -> Policy:
    """Return the policy that is in force."""
    return Policy(
        settings.policy.rules,
        read_only=settings.policy.read_only,
        judged=judged_by,
        has_scopes=has_scopes(settings),
    )


def has_scopes(settings: Settings) -> bool:
    """Return whether clients may show tokens that have scopes."""
    return settings.http.token_file is not None or settings.http.oauth_issuer is not None


def offered(settings: Settings) -> Registry:
    """Return the tools of the active profiles."""
    return REGISTRY.for_profiles(Profile(name) for name in settings.tools.profile)


def unused_rules(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each rule, or part of a rule, that has no effect."""

    def matches_no_stream(pattern: str) -> str | None:
        if judged_by(pattern)[0] != pattern:
            return "it names a key beside a stream, which is judged by the stream"
        if len(pattern.replace("*", "").encode()) > settings.streams.max_name_bytes:
            most = settings.streams.max_name_bytes
            return f"a name has at most {most} bytes ({setting('streams.max_name_bytes')})"
        return None

    return unused(
        settings.policy.rules,
        read_only=settings.policy.read_only,
        principals=principals_of(settings.daemon),
        usable={tool.permission for tool in offered(settings)},
        matches_no_stream=matches_no_stream,
    )


def unused_quotas(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each quota, or part of a quota, and each rate that has no effect."""
    return without_effect(
        settings.policy.quotas,
        settings.limits.rates,
        principals=principals_of(settings.daemon),
        offered={tool.name for tool in offered(settings)},
    )


def permissions_of(tool: Tool[Any]) -> tuple[Permission, ...]:
    """Return what a tool needs on the stream that it is about."""
    needed = {tool.permission}
    if isinstance(tool.needs, StreamNeeds):
        needed |= {permission for argument, permission, _ in tool.needs.terms if argument != "reply_to"}
    return tuple(each for each in Permission if each in needed)


class Explanation(msgspec.Struct, frozen=True):
    """Whether a principal may call a tool on a stream, and why.

    Attributes:
        granted: Whether it may.
        lines: What is needed, what decided, and the rule.
    """

    granted: bool
    lines: tuple[str, ...]


def explain(settings: Settings, principal: str, name: str, stream: str) -> Explanation:
    """Explain what decides about one call.

    Args:
        settings: With the rules.
        principal: The name of who calls.
        name: The name of the tool.
        stream: The name of a stream, which need not exist.

    Raises:
        BusError: INVALID_STREAM.
        UnknownToolError: There is no such tool.
    """
    tool = REGISTRY.get(name)
    check_stream(stream, max_bytes=settings.streams.max_name_bytes)
    policy = policy_of(settings)
    if tool.name not in offered(settings):
        profiles = f"{', '.join(settings.tools.profile)} ({setting('tools.profile')})"
        why = f"it belongs to the profile {tool.profile}, and what is offered is {profiles}"
        return Explanation(
            False, (_said(principal, tool, stream, False), f"{tool.name} is not offered: {why}")
        )
    verdicts = [(each, policy.judge(principal, stream, each)) for each in permissions_of(tool)]
    granted = all(verdict.granted for _, verdict in verdicts)
    lines = [_said(principal, tool, stream, granted)]
    beside, _ = judged_by(stream)
    if beside != stream:
        lines.append(f"{stream!r} is a key beside {beside!r}, and is judged by that")
    lines += [f"{permission}: {_reason(settings, verdict)}" for permission, verdict in verdicts]
    lines += _quotas(settings, principal, tool)
    return Explanation(granted, tuple(lines))


def _quotas(settings: Settings, principal: str, tool: Tool[Any]) -> Iterator[str]:
    """Yield what the principal may have, and how often it may call the tool, as far as it is limited."""
    quotas = quotas_of(settings)
    for quantity in Quantity:
        most = quotas.most(quantity, principal)
        if most.number is not None:
            by = setting(most.setting) if most.quota is None else _quota(settings, most.quota)
            yield f"{quantity}: at most {most.number}: {by}"
    for quota in settings.policy.quotas:
        for rate in quota.rates:
            if rate.tool == tool.name and quota.concerns(principal):
                yield f"rate: {rate}: {_quota(settings, quota)}"
                return
    for rate in settings.limits.rates:
        if rate.tool == tool.name and matcher(rate.principal)(principal):
            yield f"rate: {rate}: the first of {setting('limits.rates')} that concerns it"
            return


def _quota(settings: Settings, quota: Quota) -> str:
    return f"quota {settings.policy.quotas.index(quota) + 1}, {str(quota)!r}"


def _said(principal: str, tool: Tool[Any], stream: str, granted: bool) -> str:
    return f"{principal} {'may' if granted else 'may not'} call {tool.name} on {stream!r}"


def _reason(settings: Settings, verdict: Verdict) -> str:
    word = "granted" if verdict.granted else "refused"
    if verdict.rule is None:
        return f"{word}: {verdict.why.text}"
    number = settings.policy.rules.index(verdict.rule) + 1
    return f"{word}: {verdict.why.text}: rule {number}, {str(verdict.rule)!r}"
