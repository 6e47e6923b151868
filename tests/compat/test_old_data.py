"""What an earlier release wrote is read and finished: entries, leases, dead letters, records, cursors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from redstreamd.errors import Code
from redstreamd.settings import LeasesSettings, Settings
from redstreamd.streams.bus import Bus
from tests.compat.compare import differences
from tests.compat.make_fixture import SHAPES
from tests.compat.old_data import DATA, OldData
from tests.support.buses import running_bus
from tests.support.calls import refusal
from tests.support.daemon import home, running_daemon
from tests.support.server_clock import next_millisecond
from tests.support.servers import Server

PATIENCE = 30
GROUP = "workers"


@pytest.fixture(params=sorted(path.name for path in DATA.iterdir()))
def old(request: pytest.FixtureRequest) -> OldData:
    """The data of each release that is kept."""
    return OldData.of(request.param)


@asynccontextmanager
async def loaded(
    old: OldData, server: Server, *, later_seconds: float = 0, settings: Settings | None = None
) -> AsyncIterator[Bus]:
    """Load the data and run the domain of the present version on it, with the old lease key."""
    old.load(server, later_seconds=later_seconds)
    async with running_bus(server, settings, old.key) as bus:
        yield bus


async def take(old: OldData, bus: Bus, case: str, consumer: str = "carol", **more: Any) -> dict[str, Any]:
    """Take up to ten entries of a case's stream."""
    arguments = {"stream": case, "group": GROUP, "consumer": consumer, "count": 10} | more
    return await old.call(bus, "work_take", **arguments)


def taken(answer: dict[str, Any]) -> dict[str, int]:
    """Return the attempt of each entry that a take returned."""
    return {entry["id"]: entry["attempt"] for entry in answer["entries"]}


def pending(server: Server, stream: str) -> int:
    """Return how many entries are not finished, as the server itself counts them."""
    count: int = server.command("XPENDING", stream, GROUP)[0]
    return count


def settled(answer: dict[str, Any], **expected: Sequence[str]) -> None:
    """Check that the entries of a settlement are named in these lists, and in no others."""
    lists = ("done", "extended", "retried", "dead_lettered", "already_done", "lost")
    assert {name: answer[name] for name in lists if answer.get(name)} == expected


async def all_lost(old: OldData, bus: Bus, lease: str, **arguments: Any) -> None:
    """Check that nothing of a lease can be settled any more, because another attempt owns it."""
    failed = await refusal(bus, "work_done", old.principal, lease=lease, **arguments)
    assert failed["code"] == Code.LEASE_LOST


async def test_every_entry_is_read_as_it_was_written(old: OldData, server: Server) -> None:
    async with loaded(old, server) as bus:
        read = await old.repeat(bus, "entries.read")
    assert differences(old.answer("entries.read"), read, {}) == []
    by_id = {entry["id"]: entry for entry in read["entries"]}
    for name, shape in SHAPES.items():
        (entry_id,) = old.ids(f"entries.{name}")
        assert by_id[entry_id]["fields"] == shape
        assert by_id[entry_id]["sender"] == old.principal.name
    assert not any(
        "sender" in by_id[old.about["stored"][f"entries.{name}"]] for name in ("foreign", "claims")
    )


async def test_the_token_of_a_lease_that_runs_settles_its_entries(old: OldData, server: Server) -> None:
    stream, lease = "compat:work:running", old.lease("running.take")
    a, b, c, d = old.ids("running.add")
    async with loaded(old, server) as bus:
        assert taken(await take(old, bus, stream)) == {}
        settled(await old.call(bus, "work_done", lease=lease, entry_ids=[a]), done=[a])
        settled(await old.call(bus, "work_done", lease=lease, entry_ids=[a]), already_done=[a])
        settled(
            await old.call(bus, "work_extend", lease=lease, lease_seconds=7200, entry_ids=[b]), extended=[b]
        )
        returned = await old.call(bus, "work_fail", lease=lease, action="release", entry_ids=[c])
        settled(returned, retried=[c])
        refused = await old.call(
            bus, "work_fail", lease=lease, action="dead_letter", entry_ids=[d], reason="no"
        )
        settled(refused, dead_lettered=[d])
        next_millisecond(server)
        again = await take(old, bus, stream)
        assert taken(again) == {c: 2}
        await all_lost(old, bus, lease, entry_ids=[c])
        settled(await old.call(bus, "work_done", lease=again["lease"]), done=[c])
        settled(await old.call(bus, "work_done", lease=lease), done=[b], already_done=[a, c, d])
    assert pending(server, stream) == 0


