"""Decides what a principal may do to a stream: the one place that is asked for rights.

- Without a rule everybody may do everything that the offered tools can do: `tools.profile` decides whether
  streams are managed at all.
- With a rule, what no rule grants is refused, also to principals that no rule names. What several rules grant
  is granted together; the order of rules has no meaning.
- A policy that is read-only grants nothing but reading, whatever the rules say.
- What a rule lets a principal ``submit``, and no rule publish, waits in quarantine until it is released.
- The keys beside a stream are judged by the stream. Two grants follow from what they are for: who may publish
  requests to a stream may read the reply streams beside it, and who may consume it may publish to them; but
  who may submit to it and not publish submits its replies, too. That a reply stream belongs to somebody is
  another question, which is asked after this one.
- The scopes of a token narrow what its principal is granted, and never widen it.

Verdicts depend on names only, never on what exists, so a refusal tells nothing about what exists. They are
remembered by principal and stream, so that a call costs one look into a dict, until other rules apply.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy.principals import Permission, Principal
from redstreamd.policy.rules import Rule, matcher

#: Verdicts and principals that are remembered; with names of 512 bytes about 3 MiB.
_MAX_REMEMBERED: Final = 4_096
_MAX_PRINCIPALS: Final = 1_024

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
Permissions = frozenset[Permission]
_NONE: Final[Permissions] = frozenset()
_ALL: Final[Permissions] = frozenset(Permission)
_READ_ONLY: Final[Permissions] = frozenset({Permission.READ})

Judged = Callable[[str], tuple[str, bool]]
"""Returns the stream that a key is judged by, and whether the key is a reply stream beside it."""


def judged_by_itself(stream: str) -> tuple[str, bool]:
    """Judge every key by its own name, for streams that have no keys beside them."""
    return stream, False


class Why(enum.Enum):
    """What decided a verdict."""

    NO_RULES = "there are no rules, so everything is granted that the offered tools can do"
    RULE = "a rule grants it"
    SUBMIT = "a rule grants submit, so what is added waits in quarantine until it is released"
    REPLIES = "it is a reply stream, and a rule grants what goes with it"
    READ_ONLY = "the policy is read-only, which overrides the rules"
    NO_RULE_FOR_PRINCIPAL = "there are rules, and none is for this principal"
    SCOPES = "the token does not have the scope for it"
    NO_RULE_FOR_STREAM = "no rule for this principal grants it on this stream"

    @property
    def text(self) -> str:
        """What decided it, with the setting that does."""
        place = f" ({setting('policy.read_only')})" if self is Why.READ_ONLY else ""
        return f"{self.value}{place}"


class Verdict(msgspec.Struct, frozen=True):
    """Whether something is granted, and why.

    Attributes:
        granted: Whether it is.
        why: What decided it.
        rule: The rule that grants it, of several the first; None if none does.
    """

    granted: bool
    why: Why
    rule: Rule | None = None

    @property
    def waits(self) -> bool:
        """Whether what is published waits in quarantine until it is released."""
        return self.why is Why.SUBMIT


class _Grant(msgspec.Struct, frozen=True):
    """A rule, with what its patterns match."""

    rule: Rule
    permissions: Permissions
    streams: tuple[Callable[[str], bool], ...]


class StreamFilter:
    """The streams that may be named to a caller. Equal for callers to whom the same may be named."""

    __slots__ = ("_matchers", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        """Let names pass that match one of the patterns."""
        self.patterns: Final = frozenset(patterns)
        self._matchers: Final = tuple(matcher(pattern) for pattern in sorted(self.patterns))

    def __eq__(self, other: object) -> bool:
        """Return whether the same names pass."""
        return isinstance(other, StreamFilter) and self.patterns == other.patterns

    def __hash__(self) -> int:
        """Return a hash that goes with equality."""
        return hash(self.patterns)

    def __call__(self, stream: str) -> bool:
        """Return whether a stream may be named; never a key beside a stream."""
        return any(matches(stream) for matches in self._matchers)


class Policy:
    """The rules in force.

    Attributes:
        restricts: Whether anything is refused to anybody.
        read_only: Whether nothing but reading is granted.
        submits: Whether anything that anybody publishes waits in quarantine.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        read_only: bool = False,
        judged: Judged = judged_by_itself,
        has_scopes: bool = False,
    ) -> None:
        """Apply the rules.

        Args:
            rules: In any order; none: everything is granted.
            read_only: Grant nothing but reading.
            judged: See `Judged`.
            has_scopes: Whether there may be principals whose `permissions` limit them.
        """
        self._judged: Final = judged
        # The oldest is forgotten first.
        self._grants: dict[str, tuple[_Grant, ...]] = {}
        self._verdicts: dict[tuple[str, str, Permissions | None], Permissions] = {}
        self._waiting: dict[tuple[str, str], bool] = {}
        self.reconfigure(rules, read_only=read_only, has_scopes=has_scopes)

    def reconfigure(self, rules: Sequence[Rule], *, read_only: bool, has_scopes: bool = False) -> None:
        """Apply other rules from now on; for the arguments see above.

        Whoever remembers what this policy has said must forget it.
        """
        self.restricts = bool(rules) or read_only or has_scopes
        self.read_only = read_only
        self.submits = any(rule.submits for rule in rules)
        self._rules = tuple(rules)
        self.forget()

    def forget(self) -> None:
        """Forget the verdicts; they are found again."""
        self._grants.clear()
        self._verdicts.clear()
        self._waiting.clear()

    def authorise(self, principal: Principal, stream: str, permission: Permission) -> None:
        """Return if the principal may do this to the stream.

        Raises:
            BusError: PERMISSION_DENIED, whether or not the stream exists.
        """
        if not self.may(principal, stream, permission):
            raise _refusal(principal, stream, permission, self.read_only)

    def may(self, principal: Principal, stream: str, permission: Permission) -> bool:
        """Return whether the principal may do this to the stream."""
        if not self.restricts:
            return True
        scopes = principal.permissions
        key = (principal.name, stream, scopes)
        granted = self._verdicts.get(key)
        if granted is None:
            limit = _ALL if scopes is None else scopes
            name = principal.name
            granted = frozenset(each for each in Permission if self.judge(name, stream, each, limit).granted)
            _remember(self._verdicts, key, granted)
        return permission in granted

    def quarantines(self, principal: Principal, stream: str) -> bool:
        """Return whether what the principal publishes to the stream waits until it is released.

        Its scopes have no say: fewer of them must not let anything past the quarantine.
        """
        if not self.submits:
            return False
        key = (principal.name, stream)
        waits = self._waiting.get(key)
        if waits is None:
            waits = self.judge(principal.name, stream, Permission.PUBLISH).waits
            _remember(self._waiting, key, waits)
        return waits

    def somewhere(self, principal: Principal) -> Permissions:
        """Return what the principal may do to any stream at all, which decides what is offered to it."""
        most = self._most(principal)
        if not self._rules:
            return most
        return most & _NONE.union(*(grant.permissions for grant in self._granted(principal.name)))

    def readable(self, principal: Principal) -> StreamFilter | None:
        """Return what lets pass the streams that the principal may read; None if it may read all."""
        return self._filter(principal, _READ_ONLY)

    def known(self, principal: Principal) -> StreamFilter | None:
        """Return what lets pass the streams that it may do at least one thing to; None for all."""
        return self._filter(principal, _ALL)

    def judge(
        self, principal: str, stream: str, permission: Permission, scopes: Permissions = _ALL
    ) -> Verdict:
        """Return whether a principal of this name may do this to the stream, and why; not remembered.

        Args:
            principal: Its name.
            stream: The stream, or a key beside it.
            permission: What it may do.
            scopes: Of the token that it shows.
        """
        if self.read_only and permission is not Permission.READ:
            return Verdict(False, Why.READ_ONLY)
        name, is_reply_stream = self._judged(stream)
        implied_by = _IMPLIED_ON_REPLIES.get(permission) if is_reply_stream else None
        if permission not in scopes and implied_by not in scopes:
            return Verdict(False, Why.SCOPES)
        if not self._rules:
            return Verdict(True, Why.NO_RULES)
        grants = self._granted(principal)
        if not grants:
            return Verdict(False, Why.NO_RULE_FOR_PRINCIPAL)
        rule = _granting(grants, name, permission) if permission in scopes else None
        if rule is not None:
            submits = rule.submits and permission is Permission.PUBLISH
            return Verdict(True, Why.SUBMIT if submits else Why.RULE, rule)
        if implied_by is not None and implied_by in scopes:
            rule = _granting(grants, name, implied_by)
            if rule is not None:
                return Verdict(True, Why.REPLIES, rule)
        return Verdict(False, Why.NO_RULE_FOR_STREAM)

    def _granted(self, principal: str) -> tuple[_Grant, ...]:
        grants = self._grants.get(principal)
        if grants is None:
            grants = tuple(
                _Grant(rule, frozenset(rule.permissions), tuple(map(matcher, rule.streams)))
                for rule in self._rules
                if any(matcher(pattern)(principal) for pattern in rule.principals)
            )
            if len(self._grants) >= _MAX_PRINCIPALS:
                del self._grants[next(iter(self._grants))]
            self._grants[principal] = grants
        return grants

    def _most(self, principal: Principal) -> Permissions:
        """Return what a principal may be granted at most, whatever the rules say."""
        most = _READ_ONLY if self.read_only else _ALL
        return most if principal.permissions is None else most & principal.permissions

    def _filter(self, principal: Principal, any_of: Permissions) -> StreamFilter | None:
        possible = any_of & self._most(principal)
        if not self._rules:
            return None if possible else StreamFilter(())
        patterns = {
            pattern
            for grant in self._granted(principal.name)
            if grant.permissions & possible
            for pattern in grant.rule.streams
        }
        return None if "*" in patterns else StreamFilter(patterns)


