"""How much principals may have: quotas as values, and those in force.

``PRINCIPAL ... have QUANTITY=NUMBER ... TOOL=RATE ...``, such as ``reports have waits=20 stream_read=5/s``.

Of several that give a principal the same quantity the first counts: unlike a rule, a quota takes away, so two
of them cannot be granted together, and an exception stands before what it is an exception of. Each principal
has the whole of what is given; principals that the same quota names share nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from redstreamd.policy.principals import Principal
from redstreamd.policy.rate import Rate
from redstreamd.policy.rules import matcher

QUOTAS: Final = "policy.quotas"


class Quantity(enum.StrEnum):
    """What a principal has some of."""

    # Enum's own is written in Python, and each call asks for one of them.
    __hash__ = str.__hash__

    CONNECTIONS = "connections"
    WAITS = "waits"
    SUBSCRIPTIONS = "subscriptions"
    RESULT_BYTES = "result_bytes"


NOTATION: Final = (
    "'PRINCIPAL ... have QUANTITY=NUMBER ... TOOL=NUMBER/UNIT ...', such as 'reports have waits=20 "
    f"stream_read=5/s burst 10'; the quantities are {', '.join(Quantity)}; in names * stands for any text"
)
#: As small as `tools.max_result_bytes` may be.
_LEAST_RESULT: Final = 1_024
_MOST: Final = 1_000_000_000
#: Principals that are remembered; the oldest is forgotten first.
_MAX_PRINCIPALS: Final = 1_024


class Quota(msgspec.Struct, frozen=True):
    """What each of some principals may have.

    Attributes:
        principals: Patterns of their names.
        amounts: How much of what; in the order in which it was written.
        rates: How often they may call tools, for any principal; in the order in which they were written.
    """

    principals: tuple[str, ...]
    amounts: tuple[tuple[Quantity, int], ...]
    rates: tuple[Rate, ...]

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        amounts = (f"{quantity}={number}" for quantity, number in self.amounts)
        return " ".join((*self.principals, "have", *amounts, *map(str, self.rates)))

    def concerns(self, principal: str) -> bool:
        """Return whether it is about the principal of this name."""
        return any(matcher(pattern)(principal) for pattern in self.principals)

    @classmethod
    def parse(cls, text: str) -> Quota:
        """Read a quota.

        Raises:
            ValueError: It is not valid; the message says what is, and which word is wrong.
        """
        words = text.split()
        have = words.index("have") if "have" in words else len(words)
        principals = words[:have]
        if not principals:
            raise _MalformedError("it names no principal")
        for number, word in enumerate(principals, 1):
            if re.fullmatch(r"[!-~]{1,255}", word) is None:
                raise _MalformedError(f"word {number} is no name of a principal")
        if have >= len(words) - 1:
            raise _MalformedError("it does not say what the principals have")
        amounts: dict[Quantity, int] = {}
        rates: dict[str, Rate] = {}
        for number, part in _parts(words, have + 1):
            name, _, given = part.partition("=")
            if name in amounts or name in rates:
                raise _MalformedError("it names something twice")
            if name in tuple(Quantity):
                amounts[Quantity(name)] = _amount(Quantity(name), given, number)
            else:
                rates[name] = _rate(part, number)
        return cls(tuple(principals), tuple(amounts.items()), tuple(rates.values()))


def _parts(words: Sequence[str], begin: int) -> Iterator[tuple[int, str]]:
    """Yield what follows the principals, with the number of its first word; a burst belongs to its rate."""
    at = begin
    while at < len(words):
        length = 3 if words[at + 1 : at + 2] == ["burst"] else 1
        yield at + 1, " ".join(words[at : at + length])
        at += length


def _amount(quantity: Quantity, text: str, number: int) -> int:
    least = _LEAST_RESULT if quantity is Quantity.RESULT_BYTES else 1
    if re.fullmatch(r"[0-9]{1,10}", text) is None or not least <= int(text) <= _MOST:
        raise _MalformedError(f"word {number}: {quantity} is an integer from {least} to {_MOST}")
    return int(text)


def _rate(text: str, number: int) -> Rate:
    try:
        rate = Rate.parse(text)
    except ValueError:
        raise _MalformedError(f"word {number} is neither a quantity nor the rate of a tool") from None
    if rate.principal != "*":
        raise _MalformedError(f"word {number} names a principal, who stands before 'have'")
    return rate


class _MalformedError(ValueError):
    """A quota is not valid. Its text is not repeated, because a secret may be in the wrong place."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{NOTATION}; {why}")


class Most(msgspec.Struct, frozen=True):
    """How much of something one principal may have.

    Attributes:
        number: How much; None for as much as all together.
        setting: The setting that says so, for errors.
        quota: The quota that says so; None if it is the same for all principals.
    """

    number: int | None
    setting: str
    quota: Quota | None = None


class Quotas:
    """The quotas in force, and what principals may have whom none concerns.

    A caller asks each time, and keeps no answer: `replace` changes them.

    Attributes:
        limited: What some principal may have less of than there is.
    """

    def __init__(self, quotas: Sequence[Quota] = (), others: Mapping[Quantity, Most] | None = None) -> None:
        """Apply quotas; see `replace`."""
        self._remembered: dict[str, dict[Quantity, Most]] = {}
        self.replace(quotas, others)

    def replace(self, quotas: Sequence[Quota], others: Mapping[Quantity, Most] | None = None) -> None:
        """Apply other quotas from now on. What principals have beyond them already is not taken from them.

        Args:
            quotas: Of several that give a principal the same quantity the first counts.
            others: What a principal may have that no quota concerns; what it leaves out is not limited.
        """
        self._quotas = tuple(quotas)
        self._others = {each: Most(None, QUOTAS) for each in Quantity} | dict(others or {})
        self._remembered.clear()
        given = {each for quota in quotas for each, _ in quota.amounts}
        self.limited = frozenset(
            given | {each for each, most in self._others.items() if most.number is not None}
        )

    def most(self, quantity: Quantity, principal: str) -> Most:
        """Return how much the principal of this name may have; costs two look-ups in a dict."""
        known = self._remembered.get(principal)
        if known is None:
            known = self._find(principal)
        return known[quantity]

    def result_bytes(self, principal: Principal) -> int:
        """Return how large a result for the principal may be, which is always limited.

        Raises:
            RuntimeError: `replace` was not told how large results are at most.
        """
        number = self.most(Quantity.RESULT_BYTES, principal.name).number
        if number is None:
            raise RuntimeError("the size of results is not limited")
        return number

    def _find(self, principal: str) -> dict[Quantity, Most]:
        found = dict(self._others)
        for quota in reversed(self._quotas):
            if quota.concerns(principal):
                found |= {each: Most(number, QUOTAS, quota) for each, number in quota.amounts}
        if len(self._remembered) >= _MAX_PRINCIPALS:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[principal] = found
        return found