async def test_a_take_with_the_same_key_returns_what_it_returned(old: OldData, server: Server) -> None:
    before = old.answer("running.take")
    async with loaded(old, server) as bus:
        again = await old.repeat(bus, "running.take")
        assert again["duplicate"] is True
        assert differences(before["entries"], again["entries"], {}) == []
        settled(await old.call(bus, "work_done", lease=again["lease"]), done=old.ids("running.add"))
        settled(await old.call(bus, "work_done", lease=before["lease"]), already_done=old.ids("running.add"))
    assert pending(server, "compat:work:running") == 0


async def test_a_lease_that_ran_out_is_finished_late_or_taken_over(old: OldData, server: Server) -> None:
    stream, lease = "compat:work:expired", old.lease("expired.take")
    late, lost = old.ids("expired.add")
    async with loaded(old, server) as bus:
        settled(await old.call(bus, "work_done", lease=lease, entry_ids=[late]), done=[late])
        over = await take(old, bus, stream)
        assert taken(over) == {lost: 2}
        settled(await old.call(bus, "work_done", lease=lease), already_done=[late], lost=[lost])
        settled(await old.call(bus, "work_done", lease=over["lease"]), done=[lost])
    assert pending(server, stream) == 0


async def test_a_lease_runs_out_at_the_time_that_was_told(old: OldData, server: Server) -> None:
    stream = "compat:work:running"
    async with loaded(old, server, later_seconds=3500) as bus:
        assert taken(await take(old, bus, stream)) == {}
    async with loaded(old, server, later_seconds=3700) as bus:
        assert taken(await take(old, bus, stream)) == dict.fromkeys(old.ids("running.add"), 2)


async def test_a_consumer_resumes_what_it_held(old: OldData, server: Server) -> None:
    stream, ids = "compat:work:resume", old.ids("resume.add")
    async with loaded(old, server) as bus:
        resumed = await take(old, bus, stream, "alice", resume=True)
        assert taken(resumed) == dict.fromkeys(ids, 2)
        await all_lost(old, bus, old.lease("resume.take"))
        settled(await old.call(bus, "work_done", lease=resumed["lease"]), done=ids)
    assert pending(server, stream) == 0


async def test_what_was_put_off_is_taken_when_it_is_due_and_not_before(old: OldData, server: Server) -> None:
    stream = "compat:work:putoff"
    later, soon = old.ids("putoff.add")
    async with loaded(old, server, later_seconds=300) as bus:
        # It is nobody's: whoever held it does not resume it, and cannot settle it any more.
        resumed = await take(old, bus, stream, "alice", resume=True)
        assert taken(resumed) == {}
        settled(await old.call(bus, "work_done", lease=old.lease("putoff.take")), already_done=[later, soon])
        assert taken(await take(old, bus, stream)) == {soon: 2}
        listed = await old.call(bus, "pending_list", stream=stream, group=GROUP)
        kinds = {entry["id"]: entry.keys() & {"retry_at", "lease_expires"} for entry in listed["entries"]}
        assert kinds == {later: {"retry_at"}, soon: {"lease_expires"}}
    async with loaded(old, server, later_seconds=700) as bus:
        both = await take(old, bus, stream)
        assert taken(both) == {later: 2, soon: 2}
        fail = {"lease": both["lease"], "action": "dead_letter", "reason": "never"}
        settled(await old.call(bus, "work_fail", **fail, entry_ids=[later]), dead_lettered=[later])
        settled(await old.call(bus, "work_done", lease=both["lease"]), done=[soon], already_done=[later])
        (letter,) = (await old.call(bus, "dead_letter_replay", stream=stream, group=GROUP))["entries"]
    # What the old release noted of the first delivery is told with the letter.
    (first,) = letter["dead_letter"]["history"]
    assert (first["attempt"], first["consumer"], first["reason"]) == (1, "alice", "not yet \u00e4")
    assert letter["dead_letter"]["attempts"] == 2
    assert pending(server, stream) == 0


@pytest.mark.parametrize("case", ["released", "removed"])
async def test_what_was_released_is_taken_at_once(old: OldData, server: Server, case: str) -> None:
    stream, ids = f"compat:work:{case}", old.ids(f"{case}.add")
    async with loaded(old, server) as bus:
        again = await take(old, bus, stream)
        assert taken(again) == dict.fromkeys(ids, 2)
        await all_lost(old, bus, old.lease(f"{case}.take"))
        settled(await old.call(bus, "work_done", lease=again["lease"]), done=ids)
    assert pending(server, stream) == 0