#: What grants a permission on the reply streams beside a stream besides the permission itself.
_IMPLIED_ON_REPLIES: Final = {Permission.READ: Permission.PUBLISH, Permission.PUBLISH: Permission.CONSUME}


def _granting(grants: Iterable[_Grant], stream: str, permission: Permission) -> Rule | None:
    submits = None
    for grant in grants:
        if permission in grant.permissions and any(matches(stream) for matches in grant.streams):
            if not (grant.rule.submits and permission is Permission.PUBLISH):
                return grant.rule
            submits = submits or grant.rule
    return submits


def _remember(verdicts: dict[KeyT, ValueT], key: KeyT, verdict: ValueT) -> None:
    if len(verdicts) >= _MAX_REMEMBERED:
        del verdicts[next(iter(verdicts))]
    verdicts[key] = verdict


_DOES: Final = {
    Permission.READ: "read",
    Permission.PUBLISH: "publish to",
    Permission.CONSUME: "take work from",
    Permission.MANAGE: "manage",
}


def _refusal(principal: Principal, stream: str, permission: Permission, read_only: bool) -> BusError:
    cause = (
        f"The policy of this daemon does not grant {permission} on it to {principal.name}, whether or not it "
        "exists."
    )
    next_step = (
        "Use a stream that you may use, or ask the operator: `redstreamd policy explain` says what decides."
    )
    if read_only and permission is not Permission.READ:
        cause = "This daemon is read-only."
    elif principal.permissions is not None and permission not in principal.permissions:
        cause = f"The token that this client shows does not have the scope {permission}."
        next_step = "Ask the operator for a token that has it."
    return BusError(
        Code.PERMISSION_DENIED,
        f"You may not {_DOES[permission]} {stream[:80]!r}.",
        cause=cause,
        next_step=next_step,
    )
