"""Released entries are available at once, and delayed ones not before they are due.

Each path by which an entry becomes takeable is followed immediately by a take that does not wait; a due time
that lies even a part of a millisecond ahead shows within a few tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.support.calls import call
from tests.support.counts import counts
from tests.support.server_clock import milliseconds
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}
DUE, DEAD = (companion_key("s", kind, "g") for kind in (Kind.DUE, Kind.DEAD))
#: An entry of so many fields returns to its group when it is replayed, instead of being copied.
HUGE = 3_501
#: However often it is delivered.
FOREVER = Settings(leases=LeasesSettings(max_deliveries=0))


async def take(bus: Bus, consumer: str, **how: Any) -> dict[str, Any]:
    return await call(bus, "work_take", **GROUP, consumer=consumer, **how)


async def release(bus: Bus, lease: str, consumer: str) -> None:
    await call(bus, "work_fail", lease=lease, action="release")


async def retry_without_delay(bus: Bus, lease: str, consumer: str) -> None:
    await call(bus, "work_fail", lease=lease, action="retry", delay_seconds=0)


async def remove_the_consumer(bus: Bus, lease: str, consumer: str) -> None:
    how = {"action": "remove_consumer", "consumer": consumer, "pending": "release", "dry_run": False}
    await call(bus, "group_manage", **GROUP, **how)


async def remove_the_consumer_that_released(bus: Bus, lease: str, consumer: str) -> None:
    await release(bus, lease, consumer)
    await remove_the_consumer(bus, lease, consumer)


async def dead_letter_and_replay(bus: Bus, lease: str, consumer: str) -> None:
    await call(bus, "work_fail", lease=lease, action="dead_letter")
    await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)


@pytest.mark.parametrize(
    "path",
    [
        release,
        retry_without_delay,
        remove_the_consumer,
        remove_the_consumer_that_released,
        dead_letter_and_replay,
    ],
    ids=lambda path: path.__name__,
)
@pytest.mark.parametrize("times", counts(40, ci=200, full=1_000))
@pytest.mark.limit(60, times=1)
@pytest.mark.settings(FOREVER)
async def test_what_is_released_is_there_at_once(
    bus: Bus, server: Server, times: int, path: Callable[[Bus, str, str], Awaitable[None]]
) -> None:
    server.command("XADD", "s", "*", "n", "1")
    late = 0
    taken = await take(bus, "c0")
    for n in range(times):
        await path(bus, taken["lease"], f"c{n}")
        taken = await take(bus, f"c{n + 1}")
        if not taken["entries"]:
            late += 1
            taken = await take(bus, f"c{n + 1}", timeout_seconds=5)
    assert f"{late} of {times} came late" == f"0 of {times} came late"


@pytest.mark.parametrize("times", counts(20, ci=25, full=1_000))
@pytest.mark.limit(600)
@pytest.mark.settings(FOREVER)
async def test_a_letter_too_large_to_copy_is_back_at_once(bus: Bus, server: Server, times: int) -> None:
    server.command("XADD", "s", "1-1", *[part for n in range(HUGE) for part in (str(n), "v")])
    for n in range(times):
        taken = await take(bus, f"c{n}")
        assert [entry["id"] for entry in taken["entries"]] == ["1-1"], f"try {n}"
        await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
        done = await call(bus, "dead_letter_replay", **GROUP, action="replay", dry_run=False)
        assert done["replayed"][0]["returned"] == "1-1"


@pytest.mark.settings(FOREVER)
async def test_a_delay_is_never_cut_short(bus: Bus, server: Server) -> None:
    """Not by rounding either: a delay below a millisecond ends with the next one."""
    server.command("XADD", "s", "1-1", "n", "1")
    for n in range(25):
        taken = await take(bus, "c", timeout_seconds=5)
        before = milliseconds(server)
        delay, at_least = ((0.0004, 1), (0.001, 1), (0.0029, 3), (0.0111, 12))[n % 4]
        await call(bus, "work_fail", lease=taken["lease"], delay_seconds=delay)
        assert int(server.command("ZSCORE", DUE, f"given/1-1/{n + 1}")) >= before + at_least


async def test_due_times_are_whole_milliseconds_and_a_mark_says_that_nobody_holds_the_entry(
    bus: Bus, server: Server
) -> None:
    for n in range(1, 5):
        server.command("XADD", "s", f"{n}-1", "n", n)
    taken = await take(bus, "a", count=2)
    await call(bus, "work_fail", lease=taken["lease"], entry_ids=["1-1"], delay_seconds=60)
    await take(bus, "b")
    how = {"action": "remove_consumer", "consumer": "b", "pending": "release", "dry_run": False}
    await call(bus, "group_manage", **GROUP, **how)
    flat = server.command("ZRANGE", DUE, 0, -1, "WITHSCORES")
    due = {member.decode(): float(score) for member, score in zip(flat[::2], flat[1::2], strict=True)}
    assert set(due) == {"1-1/1", "given/1-1/1", "2-1/1", "3-1/1", "given/3-1/1"}
    # The half is the mark of releases up to 0.1.
    for entry_id in ("1-1", "3-1"):
        assert due[f"given/{entry_id}/1"] == due.pop(f"{entry_id}/1") + 0.5
    assert all(score.is_integer() for score in due.values())
    shown = (await call(bus, "pending_list", **GROUP))["entries"]
    assert [("retry_at" in line, "lease_expires" in line) for line in shown] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    # Marks go with their entries, and one without an entry goes when it comes due.
    server.command("ZADD", DUE, 1, "given/9-9/1")
    again = await take(bus, "c", count=10)
    assert [entry["id"] for entry in again["entries"]] == ["3-1", "4-1"]
    await call(bus, "work_done", lease=again["lease"])
    assert set(server.command("ZRANGE", DUE, 0, -1)) == {b"1-1/1", b"given/1-1/1", b"2-1/1"}


async def test_due_times_that_earlier_releases_wrote_are_understood(bus: Bus, server: Server) -> None:
    """There a half millisecond marked a released entry; it is due at its whole millisecond."""
    for n in range(1, 4):
        server.command("XADD", "s", f"{n}-1", "n", n)
    taken = await take(bus, "a", count=3)
    later = milliseconds(server) + 3_600_000
    server.command("ZADD", DUE, f"{later}.5", "1-1/1", f"{milliseconds(server)}.5", "2-1/1")
    # What the attempt gave back then is settled, and is not its consumer's any more.
    retried = await call(bus, "work_fail", lease=taken["lease"], entry_ids=["1-1"], delay_seconds=1)
    done = await call(bus, "work_done", lease=taken["lease"], entry_ids=["1-1"])
    shown = (await call(bus, "pending_list", **GROUP))["entries"]
    at_once = await take(bus, "b")
    mine = await take(bus, "a", resume=True)
    assert (retried["retried"], done["already_done"]) == (["1-1"], ["1-1"])
    assert ["retry_at" in line for line in shown] == [True, True, False]
    assert [entry["id"] for entry in at_once["entries"]] == ["2-1"]
    assert [entry["id"] for entry in mine["entries"]] == ["3-1"]


async def test_a_mark_of_a_group_that_was_set_back_says_nothing_of_a_later_lease(
    bus: Bus, server: Server
) -> None:
    server.command("XADD", "s", "1-1", "n", "1")
    old = await take(bus, "a")
    await call(bus, "work_fail", lease=old["lease"], delay_seconds=3_600)
    server.command("XGROUP", "SETID", "s", "g", "0")
    new = await take(bus, "a")
    assert [(entry["id"], entry["attempt"]) for entry in new["entries"]] == [("1-1", 1)]
    assert server.command("ZCARD", DUE) == 2
    (shown,) = (await call(bus, "pending_list", **GROUP))["entries"]
    done = await call(bus, "work_done", lease=new["lease"])
    assert "lease_expires" in shown
    assert done["done"] == ["1-1"]
    assert server.command("EXISTS", DUE) == 0