async def test_dead_letters_are_listed_with_their_history_replayed_and_finished(
    old: OldData, server: Server
) -> None:
    stream = "compat:work:dead"
    async with loaded(old, server) as bus:
        listed = await old.repeat(bus, "dead.list")
        assert differences(old.answer("dead.list"), listed, {}) == []
        replay = {"stream": stream, "group": GROUP, "action": "replay"}
        replayed = await old.call(bus, "dead_letter_replay", **replay, dry_run=False)
        letters = [entry["id"] for entry in listed["entries"]]
        assert [each["id"] for each in replayed["replayed"]] == letters
        again = await take(old, bus, stream)
        for new, letter in zip(again["entries"], listed["entries"], strict=True):
            assert new["attempt"] == 1
            for part in ("fields", "sender", "correlation_id"):
                assert new[part] == letter[part]
        assert list(taken(again)) == [each["new_id"] for each in replayed["replayed"]]
        await old.call(bus, "work_done", lease=again["lease"])
        assert (await old.repeat(bus, "dead.list"))["total"] == 0
    assert pending(server, stream) == 0


async def test_a_dead_letter_whose_fields_stayed_in_the_stream_is_pending_again(
    old: OldData, server: Server
) -> None:
    stream, original = "compat:work:large", old.about["stored"]["large"]
    async with loaded(old, server) as bus:
        replay = {"stream": stream, "group": GROUP, "action": "replay", "dry_run": False}
        (replayed,) = (await old.call(bus, "dead_letter_replay", **replay))["replayed"]
        assert replayed["returned"] == original
        next_millisecond(server)
        again = await take(old, bus, stream)
        assert taken(again) == {original: 1}
        settled(await old.call(bus, "work_done", lease=again["lease"]), done=[original])
    assert pending(server, stream) == 0


async def test_the_last_delivery_of_an_entry_becomes_a_dead_letter_that_tells_all(
    old: OldData, server: Server
) -> None:
    stream = "compat:work:last"
    settings = Settings(leases=LeasesSettings(max_deliveries=2))
    async with loaded(old, server, settings=settings) as bus:
        again = await take(old, bus, stream)
        assert (taken(again), again["dead_lettered"]) == ({}, 1)
        settled(
            await old.call(bus, "work_done", lease=old.lease("last.take1")), already_done=old.ids("last.add")
        )
        (letter,) = (await old.call(bus, "dead_letter_replay", stream=stream, group=GROUP))["entries"]
    history = letter["dead_letter"]["history"]
    assert [(each["attempt"], each["consumer"]) for each in history] == [(1, "alice"), (2, "bob")]
    assert history[0]["reason"] == "once"
    assert letter["fields"] == old.arguments("last.add")["entries"][0]
    assert pending(server, stream) == 0


async def test_what_another_program_left_is_taken_besides_what_is_new(old: OldData, server: Server) -> None:
    stream = "compat:work:foreign"
    theirs, new = old.ids("foreign.add")
    async with loaded(old, server) as bus:
        idle = server.command("XPENDING", stream, GROUP, "-", "+", 1)[0][2]
        if idle < 3_600_000:
            # Only where the clock is behind the time of the save.
            words = ("IDLE", 3_600_000, "RETRYCOUNT", 3, "JUSTID")
            server.command("XCLAIM", stream, GROUP, "cli", 0, theirs, *words)
        both = await take(old, bus, stream)
        assert taken(both) == {theirs: 4, new: 1}
        settled(await old.call(bus, "work_done", lease=both["lease"]), done=[theirs, new])
    assert pending(server, stream) == 0


@pytest.mark.parametrize("name", ["repeated.add", "repeated.stamped", "repeated.trimmed"])
async def test_an_add_with_the_same_key_adds_nothing(old: OldData, server: Server, name: str) -> None:
    stream = "compat:repeated:adds"
    async with loaded(old, server) as bus:
        length = server.command("XLEN", stream)
        again = await old.repeat(bus, name)
        assert (again["ids"], again["duplicate"]) == (old.ids(name), True)
        other = old.arguments(name) | {"entries": [{"another": "body"}]}
        assert (await refusal(bus, "stream_add", old.principal, **other))["code"] == Code.INVALID_ARGUMENT
        assert server.command("XLEN", stream) == length
    async with loaded(old, server, later_seconds=86_400) as bus:
        assert (await old.repeat(bus, name))["duplicate"] is False


