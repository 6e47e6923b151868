"""stream_health on real servers: each trouble is found, explained, and found at a bounded cost."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio

from redstreamd.redisio.reply_parsing import GroupInfo
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bounds import Bounds
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis import stream_health
from redstreamd.streams.diagnosis.group_survey import Surveyed
from redstreamd.streams.diagnosis.lag import Lag, StreamInfo
from redstreamd.streams.diagnosis.sampler import Rates
from redstreamd.streams.diagnosis.server_figures import ServerFacts, server_findings
from redstreamd.tools.arguments import Structurer
from redstreamd.tools.catalog import REGISTRY
from tests.support.buses import running_bus
from tests.support.calls import add, call, refusal
from tests.support.counts import long
from tests.support.fair_clock import running_clock
from tests.support.measured import measured
from tests.support.server_clock import milliseconds
from tests.support.servers import Server
from tests.support.waiting import until

GROUP = {"stream": "s", "group": "g"}


#: Samples often; one that took long because the machine was busy does not delay the next one.
SAMPLING = Bounds(sample_seconds=0.02, sample_pause_share=0)


def found(diagnosis: dict[str, Any], code: str) -> dict[str, Any]:
    (finding,) = (each for each in diagnosis["findings"] if each["code"] == code)
    assert finding["cause"]
    assert finding["evidence"]
    if "next_call" in finding:
        # The next call is complete, apart from a name to fill in.
        tool = REGISTRY.get(finding["next_call"]["tool"])
        assert Structurer(tool.arguments)(finding["next_call"]["arguments"])
    return finding


def codes(diagnosis: dict[str, Any]) -> set[str]:
    return {each["code"] for each in diagnosis["findings"]}


async def test_a_group_without_consumers_is_critical_once_something_waits(bus: Bus) -> None:
    await call(bus, "group_create", **GROUP)
    empty = found(await call(bus, "stream_health", stream="s"), "no_consumers")
    await add(bus, 3)
    diagnosis = await call(bus, "stream_health", stream="s")
    waiting = found(diagnosis, "no_consumers")
    assert diagnosis["status"] == "critical"
    assert waiting == diagnosis["findings"][0]
    await call(bus, waiting["next_call"]["tool"], **waiting["next_call"]["arguments"])
    after = await call(bus, "stream_health", stream="s")
    assert empty["severity"] == "warning"
    assert waiting["severity"] == "critical"
    assert waiting["evidence"]["lag"] == 3
    assert "no_consumers" not in codes(after)


async def test_findings_come_by_severity(bus: Bus) -> None:
    await call(bus, "group_create", **GROUP)
    await add(bus, 300)
    diagnosis = await call(bus, "stream_health", stream="s", detail="full")
    order = ["critical", "warning", "notice"]
    ranks = [order.index(each["severity"]) for each in diagnosis["findings"]]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) > 1
    assert found(diagnosis, "lagging")["evidence"]["lag"] == 300


async def test_more_than_a_hundred_pending_is_a_warning_with_what_they_are(bus: Bus, server: Server) -> None:
    ids = await add(bus, 130)
    await call(bus, "work_take", **GROUP, consumer="a", count=100)
    assert "many_pending" not in codes(await call(bus, "stream_health", stream="s"))
    lease = (await call(bus, "work_take", **GROUP, consumer="a", count=10))["lease"]
    await call(bus, "work_fail", lease=lease, action="retry", delay_seconds=60)
    server.command("XREADGROUP", "GROUP", "g", "outsider", "COUNT", 20, "STREAMS", "s", ">")
    finding = found(await call(bus, "stream_health", stream="s"), "many_pending")
    one = await call(bus, "stream_health", **GROUP, detail="full")
    evidence = finding["evidence"]
    assert evidence["pending"] == evidence["looked_at"] == 130
    assert (evidence["leased"], evidence["put_off"], evidence["held_outside"]) == (100, 10, 20)
    assert evidence["oldest_id"] == ids[0]
    assert 0 <= evidence["oldest_age_seconds"] < 20
    assert finding["next_call"] == {"tool": "pending_list", "arguments": GROUP}
    (group,) = one["groups"]
    assert group["pending"] == 130


@pytest.mark.settings(Settings(leases=LeasesSettings(foreign_idle_seconds=0.05)))
async def test_dead_consumers_with_pending_entries_are_named_and_those_at_work_are_not(
    bus: Bus, server: Server
) -> None:
    await add(bus, 6)
    await call(bus, "work_take", **GROUP, consumer="working", count=2)
    server.command("XREADGROUP", "GROUP", "g", "gone", "COUNT", 4, "STREAMS", "s", ">")
    await trio.sleep(0.1)
    diagnosis = await call(bus, "stream_health", stream="s")
    finding = found(diagnosis, "dead_consumers")
    listed = await call(bus, "pending_list", **finding["next_call"]["arguments"])
    (dead,) = finding["evidence"]["consumers"]
    assert (dead["consumer"], dead["pending"]) == ("gone", 4)
    assert dead["idle_seconds"] >= 0.1
    assert [line["consumer"] for line in listed["entries"]] == ["gone"] * 4
    assert found(diagnosis, "stuck_pending")["evidence"]["oldest_consumer"] == "gone"


async def test_what_was_delivered_outside_and_never_finished_is_found(bus: Bus, server: Server) -> None:
    ids = await add(bus, 2)
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "gone", "COUNT", 2, "STREAMS", "s", ">")
    assert "stuck_pending" not in codes(await call(bus, "stream_health", stream="s"))
    server.command("XCLAIM", "s", "g", "gone", 0, ids[0], "IDLE", 400_000)
    finding = found(await call(bus, "stream_health", stream="s"), "stuck_pending")
    listed = await call(bus, "pending_list", **finding["next_call"]["arguments"])
    assert finding["evidence"]["oldest_consumer"] == "gone"
    assert [line["id"] for line in listed["entries"]] == ids[:1]


async def test_work_that_is_due_and_that_nobody_asks_for_is_found(bus: Bus, server: Server) -> None:
    (first,) = await add(bus, 1)
    await call(bus, "work_take", **GROUP, consumer="a")
    # Its lease ran out a minute ago, by the server's clock.
    seconds = int(server.command("TIME")[0]) - 60
    server.command("ZADD", "s:rs:due:g:{s}", seconds * 1000, f"{first}/1")
    finding = found(await call(bus, "stream_health", stream="s"), "overdue")
    assert finding["evidence"]["overdue"] == 1
    assert 60 <= finding["evidence"]["waiting_seconds"] < 80


@pytest.mark.settings(Settings(leases=LeasesSettings(max_deliveries=3)))
async def test_entries_near_their_last_delivery_and_dead_letters_are_found(bus: Bus) -> None:
    await add(bus, 1)
    take = {**GROUP, "consumer": "a", "timeout_seconds": 10}
    for _ in range(2):
        lease = (await call(bus, "work_take", **take))["lease"]
        await call(bus, "work_fail", lease=lease, action="release")
    lease = (await call(bus, "work_take", **take))["lease"]
    near = found(await call(bus, "stream_health", stream="s"), "failing_entries")
    await call(bus, "work_fail", lease=lease, action="release")
    diagnosis = await call(bus, "stream_health", stream="s")
    letters = found(diagnosis, "dead_letters")
    assert "failing_entries" not in codes(diagnosis)
    listed = await call(bus, letters["next_call"]["tool"], **letters["next_call"]["arguments"])
    assert near["evidence"] == {"entries": 1, "looked_at": 1, "most_deliveries": 3}
    assert near["next_call"]["arguments"]["min_deliveries"] == 3
    assert letters["evidence"]["dead_letters"] == 1
    assert letters["evidence"]["newest_age_seconds"] < 20
    assert listed["total"] == 1


@pytest.mark.parametrize("ahead", [3, 500])
async def test_an_unknown_lag_is_explained_and_counted_or_estimated(
    bus: Bus, server: Server, ahead: int
) -> None:
    ids = [f"{1_000 + n}-0" for n in range(1_000)]
    server.commands(*[("XADD", "s", one, "n", "x") for one in ids])
    # A group in the middle: the server has no count of entries read.
    server.command("XGROUP", "CREATE", "s", "g", ids[-ahead - 1])
    server.command("XGROUP", "CREATECONSUMER", "s", "g", "c")
    finding = found(await call(bus, "stream_health", stream="s"), "lag_unknown")
    evidence = finding["evidence"]
    assert evidence["lag"] == pytest.approx(ahead, abs=0 if ahead == 3 else 1)
    assert "middle of the stream" in finding["cause"]
    if ahead == 3:
        assert "estimated" not in evidence
    else:
        assert evidence["estimated"] is True
        assert evidence["at_least"] <= ahead <= evidence["at_most"] < 1_000


async def test_a_lag_lost_through_a_deletion_is_explained(bus: Bus, server: Server) -> None:
    ids = await add(bus, 10)
    await call(bus, "work_take", **GROUP, consumer="a", count=2)
    server.command("XDEL", "s", ids[5])
    finding = found(await call(bus, "stream_health", stream="s"), "lag_unknown")
    figures = (await call(bus, "stream_health", **GROUP, detail="full"))["groups"]
    assert "deleted" in finding["cause"]
    assert finding["evidence"]["lag"] == 7
    assert figures[0]["lag"] == 7


def read(server: Server, count: int, group: str = "g") -> None:
    server.command("XREADGROUP", "GROUP", group, "c", "NOACK", "COUNT", count, "STREAMS", "s", ">")


def overtaken_by_trimming(server: Server, *groups: str, added: int, left: int) -> None:
    """Each group got ten entries, then most of the others were trimmed, and it read one that was left.

    From then on Redis 7.0 takes that one for the eleventh that was ever added.
    """
    server.commands(
        *[("XADD", "s", f"{n}-0", "n", "x") for n in range(1, added + 1)],
        *[("XGROUP", "CREATE", "s", group, "0") for group in groups],
    )
    for group in groups:
        read(server, 10, group)
    server.command("XTRIM", "s", "MAXLEN", "=", left)
    for group in groups:
        read(server, 1, group)


async def test_what_was_trimmed_ahead_of_a_group_is_not_taken_for_its_lag(bus: Bus, server: Server) -> None:
    overtaken_by_trimming(server, "g", added=300, left=50)
    behind = await call(bus, "stream_health", **GROUP, detail="full")
    read(server, 49)
    idle = await call(bus, "stream_health", **GROUP, detail="full")
    server.commands(*[("XADD", "s", "*", "n", "x")] * 3)
    routine = await call(bus, "stream_health", **GROUP, detail="full")
    told = [(diagnosis["groups"][0]["lag"], diagnosis["groups"][0]) for diagnosis in (behind, idle, routine)]
    assert [lag for lag, _ in told] == [49, 0, 3]
    assert all("lag_between" not in line for _, line in told)
    assert [f for diagnosis in (behind, idle, routine) for f in diagnosis["findings"] if "group" in f] == []


async def test_a_lag_that_can_be_neither_believed_nor_counted_is_given_with_its_bounds(
    bus: Bus, server: Server
) -> None:
    overtaken_by_trimming(server, "g", added=1_000, left=500)
    diagnosis = await call(bus, "stream_health", **GROUP, detail="full")
    server.command("XGROUP", "DELCONSUMER", "s", "g", "c")
    deserted = await call(bus, "stream_health", **GROUP)
    finding = found(diagnosis, "lagging")
    evidence = finding["evidence"]
    assert evidence["estimated"] is True
    assert (evidence["at_least"], evidence["at_most"]) == (100, 499)
    assert found(deserted, "no_consumers")["evidence"] == {**evidence, "consumers": 0, "pending": 0}
    assert evidence["lag"] == pytest.approx(499, abs=1)
    assert "removed from the stream" in finding["cause"]
    (line,) = diagnosis["groups"]
    assert line["lag_between"] == [100, 499]
    assert "lag_unknown" not in codes(diagnosis)


async def test_groups_that_are_not_examined_are_not_said_to_lag_by_what_was_trimmed(
    bus: Bus, server: Server
) -> None:
    groups = [f"g{n}" for n in range(12)]
    overtaken_by_trimming(server, *groups, added=300, left=1)
    diagnosis = await call(bus, "stream_health", stream="s")
    rest = found(diagnosis, "groups_not_examined")
    assert rest["severity"] == "notice"
    assert rest["evidence"]["over_100_pending_or_lagging"] == 0


async def test_a_group_that_has_the_newest_entry_is_not_behind_whatever_was_deleted(
    bus: Bus, server: Server
) -> None:
    ids = await add(bus, 10)
    server.command("XGROUP", "CREATE", "s", "g", "0")
    read(server, 9)
    server.command("XDEL", "s", ids[9])
    diagnosis = await call(bus, "stream_health", **GROUP, detail="full")
    assert diagnosis["groups"][0]["lag"] == 0
    assert [finding for finding in diagnosis["findings"] if "group" in finding] == []


async def test_counting_stops_where_entries_turn_out_to_be_large(bus: Bus, server: Server) -> None:
    small, large = 2_000, 20
    server.commands(*[("XADD", "s", f"{n}-0", "n", "x") for n in range(1, small + 1)])
    server.commands(*[("XADD", "s", f"{small + n}-0", "n", "x" * 1_000_000) for n in range(1, large + 1)])
    groups = [f"g{n}" for n in range(10)]
    server.commands(*[("XGROUP", "CREATE", "s", group, f"{small}-0") for group in groups])
    server.command("CONFIG", "RESETSTAT")
    diagnosis = await call(bus, "stream_health", stream="s", detail="full")
    statistics = server.command("INFO", "commandstats").decode()
    # Two of them are more than a hundred small ones may have together.
    assert [line["lag_between"] for line in diagnosis["groups"]] == [[2, small + large - 1]] * len(groups)
    # The oldest entries are read as well, for the keys that they need.
    assert f"cmdstat_xrange:calls={2 * len(groups) + 6}," in statistics


async def test_a_server_that_forgets_everything_at_a_restart_is_found(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    none = await call(bus, "stream_health", stream="s", detail="full")
    server.command("CONFIG", "SET", "save", "3600 1")
    try:
        snapshots = await call(bus, "stream_health", stream="s", detail="full")
        concise = await call(bus, "stream_health", stream="s")
        server.command("CONFIG", "SET", "appendonly", "yes")
        kept = await call(bus, "stream_health", stream="s", detail="full")
    finally:
        server.command("CONFIG", "SET", "appendonly", "no", "save", "")
    assert found(none, "no_persistence")["severity"] == "warning"
    assert "restart" in found(none, "no_persistence")["cause"]
    assert none["server"]["role"] == "master"
    assert found(snapshots, "snapshots_only")["severity"] == "notice"
    # The server's configuration is a finding in concise answers only if acknowledged entries may be lost.
    assert {"snapshots_only", "no_replica"}.isdisjoint(codes(concise))
    assert "no_replica" in codes(snapshots)
    assert {"no_persistence", "snapshots_only"}.isdisjoint(codes(kept))
    assert kept["server"]["aof_enabled"] == 1


async def test_memory_near_its_limit_and_eviction_of_streams_are_found(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    used = int(bus_info(server)["used_memory"])
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", used * 2)
    try:
        roomy = await call(bus, "stream_health", stream="s", detail="full")
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", used)
        tight = await call(bus, "stream_health", stream="s", detail="full")
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0, "maxmemory-policy", "noeviction")
    assert found(roomy, "eviction")["evidence"]["maxmemory_policy"] == "allkeys-lru"
    assert "memory_nearly_full" not in codes(roomy)
    assert found(tight, "memory_nearly_full")["severity"] == "critical"
    assert "eviction" not in codes(tight)


def bus_info(server: Server) -> dict[str, str]:
    lines = server.command("INFO", "memory").decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"aof_enabled": "1", "aof_last_write_status": "err"}, "save_failed"),
        ({"aof_enabled": "1", "rdb_last_bgsave_status": "err"}, "save_failed"),
        ({"aof_enabled": "1", "aof_last_bgrewrite_status": "err"}, "aof_rewrite_failed"),
        ({"role": "slave", "master_host": "h", "master_link_status": "down"}, "read_only_replica"),
        ({"role": "master", "connected_slaves": "1", "slave0": "ip=h,state=online,lag=60"}, "replica_behind"),
        ({"role": "master", "connected_slaves": "1", "slave0": "ip=h,state=wait_bgsave"}, "replica_behind"),
        (
            {"maxmemory": "100", "used_memory": "5", "maxmemory_policy": "volatile-ttl"},
            "eviction_of_expiring_keys",
        ),
        ({"role": "master", "connected_slaves": "1", "slave0": "ip=h,state=online,lag=1"}, None),
        ({"maxmemory": "0", "used_memory": "5", "maxmemory_policy": "allkeys-lru"}, None),
    ],
)
def test_what_info_says_becomes_findings(info: dict[str, str], expected: str | None) -> None:
    findings = [each.code for each in server_findings(ServerFacts(info, "", {}))]
    assert findings == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("aof", "save", "severity", "what"),
    [
        ("0", "3600 1", "critical", "restart loses"),
        ("1", "3600 1", "warning", "may refuse writes"),
        ("1", "", "notice", "nothing is lost"),
    ],
)
def test_a_failed_snapshot_matters_as_much_as_there_is_nothing_else(
    aof: str, save: str, severity: str, what: str
) -> None:
    facts = ServerFacts({"aof_enabled": aof, "rdb_last_bgsave_status": "err"}, save, {})
    (finding,) = (each for each in server_findings(facts) if each.code == "save_failed")
    assert finding.severity == severity
    assert what in finding.cause


async def test_what_may_not_be_asked_is_said_and_the_rest_is_answered(bus: Bus, server: Server) -> None:
    await add(bus, 2)
    await call(bus, "work_take", **GROUP, consumer="a")
    server.command("ACL", "SETUSER", "default", "-info", "-config|get", "-memory")
    try:
        diagnosis = await call(bus, "stream_health", stream="s", detail="full")
    finally:
        server.command("ACL", "SETUSER", "default", "+@all")
    assert "permission" in diagnosis["left_out"]["INFO persistence"]
    assert "CONFIG GET save" in diagnosis["left_out"]
    assert diagnosis["groups"][0]["pending"] == 1
    assert "memory_bytes" not in diagnosis["stream"]
    assert "no_persistence" not in codes(diagnosis)


@pytest.mark.bounds(SAMPLING)
async def test_rates_appear_once_the_stream_was_asked_about(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.sampler.run)
        await add(bus, 5)
        first = await call(bus, "stream_health", stream="s")
        assert "added_per_second" not in first["stream"]
        await until(lambda: bus.sampler.rates("s") is not None)
        await add(bus, 5)
        while True:
            again = await call(bus, "stream_health", stream="s")
            if again["stream"].get("added_per_second", 0) > 0:
                break
        nursery.cancel_scope.cancel()
    assert again["stream"]["growth_per_second"] > 0


@pytest.mark.bounds(SAMPLING)
async def test_a_group_is_told_with_how_many_of_its_consumers_were_active(bus: Bus, server: Server) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.sampler.run)
        await call(bus, "group_create", **GROUP)
        server.command("XGROUP", "CREATECONSUMER", "s", "g", "idle")
        await call(bus, "stream_health", stream="s")
        await until(lambda: bus.sampler.rates("s") is not None)
        await add(bus, 1)
        await call(bus, "work_take", consumer="worker", **GROUP)
        while True:
            diagnosis = await call(bus, "stream_health", stream="s", detail="full")
            if diagnosis["groups"][0].get("active_consumers"):
                break
        nursery.cancel_scope.cancel()
    (group,) = diagnosis["groups"]
    assert (group["consumers"], group["active_consumers"]) == (2, 1)


@pytest.mark.bounds(Bounds(untaken_seconds=0.2))
async def test_consumers_that_stopped_are_told_from_those_that_are_at_work(bus: Bus) -> None:
    """From the first call on, without an earlier sample."""
    await add(bus, 1)
    taken = await call(bus, "work_take", consumer="worker", lease_seconds=1_000, **GROUP)
    await add(bus, 3)
    await trio.sleep(0.3)
    at_work = await call(bus, "stream_health", stream="s", detail="full")
    await call(bus, "work_done", lease=taken["lease"])
    stopped = await call(bus, "stream_health", stream="s", detail="full")
    assert "no_active_consumers" not in codes(at_work)
    finding = found(stopped, "no_active_consumers")
    assert (finding["severity"], finding["group"]) == ("warning", "g")
    assert finding["evidence"]["lag"] == 3
    assert finding["evidence"]["untaken_seconds"] >= 0.3
    assert finding["next_call"]["tool"] == "work_take"


@pytest.mark.bounds(Bounds(untaken_seconds=0.2))
async def test_who_works_outside_or_waited_in_vain_has_not_stopped(bus: Bus, server: Server) -> None:
    await add(bus, 2)
    server.command("XGROUP", "CREATE", "s", "g", "0")
    # Another program works on one entry at a time and takes its time.
    server.command("XREADGROUP", "GROUP", "g", "outsider", "COUNT", 1, "STREAMS", "s", ">")
    await trio.sleep(0.3)
    outside = await call(bus, "stream_health", stream="s")
    server.command("XREADGROUP", "GROUP", "g", "outsider", "STREAMS", "s", ">")
    server.command("XACK", "s", "g", *(line[0] for line in server.command("XRANGE", "s", "-", "+")))
    await trio.sleep(0.3)
    # There was nothing to take until this moment, which lasts as long as the answer takes.
    server.command("XADD", "s", f"{milliseconds(server) + 3_600_000}-0", "n", "1")
    fresh = await call(bus, "stream_health", stream="s")
    assert "no_active_consumers" not in codes(outside) | codes(fresh)


async def test_what_concerns_all_is_not_cut_off_by_what_concerns_one(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    server.commands(*[("XGROUP", "CREATE", "s", f"idle{n}", "0") for n in range(12)])
    server.command("CONFIG", "SET", "maxmemory", int(bus_info(server)["used_memory"]))
    try:
        diagnosis = await call(bus, "stream_health", stream="s")
    finally:
        server.command("CONFIG", "SET", "maxmemory", 0)
    assert diagnosis["left_out"]["findings"] > 0
    assert diagnosis["findings"][0]["code"] == "memory_nearly_full"
    rest = found(diagnosis, "groups_not_examined")["evidence"]
    assert rest["groups"] == len(rest["such_as"]) == 2


async def test_the_group_with_most_to_do_is_examined_however_many_are_deserted(
    bus: Bus, server: Server
) -> None:
    deserted = [f"idle{n}" for n in range(15)]
    ids = await add(bus, 500)
    # Each of them has one entry to get.
    server.commands(*[("XGROUP", "CREATE", "s", name, ids[-2]) for name in deserted])
    server.command("XGROUP", "CREATE", "s", "slow", "0")
    server.command("XGROUP", "CREATECONSUMER", "s", "slow", "c")
    diagnosis = await call(bus, "stream_health", stream="s", detail="full")
    assert diagnosis["groups"][0]["group"] == "slow"
    assert len(diagnosis["groups"]) == 10
    assert found(diagnosis, "lagging")["group"] == "slow"


async def test_who_stands_in_for_removed_consumers_is_no_consumer(bus: Bus) -> None:
    await add(bus, 5)
    await call(bus, "work_take", **GROUP, consumer="w", count=2)
    removal = {"action": "remove_consumer", "consumer": "w", "pending": "release", "dry_run": False}
    await call(bus, "group_manage", **GROUP, **removal)
    diagnosis = await call(bus, "stream_health", stream="s", detail="full")
    assert found(diagnosis, "no_consumers")["evidence"] == {"consumers": 0, "lag": 3, "pending": 2}
    (group,) = diagnosis["groups"]
    assert group["consumers"] == 0


@pytest.mark.parametrize(("limit", "deliveries", "worn"), [(0, 10, True), (0, 9, False), (1, 1, False)])
async def test_how_often_is_too_often_depends_on_the_limit(
    server: Server, limit: int, deliveries: int, *, worn: bool
) -> None:
    settings = Settings(leases=LeasesSettings(max_deliveries=limit))
    async with running_bus(server, settings) as bus:
        await add(bus, 1)
        for delivery in range(deliveries):
            lease = (await call(bus, "work_take", **GROUP, consumer="a", timeout_seconds=10))["lease"]
            if delivery < deliveries - 1:
                await call(bus, "work_fail", lease=lease, action="release")
        diagnosis = await call(bus, "stream_health", stream="s")
    assert ("failing_entries" in codes(diagnosis)) is worn


async def test_a_group_beyond_the_end_of_its_stream_is_found(bus: Bus) -> None:
    await call(bus, "group_create", **GROUP, start="9999-01-01T00:00:00Z")
    await add(bus, 3)
    finding = found(await call(bus, "stream_health", stream="s"), "ahead_of_stream")
    move = finding["next_call"]
    await call(bus, move["tool"], **move["arguments"], dry_run=False)
    await add(bus, 1)
    taken = await call(bus, "work_take", **GROUP, consumer="a")
    mended = await call(bus, "stream_health", stream="s")
    assert finding["severity"] == "warning"
    assert move["profile"] == "operator"
    assert [entry["fields"] for entry in taken["entries"]] == [{"n": 0}]
    assert "ahead_of_stream" not in codes(mended)


@pytest.mark.parametrize(
    ("length", "growth", "added", "expected"),
    [
        (150_000, 20.0, 20.0, "untrimmed"),
        # A trim that leaves some beyond its bound makes the length go up and down.
        (150_000, 0.5, 330.0, None),
        (1_000_000, 0.0, 28.0, "long"),
        (1_000_000, 0.0, 0.0, "untrimmed"),
        (99_999, 20.0, 20.0, None),
    ],
)
def test_a_stream_that_is_trimmed_is_not_said_to_be_untrimmed(
    length: int, growth: float, added: float, expected: str | None
) -> None:
    shape = StreamInfo("s", 0, length, 1, "1-1", "2-1", "2-1", length * 2, None, length * 100)
    rates = Rates(60.0, added, growth, {})
    info = GroupInfo("g", 1, 0, "2-1", length * 2, 0)
    findings = [
        each.code for each in stream_health._stream_findings(shape, rates, Surveyed(info, Lag(0, 0, 0), 0))
    ]
    assert findings == ([] if expected is None else [expected])


@pytest.mark.bounds(SAMPLING)
async def test_what_is_put_off_is_not_being_worked_on(bus: Bus) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.sampler.run)
        await add(bus, 100)
        put_off = await call(bus, "work_take", **GROUP, consumer="a", count=80)
        await call(bus, "work_fail", lease=put_off["lease"], delay_seconds=3_600)
        await call(bus, "stream_health", stream="s")
        while True:
            await add(bus, 1)
            quick = await call(bus, "work_take", **GROUP, consumer="a")
            await call(bus, "work_done", lease=quick["lease"])
            diagnosis = await call(bus, "stream_health", stream="s", detail="full")
            if "processing_seconds" in diagnosis["groups"][0]:
                break
        nursery.cancel_scope.cancel()
    # All pending entries are delayed, and every other entry was finished at once.
    assert diagnosis["groups"][0]["put_off"] == 80
    assert diagnosis["groups"][0]["processing_seconds"] == 0
    assert "slow_processing" not in codes(diagnosis)


async def test_what_is_absent_or_of_another_type_is_said(bus: Bus, server: Server) -> None:
    await add(bus, 1)
    server.command("SET", "string", "x")
    absent = await refusal(bus, "stream_health", stream="t")
    group = await refusal(bus, "stream_health", stream="s", group="h")
    wrong = await refusal(bus, "stream_health", stream="string")
    none = await call(bus, "stream_health", stream="s")
    assert absent["code"] == "STREAM_NOT_FOUND"
    assert group["code"] == "GROUP_NOT_FOUND"
    assert wrong["code"] == "WRONG_TYPE"
    assert found(none, "no_groups")["severity"] == "notice"


async def quickest(bus: Bus, tool: str, **arguments: Any) -> tuple[dict[str, Any], float]:
    """Return the answer to a call and the least seconds of three: interruptions only make it slower."""
    rounds: list[float] = []
    with running_clock() as clock:
        for _ in range(3):
            began = clock()
            answer = await call(bus, tool, **arguments)
            rounds.append(clock() - began)
    return answer, min(rounds)


async def test_five_thousand_groups_are_diagnosed_within_a_bound(bus: Bus, server: Server) -> None:
    groups = 5_000
    server.commands(
        ("XADD", "s", "1-0", "a", "b"),
        *[("XGROUP", "CREATE", "s", f"g{n}", "0") for n in range(groups)],
        ("XREADGROUP", "GROUP", "g77", "c", "STREAMS", "s", ">"),
        ("CONFIG", "RESETSTAT"),
    )
    await bus.redis.ping()
    diagnosis, took = await quickest(bus, "stream_health", stream="s", detail="full")
    one = await call(bus, "stream_health", stream="s", group="g77")
    rest = found(diagnosis, "groups_not_examined")
    assert rest["severity"] == "critical"
    assert rest["evidence"]["groups"] == groups - 10
    assert rest["evidence"]["without_consumers_and_waiting"] == groups - 11
    assert len(json.dumps(diagnosis)) < Settings().tools.max_result_bytes
    assert one["stream"]["groups"] == groups
    print(f"5,000 groups: {took * 1000:.0f} ms, server {calls_ms(server)}")
    with measured:
        assert took < 2.0


@long
async def test_a_million_entries_are_diagnosed_within_a_bound(server: Server) -> None:
    # One a millisecond: what is estimated from times depends on no pace of this machine.
    add = "for n = ARGV[1], ARGV[2] do redis.call('XADD', 's', n .. '-1', 'n', n, 'text', 'some text') end"
    last = int(time.time() * 1000) - 1000
    for first in range(last - 999_999, last, 50_000):
        server.command("EVAL", add, 0, first, first + 49_999)
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "COUNT", 200_000, "STREAMS", "s", ">")
    server.command("XADD", "s", "*", "one", "more")
    server.command("XDEL", "s", server.command("XREVRANGE", "s", "+", "-", "COUNT", 1)[0][0])
    server.command("CONFIG", "RESETSTAT")
    # Not before: what is made above holds up this loop, and the connections of a bus with it.
    async with running_bus(server) as bus:
        await bus.redis.ping()
        diagnosis, took = await quickest(bus, "stream_health", stream="s", group="g", detail="full")
        listed, searched = await quickest(bus, "pending_list", **GROUP, min_deliveries=2)
        server.command("XGROUP", "DESTROY", "s", "g")
        without = await call(bus, "stream_health", stream="s")
    held = found(diagnosis, "held_by_group")
    assert (held["group"], held["evidence"]["length"]) == ("g", 1_000_000)
    assert held["evidence"]["unfinished"] >= 900_000
    assert "untrimmed" not in {finding["code"] for finding in diagnosis["findings"]}
    assert found(without, "untrimmed")["evidence"]["length"] == 1_000_000
    assert found(diagnosis, "many_pending")["evidence"]["pending"] == 200_000
    assert listed["has_more"] is True
    assert listed["entries"] == []
    print(f"1,000,000 entries: {took * 1000:.0f} ms, search {searched * 1000:.0f} ms, {calls_ms(server)}")
    with measured:
        assert took < 1.0
        assert searched < 1.0


def calls_ms(server: Server) -> dict[str, str]:
    """What the server spent on each kind of command, in milliseconds."""
    lines = server.command("INFO", "commandstats").decode().splitlines()
    spent = {line.partition(":")[0][8:]: line.split("usec=")[1].split(",")[0] for line in lines[1:]}
    return {name: f"{int(usec) / 1000:.1f}" for name, usec in spent.items() if int(usec) > 500}
