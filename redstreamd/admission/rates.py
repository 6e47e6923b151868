"""How often principals may call tools: a token bucket for each principal and tool that has a rate.

Owns the buckets. Each is one number, the time at which it is full again (the generic cell rate algorithm,
ITU-T I.371): a bucket that is full is no different from none, so full ones are forgotten, and what remains is
bounded by what was called of late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy import Principal
from redstreamd.policy.rules import matcher

#: Full buckets are looked for when there are so many, and then when there are twice as many as were left.
_FEW_BUCKETS: Final = 1_024
#: Of an interval: so much earlier may a call come.
_ROUNDING: Final = 0.001


class Rule(msgspec.Struct, frozen=True):
    """The rate of one tool.

    Attributes:
        tool: Its name.
        principal: The name of the principals that it concerns, in which ``*`` stands for any text.
        per_second: Calls a second; more than 0.
        burst: Calls that may come at once; None for those of one second, and at least one.
        text: The rate as it was written, for errors.
        setting: The setting that says so, for errors.
    """

    tool: str
    principal: str
    per_second: float
    burst: int | None
    text: str
    setting: str = "limits.rates"


class _Bucket(msgspec.Struct, eq=False):
    """One principal's calls of one tool.

    Attributes:
        rule: Its rate.
        interval: Seconds between two calls.
        ahead: How many seconds `full_at` may be ahead of a call that is let through.
        full_at: When the bucket is full again.
    """

    rule: Rule
    interval: float
    ahead: float
    full_at: float = -math.inf


class Rates:
    """Refuses calls that come faster than a rate allows."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Apply rules; see `replace`."""
        # None: no rule concerns this principal.
        self._buckets: dict[tuple[str, str], _Bucket | None] = {}
        self._look_at = _FEW_BUCKETS
        self.replace(rules)

    def replace(self, rules: Sequence[Rule]) -> None:
        """Apply other rules from now on; of several that concern a tool and a principal the first counts.

        Where the rule stays the same, so does the bucket: to replace the rules gives nobody more calls.
        """
        self._rules: dict[str, list[Rule]] = {}
        for rule in rules:
            self._rules.setdefault(rule.tool, []).append(rule)
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if bucket is not None and self._rule_of(*key) == bucket.rule
        }

    @property
    def limit_anything(self) -> bool:
        """Whether there is any rule; without one `check` need not be called."""
        return bool(self._rules)

    def __len__(self) -> int:
        """Return how many buckets there are."""
        return len(self._buckets)

    def check(self, tool: str, principal: Principal, now: float) -> None:
        """Count a call, or refuse it; then it does not count.

        Args:
            tool: The tool that is called.
            principal: On whose behalf.
            now: Seconds of any clock that never goes back.

        Raises:
            BusError: RATE_LIMITED, with the seconds after which one call more would not be refused.
        """
        if tool not in self._rules:
            return
        key = (tool, principal.name)
        try:
            bucket = self._buckets[key]
        except KeyError:
            bucket = self._add(key, now)
        if bucket is None:
            return
        full_at = bucket.full_at
        if full_at <= now:
            bucket.full_at = now + bucket.interval
        elif full_at - now <= bucket.ahead:
            bucket.full_at = full_at + bucket.interval
        else:
            raise _refusal(bucket, principal, full_at - now - bucket.ahead)

    def _add(self, key: tuple[str, str], now: float) -> _Bucket | None:
        if len(self._buckets) >= self._look_at:
            self._buckets = {
                each: bucket
                for each, bucket in self._buckets.items()
                if bucket is not None and bucket.full_at > now
            }
            self._look_at = max(_FEW_BUCKETS, 2 * len(self._buckets))
        tool, name = key
        rule = self._rule_of(tool, name)
        bucket = None
        if rule is not None:
            burst = rule.burst or max(1.0, rule.per_second)
            interval = 1 / rule.per_second
            # Sums of intervals are rounded, the more the longer the host is up.
            bucket = _Bucket(rule, interval, (burst - 1 + _ROUNDING) * interval)
        self._buckets[key] = bucket
        return bucket

    def _rule_of(self, tool: str, principal: str) -> Rule | None:
        rules = self._rules.get(tool, ())
        return next((each for each in rules if matcher(each.principal)(principal)), None)


def _refusal(bucket: _Bucket, principal: Principal, seconds: float) -> BusError:
    # To the next millisecond, after which the bucket surely lets a call through.
    seconds = math.ceil(seconds * 1000) / 1000
    rule = bucket.rule
    return BusError(
        Code.RATE_LIMITED,
        f"{rule.tool} is called too often.",
        cause=f"The clients of {principal.name} together may call it at a rate of {rule.text} "
        f"({setting(rule.setting)}).",
        next_step=f"Call again in {seconds:g} seconds; nothing has been done.",
        retry_after_seconds=seconds,
    )
