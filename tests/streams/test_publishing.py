"""Adding: all or none, once per key, with retention."""

from __future__ import annotations

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.codec import Stamp
from tests.support.buses import running_bus
from tests.support.servers import Server


async def test_a_repeated_key_adds_nothing_and_gives_the_first_ids(server: Server) -> None:
    with trio.fail_after(20):
        async with running_bus(server) as bus, running_bus(server) as other:
            entries = [{"n": 1}, {"n": "two"}]
            first = await bus.publisher.add("s", entries, Stamp(), idempotency_key="k")
            # Another daemon knows the key, too, and the order of members is part of the body.
            again = await other.publisher.add("s", entries, Stamp(), idempotency_key="k")
            assert not first.duplicate
            assert again.duplicate
            assert again.ids == first.ids
            assert server.command("XLEN", "s") == 2
            # The key belongs to the stream.
            assert not (await bus.publisher.add("t", entries, Stamp(), idempotency_key="k")).duplicate


async def test_a_key_with_other_entries_is_refused(server: Server) -> None:
    with trio.fail_after(20):
        async with running_bus(server) as bus:
            await bus.publisher.add("s", [{"a": "bc"}], Stamp(), idempotency_key="k")
            for other in ([{"ab": "c"}], [{"a": "bc"}, {"a": "bc"}], [{"a": "b"}]):
                with pytest.raises(BusError) as refused:
                    await bus.publisher.add("s", other, Stamp(), idempotency_key="k")
                assert refused.value.code is Code.INVALID_ARGUMENT
            assert server.command("XLEN", "s") == 1


async def test_a_key_is_forgotten_after_its_window(server: Server) -> None:
    settings = Settings(leases=LeasesSettings(idempotency_window_seconds=1.0))
    with trio.fail_after(20):
        async with running_bus(server, settings) as bus:
            await bus.publisher.add("s", [{"a": 1}], Stamp(), idempotency_key="k")
            (record,) = server.command("KEYS", "s:rs:idem:*")
            assert 0 < server.command("PTTL", record) <= 1_000
            server.command("PEXPIRE", record, 0)
            assert not (await bus.publisher.add("s", [{"a": 2}], Stamp(), idempotency_key="k")).duplicate


async def test_parallel_calls_with_one_key_add_once(server: Server) -> None:
    with trio.fail_after(20):
        async with running_bus(server) as bus, running_bus(server) as other:
            duplicates: list[bool] = []

            async def add(daemon: int) -> None:
                publisher = (bus, other)[daemon % 2].publisher
                added = await publisher.add("s", [{"a": 1}], Stamp(), idempotency_key="k")
                duplicates.append(added.duplicate)

            async with trio.open_nursery() as nursery:
                for daemon in range(50):
                    nursery.start_soon(add, daemon)
            assert sorted(duplicates) == [False] + [True] * 49
            assert server.command("XLEN", "s") == 1


async def test_several_entries_are_added_all_or_none(server: Server) -> None:
    server.command("SET", "text", "x")
    with trio.fail_after(20):
        async with running_bus(server) as bus:
            with pytest.raises(BusError) as refused:
                await bus.publisher.add("s", [{"a": 1}, {"a": 2**60}], Stamp())
            assert refused.value.code is Code.INVALID_ARGUMENT
            assert server.command("EXISTS", "s") == 0
            for entries in ([{"a": 1}], [{"a": 1}, {"a": 2}]):
                with pytest.raises(BusError) as refused:
                    await bus.publisher.add("text", entries, Stamp())
                assert refused.value.code is Code.WRONG_TYPE


async def test_retention_cuts_exactly(server: Server) -> None:
    with trio.fail_after(20):
        async with running_bus(server) as bus:
            server.command("XADD", "s", "1000-0", "old", "1")
            for n in range(30):
                await bus.publisher.add("s", [{"n": n}], Stamp(), max_length=7)
            assert server.command("XLEN", "s") == 7
            server.command("XADD", "t", "1000-0", "old", "1")
            (kept,) = (await bus.publisher.add("t", [{"n": 1}], Stamp(), max_age_seconds=3_600)).ids
            assert [entry_id.decode() for entry_id, _ in server.command("XRANGE", "t", "-", "+")] == [kept]


async def test_a_full_server_refuses_the_whole_call(server: Server) -> None:
    with trio.fail_after(20):
        async with running_bus(server) as bus:
            server.command("CONFIG", "SET", "maxmemory", "1")
            try:
                for key in (None, "k"):
                    with pytest.raises(BusError) as refused:
                        await bus.publisher.add("s", [{"a": 1}, {"a": 2}], Stamp(), idempotency_key=key)
                    assert refused.value.code is Code.BACKEND_OUT_OF_MEMORY
            finally:
                server.command("CONFIG", "SET", "maxmemory", "0")
            assert server.command("DBSIZE") == 0
