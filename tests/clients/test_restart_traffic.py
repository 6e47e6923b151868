"""A daemon is restarted, killed or stopped in the middle of calls through the bridge: no session ends."""

from __future__ import annotations

import itertools
import random
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.clients.bridged_client import bridge_words
from tests.clients.restart_traffic import (
    IN_FLIGHT,
    Party,
    all_call,
    by_lines,
    by_sdk,
    by_typescript,
    pause_after,
)
from tests.clients.restarted_host import Fault, Host
from tests.support.history import entries_of
from tests.support.servers import Server

#: Calls of each client before a fault, and as many after it; fewer where there are many faults.
HALF, FEW = 50, 20


def in_turn(times: int) -> list[Fault]:
    """Return so many faults, of each kind in turn."""
    return list(itertools.islice(itertools.cycle(Fault), times))


@pytest.mark.parametrize(
    "faults",
    [
        *(pytest.param([fault], id=fault.value) for fault in Fault),
        pytest.param(in_turn(25), id="25", marks=pytest.mark.soak_ci),
        pytest.param(in_turn(300), id="300", marks=pytest.mark.soak),
    ],
)
@pytest.mark.limit(3_000)
async def test_no_session_ends_and_every_call_is_answered_once(
    redis: Server, host: Host, typescript_sdk: Path, faults: list[Fault]
) -> None:
    """In the middle of a hundred calls of each of five clients, or under their traffic."""
    half = HALF if len(faults) == 1 else FEW
    parties: list[Party] = []
    stopping = False

    def party(name: str) -> Party:
        parties.append(Party(name))
        return parties[-1]

    def wanted() -> bool:
        return not stopping

    words = bridge_words(host.path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_typescript, party("typescript"), words, typescript_sdk, wanted)
        nursery.start_soon(by_lines, party("lines-handshake"), words, "handshake", wanted)
        nursery.start_soon(by_lines, party("lines-modern"), words, "modern", wanted)
        nursery.start_soon(by_sdk, party("sdk-handshake"), words, "handshake", wanted)
        nursery.start_soon(by_sdk, party("sdk-modern"), words, "modern", wanted)
        for fault in faults:
            await all_call(parties, half)
            await trio.sleep(random.uniform(0, 0.02))
            away = partial(pause_after, parties, half)
            await trio.to_thread.run_sync(partial(host.suffer, fault, away))
        await all_call(parties, half)
        stopping = True
    problems: list[str] = []
    for each in parties:
        print(each)
        # Nothing is unknown where the daemon goes on, else no more than what was in flight.
        most = sum(fault is not Fault.STOP for fault in faults) * IN_FLIGHT
        problems += each.problems(entries_of(redis, each.stream), most_unknown=most)
    assert not problems, f"{len(problems)} problems: {problems[:20]}"