async def test_an_answered_request_is_answered_again(old: OldData, server: Server) -> None:
    reply_id = old.answer("answered.done")["reply"]["id"]
    async with loaded(old, server) as bus:
        asked = await old.repeat(bus, "answered.ask")
        assert (asked["answered"], asked["resumed"]) == (True, True)
        assert asked["request_id"] == old.answer("answered.ask")["request_id"]
        assert (asked["reply"]["id"], asked["reply"]["fields"]) == (reply_id, {"answer": 42})
        done = await old.repeat(bus, "answered.done")
        settled(done, already_done=[asked["request_id"]])
        assert (done["reply"]["id"], done["reply"]["duplicate"]) == (reply_id, True)
        # The late reply is read by the call that the old release named.
        late = await old.call(bus, "stream_wait", **old.answer("answered.ask")["next_call"]["arguments"])
        assert [entry["id"] for entry in late["entries"]] == [reply_id]


@pytest.mark.parametrize("case", ["open", "own"])
async def test_a_request_under_work_is_answered_with_the_old_token(
    old: OldData, server: Server, case: str
) -> None:
    async with loaded(old, server) as bus:
        waiting = await old.repeat(bus, f"{case}.ask")
        assert (waiting["answered"], waiting["resumed"]) == (False, True)
        done = await old.call(bus, "work_done", lease=old.lease(f"{case}.take"), reply={"ok": True})
        settled(done, done=[waiting["request_id"]])
        assert done["reply"]["stream"] == waiting["reply_to"]
        asked = await old.repeat(bus, f"{case}.ask")
        assert (asked["answered"], asked["reply"]["fields"]) == (True, {"ok": True})
    assert pending(server, f"compat:requests:{case}") == 0


async def test_reading_goes_on_from_old_cursors(old: OldData, server: Server) -> None:
    first, second = old.ids("cursors.first"), old.ids("cursors.second")

    async def after(name: str, member: str = "entries", key: str = "id", **changes: Any) -> list[str]:
        cursor = old.answer(name)["next_cursor"]
        answer = await old.repeat(bus, name, cursor=cursor, count=10, **changes)
        return [each[key] for each in answer[member]]

    async with loaded(old, server) as bus:
        assert await after("cursors.read") == first[2:]
        assert await after("cursors.backward") == first[1::-1]
        assert sorted(await after("cursors.wait")) == sorted([*first[2:], *second[1:]])
        assert await after("cursors.list", "streams", "stream") == ["compat:cursors:second"]
        assert await after("cursors.pending") == first[1:3]
        assert await after("cursors.dead") == [old.answer("dead.list")["entries"][1]["id"]]


async def test_what_was_finished_stays_finished(old: OldData, server: Server) -> None:
    async with loaded(old, server) as bus:
        settled(await old.repeat(bus, "finished.done"), already_done=old.ids("finished.add"))
        assert taken(await old.repeat(bus, "finished.take")) == {}


async def test_once_every_lease_ran_out_all_work_is_taken_and_finished(old: OldData, server: Server) -> None:
    async with loaded(old, server, later_seconds=4000) as bus:
        streams = [key.decode() for key in server.command("KEYS", "compat:*") if b":rs:" not in key]
        groups = [stream for stream in sorted(streams) if server.command("XINFO", "GROUPS", stream)]
        held = {stream: pending(server, stream) for stream in groups}
        assert sum(held.values()) >= 15
        for stream in groups:
            found: dict[str, int] = {}
            while taken(answer := await take(old, bus, stream)):
                found |= taken(answer)
                settled(await old.call(bus, "work_done", lease=answer["lease"]), done=list(taken(answer)))
            assert sum(attempt > 1 for attempt in found.values()) == held[stream]
            assert pending(server, stream) == 0


def test_the_daemon_finishes_the_work_of_the_one_before(old: OldData, redis: Server) -> None:
    old.load(redis)
    key = (old.directory / "lease.key").read_bytes()
    with home() as place:
        kept = place / "state" / "redstreamd" / "lease.key"
        kept.parent.mkdir(parents=True, mode=0o700)
        kept.write_bytes(key)
        kept.chmod(0o600)
        with running_daemon(redis, directory=place) as daemon:
            done = daemon.call("work_done", lease=old.lease("running.take"))["structuredContent"]
            added = daemon.call("stream_add", **old.arguments("repeated.add"))["structuredContent"]
        assert kept.read_bytes() == key
    assert done["done"] == old.ids("running.add")
    assert (added["ids"], added["duplicate"]) == (old.ids("repeated.add"), True)
    assert pending(redis, "compat:work:running") == 0
