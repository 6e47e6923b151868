"""Finds quotas, or parts of quotas, and rates that never apply: nobody notices them until they are missed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from redstreamd.errors.remedies import setting
from redstreamd.policy.quotas import QUOTAS, Quantity, Quota
from redstreamd.policy.rate import Rate
from redstreamd.policy.rules import covers
from redstreamd.policy.unused_rules import may_be

#: Whom a token tells apart. One connection may carry the requests of many of them, so it counts for its
#: listener.
_BY_TOKEN = ("*/token:*", "*/oauth:*")


def without_effect(
    quotas: Sequence[Quota],
    rates: Sequence[Rate],
    *,
    principals: Collection[str],
    offered: Collection[str],
) -> Iterator[str]:
    """Yield a sentence for each part of a quota, and for each rate behind a quota, that never applies.

    Args:
        quotas: The quotas, in their order.
        rates: Those of all principals.
        principals: The names of principals that are known.
        offered: The names of the tools that are offered.
    """
    # What was given before, by the name of the quantity or tool: the patterns of principals, and by which.
    given: dict[str, list[tuple[str, int]]] = {}
    for number, quota in enumerate(quotas, 1):
        where = f"quota {number} ({str(quota)[:120]!r}) of {setting(QUOTAS)}"
        for pattern in quota.principals:
            if not any(may_be(pattern, name) for name in principals):
                yield (
                    f"{where}: no principal is known that {pattern!r} matches; known are "
                    f"{', '.join(sorted(principals))}, and sockets of other units (FileDescriptorName=)"
                )
            for other in quota.principals:
                if other is not pattern and covers(other, pattern):
                    yield f"{where}: {pattern!r} adds nothing to {other!r}"
        for rate in quota.rates:
            if rate.tool not in offered:
                yield f"{where}: {rate.tool} is not offered ({setting('tools.profile')})"
        if any(quantity is Quantity.CONNECTIONS for quantity, _ in quota.amounts):
            for pattern in quota.principals:
                if any(covers(wider, pattern) for wider in _BY_TOKEN):
                    yield (
                        f"{where}: connections never applies to {pattern!r}, because a connection over HTTP "
                        f"counts for its listener, {pattern.partition('/')[0]!r}"
                    )
        for name in (*(str(quantity) for quantity, _ in quota.amounts), *(each.tool for each in quota.rates)):
            before = given.setdefault(name, [])
            for pattern in quota.principals:
                if (first := _covering(pattern, before)) is not None:
                    yield f"{where}: {name} never applies to {pattern!r}, because quota {first} comes first"
            before += [(pattern, number) for pattern in quota.principals]
    for number, rate in enumerate(rates, 1):
        if (first := _covering(rate.principal, given.get(rate.tool, ()))) is not None:
            yield (
                f"rate {number} ({str(rate)[:120]!r}) of {setting('limits.rates')}: it never applies, "
                f"because quota {first} of {QUOTAS} comes first"
            )


def _covering(pattern: str, before: Sequence[tuple[str, int]]) -> int | None:
    """Return the number of the quota that concerns everybody whom a pattern matches; None if none does."""
    return next((number for wider, number in before if covers(wider, pattern)), None)
