"""The daemon is killed under load: nothing acknowledged is lost or there twice, and no work is done twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.encryption.opened import opened_entries, sealed_with
from tests.encryption.rings import KeyDirectory
from tests.faults.killing import LOAD, Outcome, kill_under_load
from tests.support.counts import counts
from tests.support.history import Told
from tests.support.servers import Server


@pytest.mark.parametrize("kills", counts(2, ci=20, full=100))
@pytest.mark.limit(90, kills=30)
async def test_nothing_acknowledged_is_lost_or_done_twice_when_the_daemon_is_killed_under_load(
    redis: Server, rng: random.Random, kills: int
) -> None:
    check(await kill_under_load(redis, rng, kills), kills)


@pytest.mark.parametrize("kills", counts(1, ci=5, full=100))
@pytest.mark.limit(90, kills=30)
async def test_it_is_the_same_where_entries_are_encrypted(
    redis: Server, rng: random.Random, tmp_path: Path, kills: int
) -> None:
    keys = KeyDirectory(tmp_path / "keys", "k1")

    def entries_in(server: Server, stream: str) -> list[tuple[str, dict[str, Any]]]:
        assert {sealed_with(flat) for _, flat in server.command("XRANGE", stream, "-", "+")} == {"k1"}
        return opened_entries(server, stream, keys)

    encrypted = {
        "REDSTREAMD_ENCRYPTION_KEYS": str(keys.path),
        "REDSTREAMD_ENCRYPTION_WRITING_KEY": "k1",
        "REDSTREAMD_ENCRYPTION_STREAMS": "* are encrypted with names",
    }
    check(await kill_under_load(redis, rng, kills, entries_in=entries_in, **encrypted), kills)


def check(outcome: Outcome, kills: int) -> None:
    print(outcome)
    assert not outcome.violations, f"{len(outcome.violations)} violations: {outcome.violations[:20]}"
    history = outcome.history
    assert history.count(Told.ACKNOWLEDGED) >= kills * LOAD
    assert len(history.finished) >= kills * LOAD
    # They were killed in the middle of it: some clients were left without an answer.
    repeated = sum(line.attempts > 1 for line in history.lines.values())
    assert history.count(Told.UNKNOWN) + repeated > 0
