"""Requests that are cancelled at random moments, under load and over lost connections to Redis."""

from __future__ import annotations

import random

import pytest

from tests.faults.cancelling import cancel_at_random
from tests.support.counts import counts
from tests.support.daemon import running_daemon
from tests.support.servers import Server


@pytest.mark.parametrize("count", counts(1_200, ci=20_000, full=100_000))
@pytest.mark.limit(60, count=0.02)
async def test_no_answer_is_foreign_late_double_or_missing_when_many_requests_are_cancelled(
    redis: Server, rng: random.Random, count: int
) -> None:
    with running_daemon(redis) as daemon:
        outcome = await cancel_at_random(daemon.path, redis, rng, count)
    print(outcome)
    assert not outcome.violations, f"{len(outcome.violations)} violations: {outcome.violations[:20]}"
    # It is no test unless each of these happened, and often.
    assert outcome.kills >= count // 600
    assert outcome.seen["cancellations"] > count * 0.35
    assert outcome.seen["cancelled"] > count * 0.05
    assert outcome.seen["answered before they were cancelled"] > count * 0.01
    assert outcome.seen["acknowledged"] > count * 0.2
    assert outcome.seen["answered with an error"] > 0
