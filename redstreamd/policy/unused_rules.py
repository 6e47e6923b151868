"""Finds rules, or parts of rules, that never decide anything: mistakes that a refusal would show too late."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import product

from redstreamd.errors.remedies import setting
from redstreamd.policy.principals import Permission
from redstreamd.policy.rules import Rule, covers, matcher

_Part = tuple[str, Permission, str, bool]


def unused(
    rules: Sequence[Rule],
    *,
    read_only: bool,
    principals: Collection[str],
    usable: Collection[Permission],
    matches_no_stream: Callable[[str], str | None],
) -> Iterator[str]:
    """Yield a sentence for each rule or part of a rule that has no effect.

    Args:
        rules: The rules.
        read_only: Whether the policy is read-only.
        principals: The names of principals that are known.
        usable: The permissions that any offered tool needs.
        matches_no_stream: Says why a pattern can match no stream; None if it can.
    """
    left = list(enumerate(rules, 1))
    for number, rule in list(left):
        where = f"rule {number} ({str(rule)[:120]!r}) of {setting('policy.rules')}"
        for pattern in rule.principals:
            if not any(may_be(pattern, name) for name in principals):
                yield (
                    f"{where}: no principal is known that {pattern!r} matches; known are "
                    f"{', '.join(sorted(principals))}, and sockets of other units (FileDescriptorName=)"
                )
        for pattern in rule.streams:
            if (why := matches_no_stream(pattern)) is not None:
                yield f"{where}: {pattern!r} matches no stream: {why}"
            for other in rule.streams:
                if other is not pattern and covers(other, pattern):
                    yield f"{where}: {pattern!r} adds nothing to {other!r}"
        for permission in rule.permissions:
            if read_only and permission is not Permission.READ:
                yield f"{where}: {permission} is never granted, because the policy is read-only"
            elif permission not in usable:
                yield f"{where}: {permission} is granted, and no offered tool needs it"
        if rule.submits and not read_only:
            yield from (f"{where}: {why}" for why in _not_released(rule, rules, usable))
        others = [each for each in left if each[0] != number]
        covering = [_covering(part, others) for part in _parts(rule)]
        if all(covering):
            # Of two that are equal, the other one has an effect then.
            left.remove((number, rule))
            numbers = ", ".join(str(each) for each in sorted({each for each in covering if each}))
            yield f"{where}: it never applies, because rule {numbers} grants the same or more"


def _parts(rule: Rule) -> Iterator[_Part]:
    return product(rule.principals, rule.permissions, rule.streams, (rule.submits,))


def _not_released(rule: Rule, rules: Sequence[Rule], usable: Collection[Permission]) -> Iterator[str]:
    """Yield why what is submitted may wait for ever, or be released by whoever submitted it."""
    if Permission.MANAGE not in usable:
        yield "what is submitted waits for a release, and no offered tool releases anything"
        return
    managing = [each for each in rules if Permission.MANAGE in each.permissions]
    for pattern in rule.streams:
        releasing = [each for each in managing if any(_meet(pattern, other) for other in each.streams)]
        if not releasing:
            yield f"no rule grants manage on {pattern!r}, so what is submitted there is never released"
        for principal in rule.principals:
            if any(covers(other, principal) for each in releasing for other in each.principals):
                yield f"{principal!r} may manage {pattern!r}, too, and so release what it submits itself"


def _meet(one: str, other: str) -> bool:
    """Return whether one of two patterns matches all that the other one does."""
    return covers(one, other) or covers(other, one)


def _covering(part: _Part, rules: Sequence[tuple[int, Rule]]) -> int | None:
    """Return the number of a rule that grants all that a part of another rule grants; None if none does."""
    principal, permission, stream, submits = part
    for number, rule in rules:
        if (
            permission in rule.permissions
            and (permission is not Permission.PUBLISH or submits or not rule.submits)
            and any(covers(wider, principal) for wider in rule.principals)
            and any(covers(wider, stream) for wider in rule.streams)
        ):
            return number
    return None


def may_be(pattern: str, name: str) -> bool:
    """Return whether a pattern matches a principal, or one of the users who come through it."""
    return matcher(pattern)(name) or matcher(pattern.partition("/")[0])(name)
