"""The lease's length and the group's limit apply, even if a call asks for others."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
import pytest

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.support.buses import KEY, running_bus
from tests.support.calls import add, call, refusal
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}
DUE, DEAD, ABOUT = (companion_key("s", kind, "g") for kind in (Kind.DUE, Kind.DEAD, Kind.GROUP))
SETTING = 4
SETTINGS = Settings(leases=LeasesSettings(lease_seconds=100, max_deliveries=SETTING))


async def take(bus: Bus, consumer: str = "c", **how: Any) -> dict[str, Any]:
    return await call(bus, "work_take", **GROUP, consumer=consumer, **how)


async def manage(bus: Bus, action: str, **how: Any) -> dict[str, Any]:
    return await call(bus, "group_manage", **GROUP, action=action, **({"dry_run": False} | how))


async def deliver(bus: Bus, server: Server, times: int, **how: Any) -> dict[str, Any]:
    """Take so often that the entry has had so many deliveries; all but the last lease have run out."""
    taken: dict[str, Any] = {}
    for _ in range(times):
        all_due(server)
        taken = await take(bus, **how)
    return taken


def all_due(server: Server) -> None:
    """Let every lease run out now."""
    server.commands(*[("ZADD", DUE, 1, member) for member in server.command("ZRANGE", DUE, 0, -1)])


def seconds_left(server: Server) -> float:
    seconds, microseconds = server.command("TIME")
    (score,) = server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")[1::2]
    return float(score) / 1000 - int(seconds) - int(microseconds) / 1_000_000


# How long


@pytest.mark.parametrize("how", ["taken", "taken again with its key", "resumed"])
@pytest.mark.settings(SETTINGS)
async def test_a_lease_is_renewed_by_its_own_length(bus: Bus, server: Server, how: str) -> None:
    key = {"idempotency_key": "k"} if how == "taken again with its key" else {}
    await add(bus)
    # A repetition gets the existing lease, whatever it asks for.
    taken = await take(bus, lease_seconds=10 if how == "resumed" else 3_600, **key)
    if key:
        taken = await take(bus, lease_seconds=10, **key)
    elif how == "resumed":
        taken = await take(bus, lease_seconds=3_600, resume=True)
    (member,) = server.command("ZRANGE", DUE, 0, -1)
    server.command("ZINCRBY", DUE, -3_000_000, member)
    extended = await call(bus, "work_extend", lease=taken["lease"])
    assert 3_590 < seconds_left(server) <= 3_600
    (due,) = server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")[1::2]
    assert datetime.fromisoformat(extended["lease_expires"]).timestamp() == pytest.approx(float(due) / 1000)
    assert "warning" not in extended


@pytest.mark.settings(SETTINGS)
async def test_a_renewal_never_ends_a_lease_earlier_unless_it_names_a_length(
    bus: Bus, server: Server
) -> None:
    await add(bus)
    taken = await take(bus, lease_seconds=60)
    longer = await call(bus, "work_extend", lease=taken["lease"], lease_seconds=7_200)
    kept = await call(bus, "work_extend", lease=taken["lease"])
    assert 7_190 < seconds_left(server) <= 7_200
    shorter = await call(bus, "work_extend", lease=taken["lease"], lease_seconds=5)
    assert seconds_left(server) <= 5
    assert kept["lease_expires"] == longer["lease_expires"]
    assert "warning" not in longer
    assert "warning" not in kept
    assert "1 of these entries come due earlier" in shorter["warning"]
    assert shorter["lease_expires"] < longer["lease_expires"]


@pytest.mark.parametrize(("left", "expected"), [(3_600, 3_600), (10, 100)])
@pytest.mark.settings(SETTINGS)
async def test_a_lease_of_the_first_release_is_renewed_for_the_setting_and_never_shortened(
    bus: Bus, server: Server, left: int, expected: int
) -> None:
    await add(bus)
    taken = await take(bus, lease_seconds=left)
    old = KEY.sign(msgspec.structs.replace(KEY.read(taken["lease"]), length_ms=None, own_limit=None))
    await call(bus, "work_extend", lease=old)
    assert expected - 10 < seconds_left(server) <= expected


@pytest.mark.settings(SETTINGS)
async def test_a_take_record_of_the_first_release_is_taken_up(bus: Bus, server: Server) -> None:
    """It tells the time and the entries, and neither length nor limit."""
    (entry_id,) = await add(bus)
    first = await take(bus, lease_seconds=3_600, idempotency_key="k")
    (record,) = [key for key in server.command("KEYS", "*") if b":rs:take:" in key]
    at, *pairs = server.command("GET", record).decode().split()
    assert pairs == [f"{entry_id}/1", "lease=3600000"]
    server.command("SET", record, f"{at} {pairs[0]}")
    again = await take(bus, idempotency_key="k")
    assert (again["duplicate"], again["lease_expires"]) == (True, first["lease_expires"])
    await call(bus, "work_extend", lease=again["lease"])
    assert 3_590 < seconds_left(server) <= 3_600
    assert (await call(bus, "work_done", lease=again["lease"]))["done"] == [entry_id]


# How often


@pytest.mark.settings(SETTINGS)
async def test_one_consumer_cannot_give_up_the_work_of_the_others(bus: Bus, server: Server) -> None:
    ids = await add(bus, 2)
    await take(bus, "careful", count=2)
    all_due(server)
    hasty = await take(bus, "hasty", count=2, max_deliveries=1)
    failed = await call(bus, "work_fail", lease=hasty["lease"], action="release")
    assert server.command("EXISTS", DEAD) == 0
    assert [entry["attempt"] for entry in hasty["entries"]] == [2, 2]
    assert "dead_lettered" not in hasty
    assert failed["retried"] == ids
    assert f"max_deliveries=1 was not used: the group's is {SETTING}." in hasty["warning"]
    assert "set_max_deliveries" in hasty["warning"]


@pytest.mark.parametrize(
    ("by", "groups", "asked", "used", "limit"),
    [
        ("group_manage", 3, None, True, 3),
        ("group_manage", 3, 3, True, 3),
        ("group_manage", 3, 2, False, 3),
        ("group_manage", 3, 5, True, 5),
        ("group_manage", 3, 0, True, 0),
        ("group_manage", 0, None, True, 0),
        ("group_manage", 0, 0, True, 0),
        ("group_manage", 0, 7, False, 0),
        *[
            (by, 3, asked, used, limit)
            for by in ("setting", "work_take", "group_create")
            for asked, used, limit in ((2, False, 3), (4, True, 4))
        ],
    ],
)
async def test_the_limit_is_the_groups_or_the_takers_if_that_allows_more(
    server: Server, by: str, groups: int, asked: int | None, used: bool, limit: int
) -> None:
    """Both where a take finds an entry that was delivered too often, and where it fails again."""
    settings = Settings(leases=LeasesSettings(max_deliveries=groups if by == "setting" else 9))
    how = {} if asked is None else {"max_deliveries": asked}
    tries = limit or 6
    async with running_bus(server, settings) as bus:
        await add(bus, 2)
        if by in ("setting", "group_create"):
            create = {"max_deliveries": groups} if by == "group_create" else {}
            await call(bus, "group_create", **GROUP, **create)
        elif by == "work_take":
            await call(bus, "work_take", **GROUP, consumer="c", start="1-1", max_deliveries=groups)
            await manage(bus, "set_position", start="earliest")
            server.command("DEL", DUE)
            server.command("XGROUP", "DELCONSUMER", "s", "g", "c")
        elif by == "group_manage":
            await call(bus, "group_create", **GROUP)
            await manage(bus, "set_max_deliveries", max_deliveries=groups)
        last = await deliver(bus, server, tries, count=2, **how)
        assert [entry["attempt"] for entry in last["entries"]] == [tries, tries]
        failed = await call(
            bus, "work_fail", lease=last["lease"], entry_ids=[last["entries"][0]["id"]], action="release"
        )
        all_due(server)
        after = await take(bus, count=2, **how)
    never = limit == 0
    assert (len(failed["dead_lettered"]), after.get("dead_lettered", 0)) == ((0, 0) if never else (1, 1))
    assert len(after["entries"]) == (2 if never else 0)
    assert all(("was not used" in each.get("warning", "")) is not used for each in (last, after))


@pytest.mark.settings(SETTINGS)
async def test_a_lower_limit_counts_at_once_but_not_against_a_lease_with_its_own(
    bus: Bus, server: Server
) -> None:
    await add(bus, 2)
    await deliver(bus, server, 2, count=2)
    all_due(server)
    plain, raised = await take(bus), await take(bus, max_deliveries=50)
    assert [one["entries"][0]["attempt"] for one in (plain, raised)] == [3, 3]
    await manage(bus, "set_max_deliveries", max_deliveries=2)
    given_up = await call(bus, "work_fail", lease=plain["lease"], action="release")
    kept = await call(bus, "work_fail", lease=raised["lease"], action="release")
    assert (len(given_up["dead_lettered"]), len(given_up["retried"])) == (1, 0)
    assert (len(kept["dead_lettered"]), len(kept["retried"])) == (0, 1)


@pytest.mark.settings(SETTINGS)
async def test_a_lease_of_the_first_release_keeps_a_limit_that_allows_more(bus: Bus, server: Server) -> None:
    ids = await add(bus, 2)
    taken = await deliver(bus, server, SETTING, count=2)
    lease = KEY.read(taken["lease"])
    for entry_id, limit, outcome in ((ids[0], 1, "dead_lettered"), (ids[1], 50, "retried")):
        old = KEY.sign(msgspec.structs.replace(lease, max_deliveries=limit, length_ms=None, own_limit=None))
        told = await call(bus, "work_fail", lease=old, entry_ids=[entry_id], action="release")
        assert told[outcome] == [entry_id]


@pytest.mark.settings(SETTINGS)
async def test_creating_a_group_that_exists_changes_no_limit_and_says_so(bus: Bus) -> None:
    await add(bus)
    first = await call(bus, "group_create", **GROUP, max_deliveries=3)
    again = await call(bus, "group_create", **GROUP, max_deliveries=3)
    other = await call(bus, "group_create", **GROUP, max_deliveries=8)
    plain = await call(bus, "group_create", **GROUP)
    default = await call(bus, "group_create", stream="s", group="h")
    assert (first["created"], first["max_deliveries"], "warning" in first) == (True, 3, False)
    assert (again["created"], again["max_deliveries"], "warning" in again) == (False, 3, False)
    assert (other["created"], other["max_deliveries"]) == (False, 3)
    assert "max_deliveries=8 was not used: the group's is 3." in other["warning"]
    assert (plain["max_deliveries"], "warning" in plain) == (3, False)
    assert default["max_deliveries"] == SETTING


@pytest.mark.settings(SETTINGS)
async def test_setting_the_limit_shows_before_and_after_and_needs_a_group(bus: Bus, server: Server) -> None:
    await call(bus, "group_create", **GROUP)
    plan = await manage(bus, "set_max_deliveries", max_deliveries=2, dry_run=True)
    assert server.command("EXISTS", ABOUT) == 0
    done = await manage(bus, "set_max_deliveries", max_deliveries=2)
    more = await manage(bus, "set_max_deliveries", max_deliveries=0)
    missing = await refusal(bus, "group_manage", **GROUP, action="set_max_deliveries")
    nobody = await refusal(
        bus, "group_manage", stream="s", group="h", action="set_max_deliveries", max_deliveries=1
    )
    other = await refusal(bus, "group_manage", **GROUP, action="destroy", max_deliveries=1)
    assert plan["dry_run"] is True
    assert plan["effect"] == done["effect"] == {"max_deliveries": 2, "max_deliveries_before": SETTING}
    assert "min_deliveries 2" in plan["note"]
    assert more["effect"] == {"max_deliveries": 0, "max_deliveries_before": 2}
    assert "note" not in more
    assert "max_deliveries is missing" in missing["message"]
    assert nobody["code"] == "GROUP_NOT_FOUND"
    assert "takes no max_deliveries" in other["message"]


@pytest.mark.parametrize("made_by", ["work_take", "group_create"])
@pytest.mark.parametrize("gone", ["destroyed", "stream deleted", "destroyed by another program"])
@pytest.mark.settings(SETTINGS)
async def test_what_a_group_of_the_same_name_left_does_not_count(
    bus: Bus, server: Server, gone: str, made_by: str
) -> None:
    await call(bus, "group_create", **GROUP, max_deliveries=1)
    if gone == "destroyed":
        await manage(bus, "destroy")
        assert server.command("EXISTS", ABOUT) == 0
    elif gone == "stream deleted":
        await call(bus, "stream_manage", stream="s", action="delete", dry_run=False)
        assert server.command("EXISTS", ABOUT) == 0
    else:
        server.command("XGROUP", "DESTROY", "s", "g")
    if made_by == "group_create":
        created = await call(bus, "group_create", **GROUP)
        assert created["max_deliveries"] == SETTING
    else:
        assert (await take(bus))["group_created"] is True
    await add(bus)
    await take(bus)
    all_due(server)
    assert (await take(bus))["entries"][0]["attempt"] == 2


@pytest.mark.parametrize("written", ["x", "-1", "1.5", "1e300", "nan", "", "99999999999"])
@pytest.mark.settings(SETTINGS)
async def test_a_limit_that_is_none_counts_as_not_set(bus: Bus, server: Server, written: str) -> None:
    await add(bus)
    await take(bus)
    server.command("HSET", ABOUT, "max_deliveries", written)
    all_due(server)
    low = await take(bus, max_deliveries=1)
    plan = await manage(bus, "set_max_deliveries", max_deliveries=2, dry_run=True)
    assert f"the group's is {SETTING}." in low["warning"]
    assert plan["effect"]["max_deliveries_before"] == SETTING


async def test_a_diagnosis_goes_by_the_groups_limit(bus: Bus, server: Server) -> None:
    await add(bus)
    await call(bus, "group_create", **GROUP, max_deliveries=3)
    await deliver(bus, server, 3)
    told = await call(bus, "stream_health", stream="s", detail="full")
    # By the setting, which is 10, nothing would be near its end.
    await manage(bus, "set_max_deliveries", max_deliveries=10)
    calm = await call(bus, "stream_health", stream="s")
    (finding,) = [one for one in told["findings"] if one["code"] == "failing_entries"]
    assert "after 3 deliveries" in finding["cause"]
    assert finding["next_call"]["arguments"]["min_deliveries"] == 3
    assert [line["max_deliveries"] for line in told["groups"]] == [3]
    assert not [one for one in calm["findings"] if one["code"] == "failing_entries"]
