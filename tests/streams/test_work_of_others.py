"""Work and who it is given to: a key is its principal's own, and whoever waits for work is counted."""

from __future__ import annotations

import msgspec
import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.settings import LimitsSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work
from tests.support.buses import ON_REDIS, asleep

ANN, BOB = Principal("ann", "unix"), Principal("bob", "unix")
TAKE = Take("s", "g", "c", count=1, lease_seconds=60, max_deliveries=10, create_at="0")


@ON_REDIS
async def test_a_key_gives_what_it_took_to_the_principal_that_took_it_and_to_nobody_else(bus: Bus) -> None:
    take = msgspec.structs.replace(TAKE, idempotency_key="k")
    (first,) = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
    mine = await bus.work.take(take, ANN)
    other = await bus.work.take(take, BOB)
    again = await bus.work.take(take, ANN)
    assert (other.lease, other.taken.entries, other.taken.replayed) == (None, [], False)
    assert again.taken.replayed
    assert [entry.id for entry in again.taken.entries] == [first]
    settled = await bus.work.settle(bus.work.read_lease(str(mine.lease), ANN), Action.DONE)
    assert settled.ids(Outcome.DONE) == [first]


@ON_REDIS
@pytest.mark.settings(Settings(limits=LimitsSettings(max_waits=3)))
async def test_those_who_wait_for_a_turn_count_and_get_it_however_many_wait(bus: Bus) -> None:
    taken: list[Work] = []

    async def wait(bus: Bus) -> None:
        taken.append(await bus.work.take(TAKE, ANN, timeout_seconds=60))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait, bus)
        await asleep(bus)
        assert bus.hub.statistics().watches == 3
        with pytest.raises(BusError) as refused:
            await bus.work.take(TAKE, ANN, timeout_seconds=60)
        assert refused.value.code is Code.RATE_LIMITED
        # Whoever does not wait is served.
        assert (await bus.work.take(TAKE, ANN)).lease is None
        for number in range(3):
            await bus.publisher.add("s", [{"n": number}], Stamp())
    assert all(work.lease for work in taken)
    assert len(taken) == 3
    assert bus.hub.statistics().watches == 0
