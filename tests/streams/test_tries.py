"""What a dead letter tells of the deliveries before: who had the entry, when, and how each of them ended."""

from __future__ import annotations

from typing import Any

import pytest

from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams import entry_ids
from redstreamd.streams.bus import Bus
from redstreamd.streams.names import Kind, companion_key
from tests.support.calls import call
from tests.support.servers import Server

GROUP = {"stream": "s", "group": "g"}
TRIES, DUE = (companion_key("s", kind, "g") for kind in (Kind.TRIES, Kind.DUE))


async def take(bus: Bus, consumer: str, **how: Any) -> dict[str, Any]:
    """Take the one entry there is."""
    taken = await call(bus, "work_take", **GROUP, consumer=consumer, timeout_seconds=5, **how)
    assert len(taken["entries"]) == 1
    return taken


async def let_run_out(bus: Bus, server: Server) -> None:
    """Let every lease run out now."""
    for member in server.command("ZRANGE", DUE, 0, -1):
        server.command("ZADD", DUE, 1, member)


async def letter(bus: Bus) -> dict[str, Any]:
    """Return the note of the one dead letter there is."""
    listed = await call(bus, "dead_letter_replay", **GROUP)
    (entry,) = listed["entries"]
    note: dict[str, Any] = entry["dead_letter"]
    return note


@pytest.mark.settings(Settings(leases=LeasesSettings(max_deliveries=5, foreign_idle_seconds=0.001)))
async def test_a_dead_letter_tells_how_each_delivery_ended(bus: Bus, server: Server) -> None:
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    began = (await bus.lister.position("s")).now  # type: ignore[union-attr]
    taken = await take(bus, "a")
    await call(bus, "work_fail", lease=taken["lease"], reason="no paper", action="release")
    await take(bus, "b")
    await let_run_out(bus, server)
    await take(bus, "c")
    await take(bus, "c", resume=True)
    (entry_id,) = (held[0] for held in server.command("XPENDING", "s", "g", "-", "+", 1))
    server.command("XCLAIM", "s", "g", "cli", 0, entry_id, "RETRYCOUNT", 5, "IDLE", 60_000)
    taken = await call(bus, "work_take", **GROUP, consumer="d")
    assert (taken["entries"], taken["dead_lettered"]) == ([], 1)
    note = await letter(bus)
    assert (note["reason"], note["attempts"], note["consumer"]) == ("max_deliveries", 5, "cli")
    told = [(each["attempt"], each["consumer"], each["reason"]) for each in note["history"]]
    assert told == [
        (1, "a", "no paper"),
        (2, "b", "lease ran out"),
        (3, "c", "resumed"),
        (5, "cli", "left pending by another program"),
    ]
    times = [each["time"] for each in note["history"]]
    assert times == sorted(times)
    assert times[0] >= entry_ids.iso_time(began)
    assert server.command("EXISTS", TRIES) == 0


async def test_work_that_is_given_up_tells_what_was_tried_before(bus: Bus) -> None:
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    for reason in ("timeout", ""):
        taken = await take(bus, "a")
        await call(bus, "work_fail", lease=taken["lease"], action="release", reason=reason)
    taken = await take(bus, "b")
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter", reason="never works")
    note = await letter(bus)
    assert note["reason"] == "never works"
    assert [(each["attempt"], each.get("reason")) for each in note["history"]] == [(1, "timeout"), (2, None)]


async def test_an_entry_that_never_failed_has_no_history(bus: Bus, server: Server) -> None:
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    taken = await take(bus, "a")
    await call(bus, "work_extend", lease=taken["lease"])
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    assert "history" not in await letter(bus)
    assert server.command("EXISTS", TRIES) == 0


@pytest.mark.parametrize("end", ["done", "acknowledged elsewhere", "destroyed", "deleted"])
async def test_what_is_finished_leaves_no_history_behind(bus: Bus, server: Server, end: str) -> None:
    (entry_id,) = (await call(bus, "stream_add", stream="s", entries=[{"n": 1}]))["ids"]
    taken = await take(bus, "a")
    await call(bus, "work_fail", lease=taken["lease"], action="release", reason="no paper")
    assert server.command("ZCARD", TRIES) == 1
    # What nobody finishes goes by itself, long after any retry could have been.
    assert 30 * 86_400_000 < server.command("PTTL", TRIES) <= 60 * 86_400_000
    if end == "done":
        await call(bus, "work_done", lease=(await take(bus, "b"))["lease"])
    elif end == "acknowledged elsewhere":
        server.command("XACK", "s", "g", entry_id)
        assert (await call(bus, "work_take", **GROUP, consumer="b"))["entries"] == []
    elif end == "destroyed":
        await call(bus, "group_manage", **GROUP, action="destroy", dry_run=False)
    else:
        await call(bus, "stream_manage", stream="s", action="delete", force=True, dry_run=False)
    assert server.command("EXISTS", TRIES) == 0


@pytest.mark.settings(Settings(leases=LeasesSettings(max_deliveries=0)))
async def test_a_history_is_bounded_and_cut_between_characters(bus: Bus) -> None:
    await call(bus, "stream_add", stream="s", entries=[{"n": 1}])
    for n in range(25):
        taken = await take(bus, "a")
        reason = "x" * n + "\N{SNOWMAN}" * 100
        await call(bus, "work_fail", lease=taken["lease"], action="release", reason=reason)
    taken = await take(bus, "a")
    await call(bus, "work_fail", lease=taken["lease"], action="dead_letter")
    history = (await letter(bus))["history"]
    assert [each["attempt"] for each in history] == list(range(6, 26))
    for n, each in enumerate(history, start=5):
        assert each["reason"].rstrip("\N{SNOWMAN}") == "x" * n
        assert 190 <= len(each["reason"].encode()) <= 200


async def test_entries_whose_ids_begin_alike_have_each_their_own(bus: Bus, server: Server) -> None:
    ids = ["1-1", "1-10", "11-1"]
    for entry_id in ids:
        server.command("XADD", "s", entry_id, "n", "1")
    taken = await call(bus, "work_take", **GROUP, consumer="a", count=3)
    for entry_id in ids:
        await call(
            bus,
            "work_fail",
            lease=taken["lease"],
            entry_ids=[entry_id],
            action="release",
            reason=f"of {entry_id}",
        )
    taken = await call(bus, "work_take", **GROUP, consumer="a", count=3)
    await call(bus, "work_done", lease=taken["lease"], entry_ids=["1-1"])
    await call(bus, "work_fail", lease=taken["lease"], entry_ids=ids[1:], action="dead_letter")
    listed = (await call(bus, "dead_letter_replay", **GROUP))["entries"]
    notes = [entry["dead_letter"] for entry in listed]
    assert {note["id"]: [each["reason"] for each in note["history"]] for note in notes} == {
        "1-10": ["of 1-10"],
        "11-1": ["of 11-1"],
    }


async def test_a_forged_note_is_shown_as_it_is(bus: Bus, server: Server) -> None:
    dead = companion_key("s", Kind.DEAD, "g")
    forged = '{"history": [1, {"at": "soon"}, {"at": 1e300}, {"at": 9007199254740991}, {"at": 0}]}'
    server.command("XADD", dead, "*", "n", "1", "_rs.dead", forged)
    server.command("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
    history = (await letter(bus))["history"]
    assert history[:2] == [1, {"at": "soon"}]
    assert history[-1] == {"time": "1970-01-01T00:00:00.000Z"}
