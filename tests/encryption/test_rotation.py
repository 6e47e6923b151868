"""Several daemons share a ring: keys are changed under load, and one that a daemon lacks stops nobody.

Each daemon has a directory of keys and a settings file of its own, as on a host of its own, and reloads when
its operator gets round to it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.daemon.test_reload import Reloaded, reloading
from tests.encryption.opened import opened_entries, sealed_with
from tests.encryption.rings import KeyDirectory
from tests.faults.calling import by_tool, tool
from tests.support.history import History, Told
from tests.support.mcp_client import RawClient, raw_client
from tests.support.servers import Server
from tests.support.waiting import until

STREAM, GROUP = "shop:orders:paid", "shipping"
RULE = "shop:* are encrypted with names"


@attrs.define
class Host:
    """A daemon with its keys."""

    keys: KeyDirectory
    run: Reloaded

    async def reload(self, writing_key: str) -> list[str]:
        """Change the settings file, and reload; what was read again is in force when this returns.

        Return what has changed.
        """
        report = await self.run.reload_beside(self.keys.section(writing_key, RULE))
        assert report["refusal"] is None, report
        changed: list[str] = report["changed"]
        return changed


@pytest.fixture
def hosts(redis: Server, tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Two daemons on one Redis, with the same key."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("here", "there"):
            keys = KeyDirectory(tmp_path / name)
            if made:
                made[0].keys.copy_to(keys, "k0")
            else:
                keys.make("k0")
            run = stack.enter_context(reloading(redis, keys.section("k0", RULE)))
            made.append(Host(keys, run))
        yield made[0], made[1]


@contextlib.asynccontextmanager
async def client_of(host: Host) -> AsyncIterator[RawClient]:
    async with raw_client(host.run.daemon.path, era="modern") as client:
        yield client


@pytest.mark.parametrize("rotations", [3])
@pytest.mark.limit(120)
async def test_keys_are_changed_under_load_and_nothing_is_lost_or_unreadable(
    redis: Server, hosts: tuple[Host, Host], rotations: int
) -> None:
    history = History()
    numbers = itertools.count()
    acknowledged = dict.fromkeys(range(len(hosts)), 0)
    read: list[list[str]] = [[] for _ in hosts]
    unreadable: list[dict[str, Any]] = []
    stopping = False

    async def write(number: int, *, keyed: bool) -> None:
        async with client_of(hosts[number]) as client:
            while not stopping:
                add = by_tool(client, STREAM)
                line = await (history.add_with_key if keyed else history.add)(add, next(numbers))
                acknowledged[number] += line.told is Told.ACKNOWLEDGED

    async def follow(number: int) -> None:
        cursor = "0-0"
        async with client_of(hosts[number]) as client:
            while True:
                last = stopping and not writers.child_tasks
                waiting = {"streams": [STREAM], "cursor": cursor, "count": 100, "timeout_seconds": 0.2}
                got = await tool(client, "stream_wait", **waiting)
                cursor = got["next_cursor"]
                read[number] += [entry["id"] for entry in got["entries"]]
                unreadable.extend(entry for entry in got["entries"] if "unreadable" in entry)
                if last and not got["entries"]:
                    return

    async def work(number: int) -> None:
        place = {"stream": STREAM, "group": GROUP, "consumer": f"worker-{number}", "count": 10}
        async with client_of(hosts[number]) as client:
            while True:
                last = stopping and not writers.child_tasks
                taken = await tool(client, "work_take", **place, timeout_seconds=0.2)
                unreadable.extend(entry for entry in taken["entries"] if "unreadable" in entry)
                if taken["entries"]:
                    history.finished.update((await tool(client, "work_done", lease=taken["lease"]))["done"])
                elif last:
                    return

    async def more() -> None:
        """Return once each daemon has written some more."""
        before = dict(acknowledged)
        await until(lambda: all(acknowledged[each] >= before[each] + 15 for each in before), every=0.01)

    here, there = hosts
    async with trio.open_nursery() as others, trio.open_nursery() as writers:
        for number in range(len(hosts)):
            writers.start_soon(lambda number=number: write(number, keyed=False))
            writers.start_soon(lambda number=number: write(number, keyed=True))
            others.start_soon(follow, number)
            others.start_soon(work, number)
        for rotation in range(1, rotations + 1):
            before, key = f"k{rotation - 1}", f"k{rotation}"
            # First every host gets the key, one after the other; then it writes, likewise.
            here.keys.make(key)
            await here.reload(before)
            await more()
            here.keys.copy_to(there.keys, key)
            await there.reload(before)
            await more()
            await here.reload(key)
            await more()
            await there.reload(key)
            await more()
        stopping = True

    rings = here.keys.known
    entries = opened_entries(redis, STREAM, here.keys)
    history.judge(entries, acknowledged=rotations * 100)
    ids = [entry_id for entry_id, _ in entries]
    assert not unreadable
    assert read == [ids, ids]
    history.judge_work(ids, pending=redis.command("XPENDING", STREAM, GROUP)[0], finished=len(ids), once=True)
    # It happened: all keys wrote, and for a while both of two keys did.
    keys = [sealed_with(fields) for _, fields in redis.command("XRANGE", STREAM, "-", "+")]
    assert set(keys) == set(rings)
    for rotation in range(1, rotations + 1):
        first_of_new = keys.index(f"k{rotation}")
        assert f"k{rotation - 1}" in keys[first_of_new:], rotation


@pytest.mark.limit(60)
async def test_a_daemon_that_lacks_a_key_says_so_for_each_entry_and_stands_still_for_none(
    redis: Server, hosts: tuple[Host, Host]
) -> None:
    here, there = hosts
    here.keys.make("k1")
    # No setting is another one; the operator reads that the key was found.
    assert await here.reload("k0") == ["encryption.keys"]
    place = {"stream": STREAM, "group": GROUP, "consumer": "c"}
    async with client_of(here) as knows, client_of(there) as lacks:
        await tool(knows, "stream_add", stream=STREAM, entries=[{"n": 1}])
        assert await here.reload("k1") == ["encryption.writing_key"]
        ids = (await tool(knows, "stream_add", stream=STREAM, entries=[{"n": n} for n in range(2, 5)]))["ids"]
        await tool(lacks, "stream_add", stream=STREAM, entries=[{"n": 5}])

        def check(entries: list[dict[str, Any]]) -> None:
            assert [entry["fields"] for entry in entries] == [{"n": 1}, {}, {}, {}, {"n": 5}]
            for entry in entries[1:4]:
                assert entry["unreadable"]["key"] == "k1"
                assert "k1" in entry["unreadable"]["cause"] + entry["unreadable"]["next_step"]

        check((await tool(lacks, "stream_read", stream=STREAM))["entries"])
        waiting = {"streams": [STREAM], "cursor": "0-0", "timeout_seconds": 0}
        check((await tool(lacks, "stream_wait", **waiting))["entries"])
        taken = await tool(lacks, "work_take", **place, count=10)
        check(taken["entries"])
        # Its worker leaves them to one who can read them, and goes on with the others.
        lease = {"lease": taken["lease"]}
        given = await tool(
            lacks, "work_fail", **lease, entry_ids=ids, action="release", reason="cannot be read"
        )
        assert given["retried"] == ids
        assert len((await tool(lacks, "work_done", **lease, entry_ids=None))["done"]) == 2
        again = await tool(knows, "work_take", **place, count=10)
        assert [(entry["fields"], entry["attempt"]) for entry in again["entries"]] == [
            ({"n": n}, 2) for n in range(2, 5)
        ]
        assert (await tool(knows, "work_done", lease=again["lease"]))["done"] == ids
        # Once it has the key, it can read them, too.
        here.keys.copy_to(there.keys, "k1")
        await there.reload("k0")
        read = await tool(lacks, "stream_read", stream=STREAM)
        assert [entry["fields"]["n"] for entry in read["entries"]] == [1, 2, 3, 4, 5]
