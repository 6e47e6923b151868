"""A daemon is restarted, killed or stopped in the middle of calls through the bridge: no session ends."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.clients.restart_traffic import IN_FLIGHT, Party, by_lines, by_sdk, by_typescript
from tests.clients.restarted_host import FAULTS, Fault, Host
from tests.support.counts import counts
from tests.support.history import Told, entries_of
from tests.support.servers import Server
from tests.support.waiting import until

#: Calls of each client before a fault, and as many after it.
HALF = 50


@FAULTS
@pytest.mark.parametrize("times", counts(1, ci=25, full=100))
@pytest.mark.limit(90, times=20)
async def test_no_session_ends_and_every_call_is_answered_once(
    redis: Server, host: Host, typescript_sdk: Path, fault: Fault, times: int
) -> None:
    """In the middle of a hundred calls of each of five clients."""
    parties: list[Party] = []
    stopping = False
    suffered = 0

    def party(name: str) -> Party:
        parties.append(Party(name))
        return parties[-1]

    def wanted() -> bool:
        return not stopping

    async def all_call() -> None:
        enough = [each.calls + HALF for each in parties]
        await until(
            lambda: all(each.calls >= calls for each, calls in zip(parties, enough, strict=True)), every=0.01
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_typescript, party("typescript"), host.path, typescript_sdk, wanted)
        nursery.start_soon(by_lines, party("lines-handshake"), host.path, "handshake", wanted)
        nursery.start_soon(by_lines, party("lines-modern"), host.path, "modern", wanted)
        nursery.start_soon(by_sdk, party("sdk-handshake"), host.path, "handshake", wanted)
        nursery.start_soon(by_sdk, party("sdk-modern"), host.path, "modern", wanted)
        while suffered < times:
            await all_call()
            await trio.sleep(random.uniform(0, 0.02))
            await trio.to_thread.run_sync(partial(host.suffer, fault))
            suffered += 1
        await all_call()
        stopping = True
    problems: list[str] = []
    for each in parties:
        print(each)
        problems += each.problems(entries_of(redis, each.stream))
        # No more than what was in flight is unknown; nothing is where the daemon answered everything itself.
        unknown = each.history.count(Told.UNKNOWN)
        if unknown > (0 if fault is Fault.STOP else times * IN_FLIGHT):
            problems.append(f"{each.name}: {unknown} unknown")
    assert not problems, f"{len(problems)} problems: {problems[:20]}"
