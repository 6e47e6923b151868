"""Takes that follow each other look at what they have to, and miss nothing by it."""

from __future__ import annotations

import msgspec
import pytest
import trio

from redstreamd.policy import Principal
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.leases import Action
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work
from tests.support.buses import ON_REDIS
from tests.support.servers import Server

ME = Principal("me", "unix")
TAKE = Take("s", "g", "c", count=2, lease_seconds=60, max_deliveries=None, create_at="0")


def _add(server: Server, count: int) -> list[str]:
    return [
        server.command("XADD", "s", "*", "text", "x", "_rs.v", "1", "_rs.sender", "me").decode()
        for _ in range(count)
    ]


def _looks(server: Server) -> int:
    """Return how often a script asked for the groups of a stream."""
    stats = server.command("INFO", "commandstats").decode()
    lines = [line for line in stats.splitlines() if line.startswith("cmdstat_xinfo|groups:")]
    return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines)


def _ids(work: Work) -> list[str]:
    return [entry.id for entry in work.taken.entries]


@ON_REDIS
async def test_what_is_due_comes_before_what_is_new_however_fast_takes_follow_each_other(
    bus: Bus, server: Server
) -> None:
    added = _add(server, 60)
    before, takes = _looks(server), 0
    first = await bus.work.take(TAKE, ME)
    held = [first]
    while len(held) < 20:
        held.append(await bus.work.take(TAKE, ME))
        takes += 1
    assert [each for work in held for each in _ids(work)] == added[:40]
    assert all(work.taken.attempts == [1, 1] and work.lease for work in held)
    # However slow this machine is, not every take is a second after the one before.
    assert _looks(server) < before + takes
    for work in held[:2]:
        lease = bus.work.read_lease(str(work.lease), ME)
        await bus.work.settle(lease, Action.RETRY, delay_seconds=0)
    again = await bus.work.take(TAKE, ME)
    both = await bus.work.take(msgspec.structs.replace(TAKE, count=4), ME)
    assert [*_ids(again), *_ids(both)] == [*added[:4], *added[40:42]]
    assert [*again.taken.attempts, *both.taken.attempts] == [2, 2, 2, 2, 1, 1]
    # A limit of its own is in its lease.
    own = await bus.work.take(msgspec.structs.replace(TAKE, max_deliveries=99), ME)
    assert (own.taken.own_limit, own.taken.group_limit) == (99, LeasesSettings().max_deliveries)


@ON_REDIS
@pytest.mark.settings(Settings(leases=LeasesSettings(foreign_idle_seconds=1)))
async def test_new_entries_do_not_hide_what_another_program_left(bus: Bus, server: Server) -> None:
    added = _add(server, 10)
    await bus.work.take(TAKE, ME)
    server.command("XREADGROUP", "GROUP", "g", "other", "COUNT", "1", "STREAMS", "s", ">")
    found: list[str] = []
    with trio.fail_after(60):
        while added[2] not in found:
            added += _add(server, 2)
            found += _ids(await bus.work.take(TAKE, ME))
            await trio.sleep(0.02)
    assert sorted(found) == sorted(set(found))


@ON_REDIS
@pytest.mark.settings(Settings(leases=LeasesSettings(foreign_idle_seconds=1)))
async def test_of_takes_that_come_together_few_look_for_everything(bus: Bus, server: Server) -> None:
    added = _add(server, 44)
    # The first makes the group.
    for _ in range(2):
        await bus.work.take(TAKE, ME)
    # Then one has to look again.
    await trio.sleep(0.15)
    before, works = _looks(server), list[Work]()

    async def take() -> None:
        works.append(await bus.work.take(TAKE, ME))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(take)
    assert sorted(each for work in works for each in _ids(work)) == sorted(added[4:])
    assert 1 <= _looks(server) - before < len(works)
