"""The daemon is killed under load: nothing acknowledged is lost or there twice, and no work is done twice."""

from __future__ import annotations

import random

import pytest

from tests.faults.killing import LOAD, kill_under_load
from tests.support.counts import counts
from tests.support.history import Told
from tests.support.servers import Server


@pytest.mark.parametrize("kills", counts(2, ci=20, full=100))
@pytest.mark.limit(90, kills=30)
async def test_nothing_acknowledged_is_lost_or_done_twice_when_the_daemon_is_killed_under_load(
    redis: Server, rng: random.Random, kills: int
) -> None:
    outcome = await kill_under_load(redis, rng, kills)
    print(outcome)
    assert not outcome.violations, f"{len(outcome.violations)} violations: {outcome.violations[:20]}"
    history = outcome.history
    assert history.count(Told.ACKNOWLEDGED) >= kills * LOAD
    assert len(history.finished) >= kills * LOAD
    # They were killed in the middle of it: some clients were left without an answer.
    repeated = sum(line.attempts > 1 for line in history.lines.values())
    assert history.count(Told.UNKNOWN) + repeated > 0
