"""Redis is killed under load, again and again: what it acknowledged is there, and there once.

Row 31 of the fault matrix, and row 2 seen from the daemon's tools.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import trio

from redstreamd.redisio.target import Target
from tests.faults.calling import bus_at, by_bus
from tests.support.append_only import drop_torn_transaction
from tests.support.counts import counts
from tests.support.daemon import running_daemon
from tests.support.fair_clock import Clock
from tests.support.history import History, InvalidRun, Told, entries_of
from tests.support.measured import measured
from tests.support.servers import Server, start_redis, start_valkey
from tests.support.waiting import until

PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always")

#: Of each kind: with a key and without.
WRITERS = 8

#: Entries acknowledged between two kills; with fewer there was no load to kill under.
LOAD = 50


@pytest.mark.parametrize("start", [start_redis, start_valkey])
@pytest.mark.parametrize("kills", counts(5, ci=25, full=100))
@pytest.mark.limit(60, kills=5)
async def test_nothing_acknowledged_is_lost_when_redis_is_killed_under_load(
    start: Callable[..., AbstractContextManager[Server]], rng: random.Random, kills: int
) -> None:
    history = History()
    acknowledged = 0
    stopping = False

    with start(*PERSISTENT) as server:
        async with bus_at(Target(path=server.path)) as bus:
            add = by_bus(bus, "s")
            numbers = iter(range(10**9))

            async def write(keyed: bool) -> None:
                nonlocal acknowledged
                for number in numbers:
                    if stopping:
                        return
                    line = await (history.add_with_key if keyed else history.add)(add, number)
                    if line.told is Told.ACKNOWLEDGED:
                        acknowledged += 1
                    else:
                        await trio.sleep(0.02)  # Redis is away; do not fill the history with refusals

            async with trio.open_nursery() as writing:
                for writer in range(2 * WRITERS):
                    writing.start_soon(write, writer % 2 == 0)
                killed = 0
                # They are killed in the middle of it: some writers are left without an answer. One kill may
                # fall between the answers of one turn and the requests of the next; all of them do not.
                while killed < kills or history.count(Told.UNKNOWN) == 0 or not repeated(history):
                    killed += 1
                    before = acknowledged
                    with trio.move_on_after(60) as patience:
                        await until(lambda before=before: acknowledged >= before + LOAD)
                    if patience.cancelled_caught:
                        raise InvalidRun(f"{acknowledged - before} acknowledged in a minute")
                    await trio.sleep(rng.uniform(0.0, 0.05))
                    history.fault("kill")
                    removed = await trio.to_thread.run_sync(server.kill)
                    history.fault(f"start without {removed!r}" if removed else "start")
                    await trio.to_thread.run_sync(server.start)
                    history.fault("started")
                stopping = True
        history.judge(entries_of(server, "s"), acknowledged=kills * LOAD)
    print(
        f"{killed} kills, {acknowledged} acknowledged, {history.count(Told.UNKNOWN)} unknown, "
        f"{repeated(history)} repeated by their writers"
    )


def repeated(history: History) -> int:
    """Return how many entries were added by a writer who had called more than once."""
    return sum(line.attempts > 1 for line in history.lines.values())


@pytest.mark.parametrize("times", counts(3, ci=25, full=100))
def test_the_daemon_serves_again_soon_after_redis_does(times: int, rng: random.Random, clock: Clock) -> None:
    """The cap of the pause between two attempts is 2 s, whatever the outage lasted."""
    with start_redis() as server, running_daemon(server) as daemon:
        daemon.call("stream_add", stream="orders:new:stream", entries=[{"n": 1}])
        for _ in range(times):
            server.stop()
            down_until = time.monotonic() + rng.uniform(0.0, 3.0)
            answer = daemon.call("stream_add", stream="orders:new:stream", entries=[{"n": 1}])
            assert answer["structuredContent"]["code"] == "CONNECTION_ERROR"
            while time.monotonic() < down_until:
                assert daemon.call("stream_list")["isError"]
                time.sleep(0.05)
            server.start()
            began = clock()
            while daemon.call("stream_list")["isError"]:
                with measured:
                    assert clock() - began < 2.5
                time.sleep(0.01)
            with measured:
                assert clock() - began < 2.5
        assert daemon.process.poll() is None


@pytest.mark.parametrize(
    ("start", "is_mended", "entries"),
    [(start_redis, True, 1), (start_redis, False, 2), (start_valkey, False, 1)],
)
def test_a_transaction_written_in_part_comes_back_with_redis_unless_it_is_removed(
    start: Callable[..., AbstractContextManager[Server]], is_mended: bool, entries: int
) -> None:
    """What the other tests remove, and docs/reliability.md tells to: it is Redis that executes it later."""
    script = "redis.call('XADD', KEYS[1], '*', 'n', ARGV[1]) redis.call('SET', KEYS[2], ARGV[1])"

    def add(number: str) -> None:
        server.command("EVAL", script, "2", "s", "key", number)

    with start(*PERSISTENT) as server:
        add("1")
        server.kill()
        [path] = server.directory.glob("**/appendonly*.incr.aof")
        data = path.read_bytes()
        # The kill fell into the write of the second command.
        path.write_bytes(data[: data.rindex(b"SET")])
        if is_mended:
            drop_torn_transaction(server.directory)
        server.start()
        assert (server.command("XLEN", "s"), server.command("GET", "key")) == (0, None)
        add("2")
        server.kill()
        server.start()
        assert server.command("XLEN", "s") == entries
