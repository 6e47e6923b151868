"""Which tools whom is offered: those of the active profiles, less those that the policy hides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from redstreamd.errors.remedies import setting
from redstreamd.policy import Permission, Policy, Principal
from redstreamd.tools.definition import Profile, Registry, UnknownToolError

#: Characters of an unknown name that an error repeats.
_NAME_SHOWN: Final = 80
#: Principals of which it is remembered what they may not use.
_MAX_PRINCIPALS: Final = 1_024


class _Hidden(dict[Principal, frozenset[str]]):
    """The names of the tools that a principal may not use, each found when it is first asked for."""

    def __init__(self, offered: Registry, policy: Policy) -> None:
        super().__init__()
        self._offered = offered
        self._policy = policy

    def __missing__(self, principal: Principal) -> frozenset[str]:
        permissions = self._policy.somewhere(principal)
        hidden = frozenset(each.name for each in self._offered if each.permission not in permissions)
        if len(self) >= _MAX_PRINCIPALS:
            del self[next(iter(self))]
        self[principal] = hidden
        return hidden


class Offers:
    """What is offered as long as neither the profiles nor the policy change.

    Attributes:
        tools: Those of the active profiles.
        permissions: What these need.
        hidden: The names of those that are not offered to a principal, by principal; None if all are to
            everybody.
    """

    def __init__(self, registry: Registry, profiles: Iterable[Profile], policy: Policy) -> None:
        """Offer the tools of the profiles.

        Args:
            registry: All tools.
            profiles: The active profiles.
            policy: Says which tools a principal may use.
        """
        self._registry = registry
        self._profiles = tuple(sorted(profiles))
        self._policy = policy
        self.tools = registry.for_profiles(self._profiles)
        self.permissions = frozenset(each.permission for each in self.tools)
        self.hidden: Mapping[Principal, frozenset[str]] | None = (
            _Hidden(self.tools, policy) if policy.restricts else None
        )
        self._to: dict[frozenset[Permission], Registry] = {}

    def to(self, principal: Principal) -> Registry:
        """Return the tools that a principal may use; the same value for those who may use the same."""
        if not self._policy.restricts:
            return self.tools
        permissions = self._policy.somewhere(principal)
        offered = self._to.get(permissions)
        if offered is None:
            offered = Registry(each for each in self.tools if each.permission in permissions)
            self._to[permissions] = offered
        return offered

    def missing_scope(self, principal: Principal, name: str) -> Permission | None:
        """Return the scope for a tool that the token of a principal lacks, if that is all that it lacks."""
        if principal.permissions is None or self.hidden is None or name not in self.hidden[principal]:
            return None
        unlimited = msgspec.structs.replace(principal, permissions=None)
        return None if name in self.hidden[unlimited] else self.tools.get(name).permission

    def explain(self, unknown: UnknownToolError, principal: Principal) -> str:
        """Return what a principal is told who calls a tool that it is not offered."""
        name = unknown.name
        shown = json.dumps(name[:_NAME_SHOWN]).strip('"')
        active = ", ".join(self._profiles)
        if (
            name in self._registry
            and name not in self.tools
            and self._registry.get(name).permission in self._policy.somewhere(principal)
        ):
            profile = self._registry.get(name).profile
            return (
                f"Unknown tool: {shown}. It belongs to the profile {profile}; active here: {active}. "
                f"The daemon's setting {setting('tools.profile')} chooses them."
            )
        if not unknown.nearest:
            return f"Unknown tool: {shown}. No tool is offered to you; tools/list is empty."
        nearest = ", ".join(unknown.nearest)
        return (
            f"Unknown tool: {shown}. Nearest: {nearest}. Active profile: {active}; tools/list has them all."
        )
