"""Work between many takers and two daemons: disjoint, fair, woken in time, and never half taken."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from redstreamd.policy import Principal
from redstreamd.redisio.target import Target
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_decoding import decode
from redstreamd.streams.entry_encoding import Stamp
from redstreamd.streams.leases import Action, Outcome
from redstreamd.streams.names import Kind, companion_key
from redstreamd.streams.take_values import Take
from redstreamd.streams.work import Work, group_position
from tests.faults.calling import bus_at
from tests.support.buses import asleep, running_bus
from tests.support.calls import ME
from tests.support.server_clock import milliseconds
from tests.support.servers import Server
from tests.support.waiting import until


def take(consumer: str = "c", *, count: int = 1, lease_seconds: float = 60.0, create: bool = True) -> Take:
    return Take("s", "g", consumer, count, lease_seconds, 10, "0" if create else None)


async def settle(bus: Bus, work: Work, action: Action = Action.DONE, **how: object) -> dict[str, Outcome]:
    assert work.lease is not None
    lease = bus.work.read_lease(str(work.lease), ME)
    return (await bus.work.settle(lease, action, **how)).outcomes  # type: ignore[arg-type]


def ids(work: Work) -> list[str]:
    return [entry.id for entry in work.taken.entries]


def _attempts(work: Work) -> list[tuple[str, int]]:
    return list(zip(ids(work), work.taken.attempts, strict=True))


#: Waiting takes are woken or know when to try: they do not try again by themselves.
WOKEN = pytest.mark.bounds(Bounds(work_recheck_seconds=1_000.0))


@pytest.mark.limit(60)
async def test_parallel_takes_of_two_daemons_are_disjoint_and_complete(server: Server) -> None:
    entries, takers = 1_000, 20
    taken: list[list[str]] = [[] for _ in range(takers)]
    async with running_bus(server) as one, running_bus(server) as two:
        added: list[str] = []

        async def work(number: int, bus: Bus) -> None:
            # Not until nothing comes: whoever adds may be held up for longer than one waits.
            while sum(len(mine) for mine in taken) < entries:
                got = await bus.work.take(take(f"c{number}", count=1 + number % 4), ME, timeout_seconds=1)
                taken[number] += ids(got)
                if got.taken.entries:
                    assert set((await settle(bus, got)).values()) == {Outcome.DONE}

        async with trio.open_nursery() as nursery:
            for number in range(takers):
                nursery.start_soon(work, number, (one, two)[number % 2])
            for n in range(0, entries, 10):
                batch = [{"n": n + k} for k in range(10)]
                added += (await one.publisher.add("s", batch, Stamp())).ids
        assert server.command("XPENDING", "s", "g")[0] == 0
    everything = [entry_id for mine in taken for entry_id in mine]
    assert len(everything) == len(set(everything)) == entries
    assert set(everything) == set(added)
    # The interleaving happened: many had a share of it.
    assert sum(bool(mine) for mine in taken) >= takers // 2


async def test_those_who_wait_are_served_in_the_order_they_came(bus: Bus) -> None:
    served: list[int] = []
    async with trio.open_nursery() as nursery:

        async def wait(number: int) -> None:
            await bus.work.take(take(f"c{number}"), ME, timeout_seconds=600)
            served.append(number)

        for number in range(10):
            nursery.start_soon(wait, number)
            # It takes once before it waits, and the server may be slow.
            await until(lambda number=number: bus.hub.statistics().watches > number)
        for expected in range(10):
            await bus.publisher.add("s", [{"n": expected}], Stamp())
            await until(lambda expected=expected: len(served) > expected)
    assert served == list(range(10))


async def test_one_batch_serves_many_who_wait(bus: Bus) -> None:
    """Whoever got a full count passes the turn on: nobody sleeps beside entries."""
    async with trio.open_nursery() as nursery:
        got: list[str] = []

        async def wait(number: int) -> None:
            got.extend(ids(await bus.work.take(take(f"c{number}"), ME, timeout_seconds=20)))

        for number in range(20):
            nursery.start_soon(wait, number)
        await asleep(bus)
        added = (await bus.publisher.add("s", [{"n": n} for n in range(20)], Stamp())).ids
        await until(lambda: len(got) >= 20)
        assert sorted(got) == sorted(added)


async def test_a_cancelled_turn_goes_to_the_next(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        got: list[str] = []
        first = trio.CancelScope()

        async def give_up() -> None:
            with first:
                await bus.work.take(take("impatient"), ME, timeout_seconds=20)

        async def wait() -> None:
            got.extend(ids(await bus.work.take(take("patient"), ME, timeout_seconds=20)))

        nursery.start_soon(give_up)
        # A take that is on its way to the server when it is cancelled may get what is added next.
        await asleep(bus)
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
        await until(lambda: got)
        assert got == added
        assert bus.work.queues == 0


@WOKEN
async def test_a_lease_that_runs_out_wakes_the_one_who_waits(bus: Bus, server: Server) -> None:
    async with running_bus(server) as other:
        added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
        crashed = await bus.work.take(take("crashed", lease_seconds=0.3), ME)
        second = await other.work.take(take("next"), ME, timeout_seconds=1_000)
        assert ids(second) == added
        assert second.taken.attempts == [2]
        assert second.taken.now >= crashed.taken.expires
        assert await settle(bus, crashed) == {added[0]: Outcome.LOST}
        assert await settle(other, second) == {added[0]: Outcome.DONE}
        assert await settle(other, second) == {added[0]: Outcome.ALREADY}


@WOKEN
async def test_a_release_wakes_the_one_who_waits_at_once(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        await bus.publisher.add("s", [{"n": 1}], Stamp())
        held = await bus.work.take(take("holder"), ME)
        got: list[Work] = []

        async def wait() -> None:
            got.append(await bus.work.take(take("next"), ME, timeout_seconds=1_000))

        nursery.start_soon(wait)
        await asleep(bus)
        # Without being told it would sleep until the lease ends, in a minute.
        await settle(bus, held, Action.RETRY)
        await until(lambda: got)
        assert ids(got[0]) == ids(held)


@WOKEN
async def test_a_put_off_retry_comes_back_when_it_is_due(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    held = await bus.work.take(take(), ME)
    await settle(bus, held, Action.RETRY, delay_seconds=1_000)
    assert not ids(await bus.work.take(take(), ME))
    # It is not this consumer's any more, although it is pending under its name.
    resumed = await bus.work.take(Take("s", "g", "c", 10, 60, 10, None, resume=True), ME)
    assert not ids(resumed)
    # As if most of that time had passed.
    due = milliseconds(server) + 400.5
    server.command("ZADD", companion_key("s", Kind.DUE, "g"), "XX", repr(due), f"{ids(held)[0]}/1")
    again = await bus.work.take(take(), ME, timeout_seconds=1_000)
    assert ids(again) == ids(held)
    assert again.taken.now >= due


async def test_resuming_gives_a_new_lease_and_voids_the_older_ones(bus: Bus) -> None:
    await bus.publisher.add("s", [{"n": n} for n in range(3)], Stamp())
    first = await bus.work.take(take(count=2), ME)
    resumed = await bus.work.take(Take("s", "g", "c", 10, 60, 10, None, resume=True), ME)
    assert ids(resumed) == ids(first)
    assert set((await settle(bus, first)).values()) == {Outcome.LOST}
    assert set((await settle(bus, resumed)).values()) == {Outcome.DONE}


async def test_another_program_can_take_part(bus: Bus, server: Server) -> None:
    """Entries that redis-cli left pending come back when they are idle; it can acknowledge ours."""
    added = (await bus.publisher.add("s", [{"n": n} for n in range(3)], Stamp())).ids
    assert (await bus.work.create_group("s", "g", "0")).created
    server.command("XREADGROUP", "GROUP", "g", "cli", "COUNT", 1, "STREAMS", "s", ">")
    ours = await bus.work.take(take(count=10), ME)
    assert ids(ours) == added[1:]
    assert server.command("XACK", "s", "g", added[1]) == 1
    assert await settle(bus, ours) == {added[1]: Outcome.ALREADY, added[2]: Outcome.DONE}
    assert not ids(await bus.work.take(take(), ME))
    server.command("XCLAIM", "s", "g", "cli", 0, added[0], "IDLE", 10**7, "JUSTID")
    assert ids(await bus.work.take(take(), ME)) == [added[0]]


async def test_what_another_program_claimed_is_left_to_it(bus: Bus, server: Server) -> None:
    """Our lease was on an earlier attempt; that it ran out means nothing for whoever claimed the entry."""
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    held = await bus.work.take(take(), ME)
    server.command("XCLAIM", "s", "g", "cli", 0, ids(held)[0])
    member = server.command("ZRANGE", companion_key("s", Kind.DUE, "g"), 0, -1)[0]
    server.command("ZADD", companion_key("s", Kind.DUE, "g"), 1, member)
    assert not ids(await bus.work.take(take(), ME))
    assert await settle(bus, held) == {ids(held)[0]: Outcome.LOST}


async def test_an_entry_is_taken_once_also_after_the_group_was_set_back(bus: Bus, server: Server) -> None:
    added = (await bus.publisher.add("s", [{"n": n} for n in range(2)], Stamp())).ids
    held = await bus.work.take(take(), ME)
    await settle(bus, held, Action.RETRY)
    server.command("XGROUP", "SETID", "s", "g", "0")
    again = await bus.work.take(take(count=10), ME, timeout_seconds=1)
    assert _attempts(again) == [(i, 1) for i in added]
    assert server.command("ZCARD", companion_key("s", Kind.DUE, "g")) == 2
    assert set((await settle(bus, again)).values()) == {Outcome.DONE}


async def test_a_long_lease_is_not_mistaken_for_an_entry_left_behind(bus: Bus, server: Server) -> None:
    added = (await bus.publisher.add("s", [{"n": n} for n in range(2)], Stamp())).ids
    held = await bus.work.take(take(lease_seconds=3_600), ME)
    # Another program holds one, too, so the search for such entries is not skipped.
    server.command("XREADGROUP", "GROUP", "g", "cli", "COUNT", 1, "STREAMS", "s", ">")
    for entry_id, consumer in zip(added, ("c", "cli"), strict=True):
        server.command("XCLAIM", "s", "g", consumer, 0, entry_id, "IDLE", 10**6, "JUSTID")
    assert ids(await bus.work.take(take("other", count=10), ME)) == added[1:]
    assert await settle(bus, held) == {added[0]: Outcome.DONE}


async def test_a_dead_letter_keeps_the_entry_and_says_why(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"n": 1, "text": "häßlich"}], Stamp(sender="me"))
    held = await bus.work.take(take(), ME)
    await settle(bus, held, Action.DEAD_LETTER, reason='no "such" customer\n')
    [[_, flat]] = server.command("XRANGE", companion_key("s", Kind.DEAD, "g"), "-", "+")
    letter = decode(list(zip(flat[::2], flat[1::2], strict=True)))
    assert letter.members == {"n": 1, "text": "häßlich"}
    assert letter.stamp.sender == "me"
    assert letter.dead_letter == {
        "reason": 'no "such" customer\n',
        "stream": "s",
        "group": "g",
        "id": ids(held)[0],
        "consumer": "c",
        "attempts": 1,
    }


async def test_an_enormous_entry_of_another_program_is_put_aside_without_its_fields(
    bus: Bus, server: Server
) -> None:
    fields = [part for n in range(5_000) for part in (f"f{n}", "v")]
    server.command("XADD", "s", "1-1", *fields)
    held = await bus.work.take(take(), ME)
    assert len(held.taken.entries[0].fields) == 5_000
    assert await settle(bus, held, Action.DEAD_LETTER, reason="big") == {"1-1": Outcome.DEAD_LETTERED}
    [[_, flat]] = server.command("XRANGE", companion_key("s", Kind.DEAD, "g"), "-", "+")
    assert decode([(flat[0], flat[1])]).dead_letter["fields_left_in_stream"] is True  # type: ignore[index]


async def test_a_full_server_leaves_nothing_half_taken(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    await bus.work.create_group("s", "g", "0")
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BusError) as refused:
            await bus.work.take(take(), ME)
        assert refused.value.code is Code.BACKEND_OUT_OF_MEMORY
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert server.command("XPENDING", "s", "g")[0] == 0
    assert ids(await bus.work.take(take(), ME))


async def test_what_is_missing_is_named(bus: Bus, server: Server) -> None:
    with pytest.raises(BusError) as refused:
        await bus.work.take(take(create=False), ME)
    assert refused.value.code is Code.STREAM_NOT_FOUND
    await bus.work.create_group("s", "billing", "$")
    with pytest.raises(BusError) as refused:
        await bus.work.take(Take("s", "biling", "c", 1, 60, 10, None), ME)
    assert refused.value.code is Code.GROUP_NOT_FOUND
    assert "billing" in refused.value.cause
    server.command("SET", "s2", "x")
    with pytest.raises(BusError) as refused:
        await bus.work.take(Take("s2", "g", "c", 1, 60, 10, "0"), ME)
    assert refused.value.code is Code.WRONG_TYPE


async def test_a_lease_belongs_to_the_one_it_was_given_to(bus: Bus) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    held = await bus.work.take(take(), ME)
    assert held.lease is not None
    with pytest.raises(BusError) as refused:
        await bus.work.settle(
            bus.work.read_lease(str(held.lease), Principal("somebody", "unix")), Action.DONE
        )
    with pytest.raises(BusError) as forged:
        bus.work.read_lease("lease2.AAAA" + str(held.lease)[11:], ME)
    assert refused.value.code is forged.value.code is Code.INVALID_ARGUMENT
    assert (refused.value.cause, refused.value.next_step) == (forged.value.cause, forged.value.next_step)
    with pytest.raises(BusError) as refused:
        await bus.work.settle(bus.work.read_lease(str(held.lease), ME), Action.DONE, entry_ids=["1-1"])
    assert refused.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("start", "delivered"),
    [
        ("earliest", [1, 2, 3]),
        ("latest", []),
        ("20000-1", [2, 3]),
        ("20000", [2, 3]),
        ("20000-2", [3]),
        ("1970-01-01T00:00:20Z", [2, 3]),
    ],
)
async def test_a_group_begins_with_the_first_entry_at_or_after_start(
    bus: Bus, server: Server, start: str, delivered: list[int]
) -> None:
    for n in (1, 2, 3):
        server.command("XADD", "s", f"{n}0000-1", "n", n)
    made = Take("s", "g", "c", 10, 60, 10, group_position(start))
    work = await bus.work.take(made, ME)
    assert [int(entry.fields[0][1]) for entry in work.taken.entries] == delivered
    assert work.taken.group_created


async def test_a_take_ends_where_entries_are_large(bus: Bus, server: Server) -> None:
    """They are better whole in the next answer than cut in this one; and memory is bounded."""
    sizes = [10, 40_000, 10, 10, 50_000, 10]
    for n, size in enumerate(sizes):
        server.command("XADD", "s", f"{n + 1}-1", "n", "x" * size)
    first = await bus.work.take(take(count=100), ME)
    second = await bus.work.take(take(count=100), ME)
    third = await bus.work.take(take(count=100), ME)
    assert [ids(first), ids(second), ids(third)] == [["1-1", "2-1"], ["3-1", "4-1", "5-1"], ["6-1"]]
    # The same holds for what is due again, and for what is resumed.
    await settle(bus, first, Action.RETRY)
    again = await bus.work.take(take("d", count=100), ME, timeout_seconds=5)
    assert ids(again) == ["1-1", "2-1"]
    resumed = await bus.work.take(msgspec.structs.replace(take("d", count=100), resume=True), ME)
    assert ids(resumed) == ["1-1", "2-1"]
    held = await bus.work.take(msgspec.structs.replace(take(count=100), resume=True), ME)
    assert ids(held) == ["3-1", "4-1", "5-1"]


async def test_entries_that_were_read_beyond_the_limit_go_back_to_the_group_as_new(
    bus: Bus, server: Server
) -> None:
    """After small entries several are read at once; what is too much was never delivered."""
    sizes = [10] * 3 + [10, 40_000, 10, 10, 50_000, 10]
    for n, size in enumerate(sizes[:3]):
        server.command("XADD", "s", f"{n + 1}-1", "n", "x" * size)
    assert len(ids(await bus.work.take(take(count=3), ME))) == 3
    for n, size in enumerate(sizes[3:], 3):
        server.command("XADD", "s", f"{n + 1}-1", "n", "x" * size)

    async def taken() -> list[tuple[str, int]]:
        work = await bus.work.take(take(count=100), ME)
        return _attempts(work)

    for expected, read in (([4, 5], 5), ([6, 7, 8], 8), ([9], 9)):
        assert await taken() == [(f"{n}-1", 1) for n in expected]
        [flat] = server.command("XINFO", "GROUPS", "s")
        group = dict(zip(flat[::2], flat[1::2], strict=True))
        assert group[b"pending"] == read
        assert group[b"last-delivered-id"] == f"{read}-1".encode()
        # Redis 6.2 does not count them.
        assert group.get(b"entries-read", read) == read
        assert group.get(b"lag", len(sizes) - read) == len(sizes) - read
    assert server.command("ZCARD", companion_key("s", Kind.DUE, "g")) == len(sizes)


async def test_what_cannot_be_given_back_is_taken_whole(server: Server) -> None:
    """A user without XGROUP SETID loses no entry that was read beyond the limit."""
    server.command("ACL", "SETUSER", "narrow", "on", "nopass", "~*", "&*", "+@all", "-xgroup")
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    try:
        async with bus_at(Target(path=server.path, username="narrow")) as bus:
            server.command("XADD", "s", "1-1", "n", "x")
            assert ids(await bus.work.take(take(), ME)) == ["1-1"]
            for n in range(2, 6):
                server.command("XADD", "s", f"{n}-1", "n", "x" * 40_000)
            work = await bus.work.take(take(count=10), ME)
            assert ids(work) == ["2-1", "3-1", "4-1", "5-1"]
            assert set((await settle(bus, work)).values()) == {Outcome.DONE}
    finally:
        server.command("ACL", "DELUSER", "narrow")


async def test_a_key_stands_for_nothing_once_its_group_was_destroyed(bus: Bus, server: Server) -> None:
    added = (await bus.publisher.add("s", [{"n": 1}], Stamp())).ids
    keyed = msgspec.structs.replace(take(), idempotency_key="k")
    assert ids(await bus.work.take(keyed, ME)) == added
    assert ids(await bus.work.take(keyed, ME)) == added
    server.command("XGROUP", "DESTROY", "s", "g")
    again = await bus.work.take(keyed, ME)
    assert (ids(again), again.taken.group_created, again.taken.replayed) == (added, True, False)
