"""The servers of a topology, and one report of what was found on each of them.

A check has one result, however many servers it was made on: servers are named where results differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from redstreamd.doctor.report import CheckResult, Severity
from redstreamd.redisio.target import Target

_WORST: Final = list(Severity)


@attrs.frozen
class Member:
    """A server that holds streams, or a copy of them.

    Attributes:
        target: Where it is, and the login.
        is_replica: Whether it holds a copy.
        tag: A hash tag whose slot it serves; empty if it serves every key.
    """

    target: Target
    is_replica: bool = False
    tag: str = ""


@attrs.frozen
class Found:
    """What is known of a topology.

    Attributes:
        results: The checks of the topology itself.
        members: Its servers, primaries first; none if they are not known.
    """

    results: list[CheckResult]
    members: tuple[Member, ...]


def merged(results: Sequence[Sequence[tuple[Member, CheckResult]]]) -> Iterator[CheckResult]:
    """Yield one result of each check, in the order of the first server.

    Args:
        results: Those of each server, with the server.
    """
    names = dict.fromkeys(result.check for each in results for _, result in each)
    for name in names:
        yield _merged([pair for each in results for pair in each if pair[1].check == name])


def _merged(pairs: Sequence[tuple[Member, CheckResult]]) -> CheckResult:
    """Return the result of one check on several servers; what is wrong with a replica is a warning."""
    pairs = [(member, _lowered(result) if member.is_replica else result) for member, result in pairs]
    _, worst = max(pairs, key=lambda pair: _WORST.index(pair[1].severity))
    if len(pairs) == 1:
        return worst
    seen: dict[str, list[str]] = {}
    for member, result in pairs:
        if result.severity is not Severity.SKIPPED or worst.severity is Severity.SKIPPED:
            seen.setdefault(result.seen, []).append(member.target.label)
    alike = len(seen) == 1 and len(pairs) == len(next(iter(seen.values())))
    todos = dict.fromkeys(result.todo for _, result in pairs if result.severity is worst.severity)
    return CheckResult(
        worst.check,
        worst.severity,
        f"{worst.tried}, and the same on {len(pairs) - 1} other servers",
        next(iter(seen)) if alike else "; ".join(f"{', '.join(who)}: {text}" for text, who in seen.items()),
        " ".join(filter(None, todos)),
    )


def _lowered(result: CheckResult) -> CheckResult:
    """Return an error as a warning: clients notice it after a failover."""
    return attrs.evolve(result, severity=Severity.WARNING) if result.severity is Severity.ERROR else result
