"""Adding: all or none, once per key, with retention."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from redstreamd.errors import BusError, Code
from redstreamd.settings import LeasesSettings, RecordsSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.entry_encoding import Stamp, encode
from redstreamd.streams.publishing import Added, KeyReused
from tests.support.buses import running_bus
from tests.support.calls import ME
from tests.support.servers import Server, free_port, start_redis, start_valkey
from tests.support.waiting import until


async def test_a_repeated_key_adds_nothing_and_gives_the_first_ids(bus: Bus, server: Server) -> None:
    async with running_bus(server) as other:
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


async def test_a_key_with_other_entries_is_refused(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"a": "bc"}], Stamp(), idempotency_key="k")
    for other in ([{"ab": "c"}], [{"a": "bc"}, {"a": "bc"}], [{"a": "b"}]):
        with pytest.raises(BusError) as refused:
            await bus.publisher.add("s", other, Stamp(), idempotency_key="k")
        assert refused.value.code is Code.INVALID_ARGUMENT
    assert server.command("XLEN", "s") == 1


@pytest.mark.settings(Settings(leases=LeasesSettings(idempotency_window_seconds=1_000.0)))
async def test_a_key_is_forgotten_after_its_window(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"a": 1}], Stamp(), idempotency_key="k")
    (record,) = server.command("KEYS", "s:rs:idem:*")
    assert 0 < server.command("PTTL", record) <= 1_000_000
    server.command("PEXPIRE", record, 0)
    assert not (await bus.publisher.add("s", [{"a": 2}], Stamp(), idempotency_key="k")).duplicate


async def test_parallel_calls_with_one_key_add_once(bus: Bus, server: Server) -> None:
    async with running_bus(server) as other:
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


async def test_several_entries_are_added_all_or_none(bus: Bus, server: Server) -> None:
    server.command("SET", "text", "x")
    with pytest.raises(BusError) as refused:
        await bus.publisher.add("s", [{"a": 1}, {"a": 2**60}], Stamp())
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert server.command("EXISTS", "s") == 0
    for entries in ([{"a": 1}], [{"a": 1}, {"a": 2}]):
        with pytest.raises(BusError) as refused:
            await bus.publisher.add("text", entries, Stamp())
        assert refused.value.code is Code.WRONG_TYPE


@pytest.mark.parametrize(
    "entries",
    [
        [{str(n): ""} for n in range(100)],
        [{str(n): "v" for n in range(members)} for members in (0, 13, 14, 15, 16, 255, 256, 1_000)],
        [{"n" * size: "v" * size} for size in (1, 31, 32, 255, 256, 65_535, 65_536, 1_000_000)],
        [{"b": "2", "a": 1.5, "_rs.v": [None]}, {"a": "é\0\n", "": {"b": True}}],
    ],
    ids=["many entries", "many members", "long texts", "any values"],
)
async def test_what_is_added_together_is_stored_in_order(
    bus: Bus, server: Server, entries: list[dict[str, Any]]
) -> None:
    stamp = Stamp(sender="unix", correlation_id="c")
    ids = (await bus.publisher.add("s", entries, stamp)).ids
    stored = server.command("XRANGE", "s", "-", "+")
    assert [entry_id.decode() for entry_id, _ in stored] == ids
    expected = [[part for pair in encode(entry, stamp) for part in pair] for entry in entries]
    assert [flat for _, flat in stored] == expected


async def test_a_key_that_an_earlier_release_recorded_is_known(bus: Bus, server: Server) -> None:
    entries = [{"a": "b", "n": 1}, {"\u00e9": [None]}]
    how: dict[str, Any] = {"stamp": Stamp(sender="me"), "idempotency_key": "k", "owner": ME}
    added = await bus.publisher.add("s", entries, **how)
    (record,) = server.command("KEYS", "s:rs:idem:*")
    old = " ".join(("c918892de7777a8508b50390a43d83fa", *added.ids))
    assert server.command("GET", record).decode() != old
    server.command("SET", record, old)
    again = await bus.publisher.add("s", entries, **how)
    assert (again.duplicate, again.ids) == (True, added.ids)
    with pytest.raises(KeyReused):
        await bus.publisher.add("s", [{"a": 1}], **how)
    # What a daemon writes for the earlier release is what that one wrote.
    async with running_bus(server, Settings(records=RecordsSettings(plain_hashes=True))) as other:
        server.command("DEL", record)
        added = await other.publisher.add("s", entries, **how)
        assert server.command("GET", record).decode() == " ".join((old.split()[0], *added.ids))
        assert (await other.publisher.add("s", entries, **how)).duplicate


async def test_retention_cuts_exactly(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "1000-0", "old", "1")
    for n in range(30):
        await bus.publisher.add("s", [{"n": n}], Stamp(), max_length=7)
    assert server.command("XLEN", "s") == 7
    server.command("XADD", "t", "1000-0", "old", "1")
    (kept,) = (await bus.publisher.add("t", [{"n": 1}], Stamp(), max_age_seconds=3_600)).ids
    assert [entry_id.decode() for entry_id, _ in server.command("XRANGE", "t", "-", "+")] == [kept]


async def test_a_full_server_refuses_the_whole_call(bus: Bus, server: Server) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        for key in (None, "k"):
            with pytest.raises(BusError) as refused:
                await bus.publisher.add("s", [{"a": 1}, {"a": 2}], Stamp(), idempotency_key=key)
            assert refused.value.code is Code.BACKEND_OUT_OF_MEMORY
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert server.command("DBSIZE") == 0


LAST = f"{2**64 - 1}-{2**64 - 1}"


async def lengths(bus: Bus, server: Server, calls: int, **retention: int) -> list[int]:
    """Add entries one by one and return how long the stream was after each."""
    found = []
    for n in range(calls):
        await bus.publisher.add("s", [{"n": n}], Stamp(), **retention)
        found.append(server.command("XLEN", "s"))
    return found


async def test_retention_keeps_what_a_group_did_not_get(bus: Bus, server: Server) -> None:
    server.command("XGROUP", "CREATE", "s", "quick", "0", "MKSTREAM")
    server.command("XGROUP", "CREATE", "s", "slow", "0")
    assert await lengths(bus, server, 5, max_length=2) == [1, 2, 3, 4, 5]
    for group, count in (("quick", 5), ("slow", 2)):
        command = ("XREADGROUP", "GROUP", group, "c", "COUNT", count, "NOACK", "STREAMS", "s", ">")
        assert len(server.command(*command)[0][1]) == count
    # What both were given goes; the three that one of them was not given stay, and the new ones.
    added = await bus.publisher.add("s", [{"n": 5}], Stamp(), max_length=2)
    assert (server.command("XLEN", "s"), added.kept_for) == (4, "slow")
    server.command("XGROUP", "DESTROY", "s", "slow")
    # `quick` has only not got the entry that was added just now.
    added = await bus.publisher.add("s", [{"n": 6}], Stamp(), max_length=2)
    assert (server.command("XLEN", "s"), added.kept_for) == (2, None)


async def test_retention_keeps_what_is_pending(bus: Bus, server: Server) -> None:
    ids = (await bus.publisher.add("s", [{"n": n} for n in range(5)], Stamp())).ids
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    server.command("XACK", "s", "g", *ids[:2], *ids[3:])
    server.command("XGROUP", "SETID", "s", "g", LAST)
    added = await bus.publisher.add("s", [{"n": 5}], Stamp(), max_length=1)
    kept = [entry_id.decode() for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert (kept, added.kept_for) == ([*ids[2:], *added.ids], "g")
    server.command("XACK", "s", "g", ids[2])
    assert await lengths(bus, server, 3, max_length=1) == [1, 1, 1]


async def test_retention_keeps_what_a_group_that_was_set_back_gets_again(bus: Bus, server: Server) -> None:
    ids = (await bus.publisher.add("s", [{"n": n} for n in range(5)], Stamp())).ids
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    server.command("XACK", "s", "g", *ids[:3])
    server.command("XGROUP", "SETID", "s", "g", ids[0])
    added = await bus.publisher.add("s", [{"n": 5}], Stamp(), max_length=1)
    kept = [entry_id.decode() for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert (kept, added.kept_for) == ([*ids[1:], *added.ids], "g")


async def test_retention_by_age_has_the_same_regard(bus: Bus, server: Server) -> None:
    for n in range(1, 6):
        server.command("XADD", "s", f"{n}-0", "n", n)
    server.command("XGROUP", "CREATE", "s", "g", "3-0")
    added = await bus.publisher.add("s", [{"n": 6}], Stamp(), max_age_seconds=3_600)
    kept = [entry_id for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert (kept, added.kept_for) == ([b"4-0", b"5-0", added.ids[0].encode()], "g")
    # That a group has read only old entries holds nothing back if no old ones are left.
    server.command("XDEL", "s", "4-0", "5-0")
    added = await bus.publisher.add("s", [{"n": 7}], Stamp(), max_age_seconds=3_600)
    assert (server.command("XLEN", "s"), added.kept_for) == (2, None)


async def test_a_stream_that_is_far_too_long_gets_shorter_with_each_call(bus: Bus, server: Server) -> None:
    server.commands(*[("XADD", "s", "*", "n", n) for n in range(2_500)])
    server.command("XGROUP", "CREATE", "s", "g", "$")
    assert await lengths(bus, server, 4, max_length=10) == [1_500, 500, 10, 10]


async def test_the_walk_for_retention_is_bounded_in_bytes_and_keeps_up(bus: Bus, server: Server) -> None:
    server.commands(*[("XADD", "s", "*", "n", b"x" * 300_000) for _ in range(12)])
    server.command("XGROUP", "CREATE", "s", "g", "$")
    first = await lengths(bus, server, 1, max_length=2)
    assert 2 < first[0] < 12
    # As many go as come, however large they are.
    entries = [{"n": "x" * 300_000} for _ in range(6)]
    await bus.publisher.add("s", entries, Stamp(), max_length=2)
    assert server.command("XLEN", "s") <= first[0]


@pytest.mark.parametrize(
    ("delivered", "pending_from"),
    [("1-9", "1-10"), (f"1-{2**64 - 1}", "2-0"), ("9-99", "9-100"), (f"{2**53}-{2**60 + 1}", None)],
)
async def test_retention_tells_the_greatest_entry_ids_apart(
    bus: Bus, server: Server, delivered: str, pending_from: str | None
) -> None:
    ms, sequence = (int(part) for part in delivered.split("-"))
    following = pending_from or f"{ms}-{sequence + 1}"
    for entry_id in (delivered, following):
        server.command("XADD", "s", entry_id, "n", "1")
    server.command("XGROUP", "CREATE", "s", "g", delivered)
    added = await bus.publisher.add("s", [{"n": 2}], Stamp(), max_length=1)
    kept = [entry_id.decode() for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert (kept, added.kept_for) == ([following, *added.ids], "g")


async def test_a_publisher_who_may_not_trim_adds_nothing(redis: Server) -> None:
    """Refused in the middle, the entries would be there and the answer would say that they are not."""
    redis.command("XADD", "s", "1-0", "n", "1")
    redis.command("ACL", "SETUSER", "default", "-xtrim")
    try:
        async with running_bus(redis) as bus:
            with pytest.raises(BusError) as refused:
                await bus.publisher.add("s", [{"a": 1}], Stamp(), max_length=1)
            assert refused.value.code is Code.PERMISSION_DENIED
    finally:
        redis.command("ACL", "SETUSER", "default", "+xtrim")
    assert redis.command("XLEN", "s") == 1


@pytest.mark.parametrize("key", [None, "k"])
async def test_retention_may_reach_back_beyond_the_epoch(bus: Bus, server: Server, key: str | None) -> None:
    server.command("XADD", "s", "1-0", "n", "1")
    added = await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key=key, max_age_seconds=10**10)
    kept = [entry_id.decode() for entry_id, _ in server.command("XRANGE", "s", "-", "+")]
    assert kept == ["1-0", *added.ids]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("retention", [{"max_length": 3}, {"max_age_seconds": 60}])
async def test_retention_does_not_get_past_a_full_server(
    bus: Bus, server: Server, key: str | None, retention: dict[str, Any]
) -> None:
    await bus.publisher.add("s", [{"n": n} for n in range(3)], Stamp())
    server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BusError) as refused:
            await bus.publisher.add("s", [{"n": 4}], Stamp(), idempotency_key=key, **retention)
    finally:
        server.command("CONFIG", "SET", "maxmemory", "0")
    assert refused.value.code is Code.BACKEND_OUT_OF_MEMORY
    assert server.command("XLEN", "s") == 3


@pytest.mark.parametrize("right", ["set", "xtrim", "xrange", "xadd"])
async def test_a_right_that_is_missing_is_found_out_before_anything_is_added(
    bus: Bus, server: Server, right: str
) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp())
    server.command("XGROUP", "CREATE", "s", "g", "$")
    before = server.command("XRANGE", "s", "-", "+")
    server.command("ACL", "SETUSER", "default", f"-{right}")
    try:
        with pytest.raises(BusError) as refused:
            await bus.publisher.add("s", [{"n": 2}], Stamp(), idempotency_key="k", max_length=1)
    finally:
        server.command("ACL", "SETUSER", "default", f"+{right}")
    assert refused.value.code is Code.PERMISSION_DENIED
    assert server.command("XRANGE", "s", "-", "+") == before
    assert not (await bus.publisher.add("s", [{"n": 2}], Stamp(), idempotency_key="k")).duplicate


async def test_a_record_of_another_type_is_found_out_before_anything_is_added(
    bus: Bus, server: Server
) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key="k")
    (record,) = server.command("KEYS", "s:rs:idem:*")
    server.command("DEL", record)
    server.command("RPUSH", record, "x")
    with pytest.raises(BusError) as refused:
        await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key="k")
    assert refused.value.code is Code.WRONG_TYPE
    assert "s:rs:" in refused.value.cause
    assert server.command("XLEN", "s") == 1


async def test_a_key_counts_for_nothing_once_its_stream_is_gone(bus: Bus, server: Server) -> None:
    await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key="k")
    server.command("DEL", "s")
    again = await bus.publisher.add("s", [{"n": 2}], Stamp(), idempotency_key="k")
    assert not again.duplicate
    assert (await bus.publisher.add("s", [{"n": 2}], Stamp(), idempotency_key="k")) == Added(
        again.ids, duplicate=True
    )


async def test_a_key_of_redstreamds_own_is_never_a_callers(bus: Bus) -> None:
    for key in ("k", "reply:k", "reply\0k"):
        await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key=key)
    own = await bus.publisher.add("s", [{"n": 1}], Stamp(), idempotency_key="k", key_space="reply")
    assert not own.duplicate


async def test_groups_are_asked_only_if_something_would_go(bus: Bus, server: Server) -> None:
    server.command("XADD", "s", "*", "n", "1")
    server.command("XGROUP", "CREATE", "s", "g", "$")
    server.command("CONFIG", "RESETSTAT")
    await bus.publisher.add("s", [{"n": 1}], Stamp(), max_length=3, max_age_seconds=60)
    assert b"cmdstat_xinfo" not in server.command("INFO", "commandstats")
    await bus.publisher.add("s", [{"n": 1}], Stamp(), max_length=2)
    assert b"cmdstat_xinfo" in server.command("INFO", "commandstats")


@pytest.mark.parametrize("start", [start_redis, start_valkey])
async def test_on_a_cluster_a_name_with_stray_braces_is_said_to_be_the_cause(start: Any) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with start(*options) as node:
        node.command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
        await until(lambda: b"cluster_state:ok" in node.command("CLUSTER", "INFO"))
        async with running_bus(node) as bus:
            for stream in ("a{b", "a}b", "a{}b", "a{}{x}", "}{"):
                with pytest.raises(BusError) as refused:
                    await bus.publisher.add(stream, [{"n": 1}], Stamp(), idempotency_key="k")
                assert refused.value.code is Code.INVALID_STREAM
                assert "braces" in refused.value.cause
            await bus.publisher.add("{a}:b", [{"n": 1}], Stamp(), idempotency_key="k")
