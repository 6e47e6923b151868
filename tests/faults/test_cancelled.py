"""Requests that are cancelled at random moments, under load and over lost connections to Redis."""

from __future__ import annotations

import json
import random

import pytest
import trio.testing

from tests.faults.cancelling import Outcome, Player, Request, cancel_at_random
from tests.support.counts import counts
from tests.support.daemon import running_daemon
from tests.support.history import History
from tests.support.mcp_client import RawClient
from tests.support.servers import Server


@pytest.mark.parametrize("count", counts(1_200, ci=20_000, full=100_000))
@pytest.mark.limit(120, count=0.05)
async def test_no_answer_is_foreign_late_double_or_missing_when_many_requests_are_cancelled(
    redis: Server, rng: random.Random, count: int
) -> None:
    with running_daemon(redis) as daemon:
        outcome = await cancel_at_random(daemon.path, redis, rng, count)
    print(outcome)
    assert not outcome.violations, f"{len(outcome.violations)} violations: {outcome.violations[:20]}"
    # It is no test unless each of these happened, and often. The players went on until it had.
    assert outcome.is_enough(count)
    assert outcome.seen["cancellations"] > count * 0.35
    assert outcome.seen["cancelled"] > count * 0.05
    assert outcome.seen["answered before they were cancelled"] > count * 0.01
    assert outcome.seen["acknowledged"] > count * 0.2


@pytest.mark.parametrize(
    ("answered", "words"),
    [
        ([1, 2, 3, 3], "request 3 was answered 2 times"),
        ([1, 2], "request 3 was not answered"),
        ([1, 3, 2], "request 2 was answered after its cancellation had been handled"),
        ([1, 2, 3, 4], "an answer to nothing"),
        ([0, 1, 2, 3], "request 0 was answered with the entry of another"),
    ],
)
async def test_each_kind_of_violation_is_found(answered: list[int], words: str) -> None:
    """Request 2 is cancelled between 1 and 3."""
    ours, theirs = trio.testing.memory_stream_pair()
    outcome = Outcome()
    player = Player(RawClient(ours), 1, History(), outcome)
    player.requests.update(
        {
            0: Request(0, lambda content: "the entry of another", sent=1),
            1: Request(1, lambda content: None, sent=2),
            2: Request(2, lambda content: None, sent=3, cancelled=4),
            3: Request(3, lambda content: None, sent=5),
        }
    )
    if 0 not in answered:
        del player.requests[0]
    for request_id in answered:
        message = {"jsonrpc": "2.0", "id": request_id, "result": {"structuredContent": {}}}
        await theirs.send_all(json.dumps(message).encode() + b"\n")
    await theirs.send_eof()
    await player.listen()
    found = [each for each in outcome.violations if "the connection ended" not in each]
    assert len(found) == 1
    assert words in found[0]
