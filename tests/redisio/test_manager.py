from __future__ import annotations

import random
import signal

import pytest
import trio
from redis.backoff import ConstantBackoff

from redstreamd.errors import BusError
from redstreamd.redisio import pipeline
from redstreamd.redisio.errors import (
    CommandTimedOut,
    OutcomeUnknown,
    QueueFull,
    RedisUnavailable,
    ServerReplied,
)
from redstreamd.redisio.events import Connected, ConnectFailed, ConnectionLost, RedisEvent
from redstreamd.redisio.manager import Lane, Manager, Replay
from redstreamd.redisio.scripts import Script
from redstreamd.redisio.target import Target
from tests.redisio.running import over_tcp, running_manager, through, until
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Server, free_port, start_redis


def calls(server: Server, command: str) -> int:
    """How often the server has run or refused `command` since CONFIG RESETSTAT."""
    for line in server.command("INFO", "commandstats").decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            fields = dict(pair.split("=") for pair in line.partition(":")[2].split(","))
            return int(fields["calls"]) + int(fields["rejected_calls"])
    return 0


# Lost replies


async def test_a_write_whose_reply_is_lost_is_not_repeated(server: Server) -> None:
    with trio.fail_after(10):
        async with proxy_to(server.path) as proxy, running_manager(through(proxy)) as manager:
            proxy.to_client.cut_after(0)
            with pytest.raises(OutcomeUnknown) as unknown:
                await manager.execute("XADD", "s", "*", "f", "v")
            assert unknown.value.code == "OUTCOME_UNKNOWN"
            assert "XADD was sent" in unknown.value.message
            await manager.wait_connected()
            assert await manager.execute("XLEN", "s", replay=Replay.SAFE) == 1


async def test_a_reset_in_the_middle_of_a_reply_is_a_lost_reply(server: Server) -> None:
    server.command("SET", "large", b"x" * 300_000)
    with trio.fail_after(10):
        async with proxy_to(server.path) as proxy, running_manager(through(proxy)) as manager:
            proxy.to_client.cut_after(100_000)
            with pytest.raises(OutcomeUnknown):
                await manager.execute("GET", "large")
            proxy.to_client.cut_after(100_000)
            assert len(await manager.execute("GET", "large", replay=Replay.SAFE)) == 300_000
            assert proxy.accepted == 3


async def test_a_read_whose_reply_is_lost_is_repeated(server: Server) -> None:
    server.command("SET", "key", "value")
    with trio.fail_after(10):
        async with proxy_to(server.path) as proxy, running_manager(through(proxy)) as manager:
            proxy.to_client.cut_after(0)
            assert await manager.execute("GET", "key", replay=Replay.SAFE) == b"value"
            assert proxy.accepted == 2
    assert calls(server, "get") >= 2


async def test_a_write_that_was_never_sent_is_sent_on_the_next_connection(redis: Server) -> None:
    outcomes: list[BaseException | bytes] = []

    async def add(manager: Manager, stream: str, size: int) -> None:
        try:
            outcomes.append(await manager.execute("XADD", stream, "*", "f", b"x" * size))
        except OutcomeUnknown as unknown:
            outcomes.append(unknown)

    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy, running_manager(through(proxy)) as manager:
            proxy.to_server.hold()
            async with trio.open_nursery() as nursery:
                # More than all buffers on the way hold: the writer gets stuck on it.
                nursery.start_soon(add, manager, "first", 30_000_000)
                await until(lambda: _in_flight(manager) == 1)
                nursery.start_soon(add, manager, "second", 10)
                await until(lambda: _queued(manager) == 1)
                proxy.cut()
                proxy.to_server.release()
            assert isinstance(outcomes[0], OutcomeUnknown)
            assert isinstance(outcomes[1], bytes)
            assert await manager.execute("XLEN", "second") == 1


def _in_flight(manager: Manager) -> int:
    statistics = manager.status().lanes[Lane.COMMAND].statistics
    return 0 if statistics is None else statistics.in_flight


def _queued(manager: Manager) -> int:
    statistics = manager.status().lanes[Lane.COMMAND].statistics
    return 0 if statistics is None else statistics.queued


async def test_every_answer_about_a_write_is_true_whatever_the_network_does(redis: Server) -> None:
    """Acknowledged: there once. Unknown: there at most once. Unavailable: not there."""
    rng = random.Random(1953)
    numbers = iter(range(4_000))
    acknowledged: set[int] = set()
    unknown: set[int] = set()
    unavailable: set[int] = set()

    async def add_again_and_again(manager: Manager) -> None:
        for number in numbers:
            try:
                await manager.execute("XADD", "s", "*", "n", number)
                acknowledged.add(number)
            except OutcomeUnknown:
                unknown.add(number)
            except RedisUnavailable:
                unavailable.add(number)
                await manager.wait_connected()

    async def cut_again_and_again(proxy: Proxy) -> None:
        while True:
            flow = rng.choice([proxy.to_client, proxy.to_server])
            flow.cut_after(rng.randint(0, 6_000), reset=rng.random() < 0.5)
            while flow.cut_pending:  # noqa: ASYNC110
                await trio.sleep(0.001)

    with trio.fail_after(60):
        async with (
            proxy_to(redis.path) as proxy,
            # Pauses as short as the cuts are frequent.
            running_manager(through(proxy), connect_grace=0.02, backoff=ConstantBackoff(0.01)) as manager,
            trio.open_nursery() as cutting,
        ):
            proxy.to_client.delay = lambda: rng.uniform(0, 0.005)
            proxy.to_server.delay = lambda: rng.uniform(0, 0.005)
            cutting.start_soon(cut_again_and_again, proxy)
            async with trio.open_nursery() as adding:
                for _ in range(50):
                    adding.start_soon(add_again_and_again, manager)
            cutting.cancel_scope.cancel()
    numbers_there = [int(entry[1][1]) for entry in redis.command("XRANGE", "s", "-", "+")]
    there = set(numbers_there)
    assert len(numbers_there) == len(there)
    assert acknowledged <= there
    assert unavailable.isdisjoint(there)
    # All of it happened, and often; unknown went either way.
    assert len(acknowledged) > 1_000
    assert len(unavailable) > 50
    assert len(unknown & there) > 20
    assert len(unknown - there) > 20
    assert proxy.accepted > 20


# Redis away


async def test_redis_absent_at_start_is_a_state_and_ends_by_itself() -> None:
    events: list[RedisEvent] = []
    with trio.fail_after(20), start_redis() as server:
        server.stop()
        async with running_manager(over_tcp(server), connected=False, events=events) as manager:
            started = trio.current_time()
            with pytest.raises(RedisUnavailable) as refused:
                await manager.execute("PING")
            assert 0.9 < trio.current_time() - started < 1.2
            assert refused.value.code == "CONNECTION_ERROR"
            assert refused.value.cause == "Connection refused"
            assert f"127.0.0.1:{server.port}" in refused.value.message
            # Known to be down: no second wait.
            started = trio.current_time()
            with pytest.raises(RedisUnavailable):
                await manager.execute("PING")
            assert trio.current_time() - started < 0.05
            server.start()
            started = trio.current_time()
            await manager.wait_connected()
            assert trio.current_time() - started < 2.2
            assert await manager.execute("PING") == b"PONG"
    assert [type(event) for event in events] == [ConnectFailed, Connected]


async def test_a_restart_of_redis_is_two_events_and_one_pause() -> None:
    events: list[RedisEvent] = []
    with trio.fail_after(30), start_redis() as server:
        async with running_manager(over_tcp(server), events=events) as manager:
            await trio.sleep(1.1)  # long enough to count as a connection that worked
            server.kill()
            await until(lambda: not manager.status().lanes[Lane.COMMAND].connected)
            with pytest.raises(RedisUnavailable):
                await manager.execute("XADD", "s", "*", "f", "v")
            server.start()
            started = trio.current_time()
            await manager.wait_connected()
            assert trio.current_time() - started < 2.2
            assert await manager.execute("XLEN", "s") == 0
    assert [type(event) for event in events] == [Connected, ConnectionLost, ConnectFailed, Connected]
    failed = events[2]
    assert isinstance(failed, ConnectFailed)
    assert failed.failure.cause == "Connection refused"
    again = events[3]
    assert isinstance(again, Connected)
    assert again.attempts > 0


async def test_a_server_that_hangs_costs_one_deadline_then_fails_fast_and_recovers() -> None:
    outcomes: dict[str, tuple[type[BusError], float]] = {}

    async def run(manager: Manager, name: str, replay: Replay) -> None:
        started = trio.current_time()
        try:
            await manager.execute("INCR", "n", replay=replay)
        except BusError as error:
            outcomes[name] = type(error), trio.current_time() - started

    with trio.fail_after(30), start_redis() as server:
        target = Target(path=server.path, connect_timeout=0.5)
        async with running_manager(target, command_timeout=0.5, connect_grace=0.2) as manager:
            server.signal(signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, manager, "safe", Replay.SAFE)
                nursery.start_soon(run, manager, "never", Replay.NEVER)
            assert {name: kind for name, (kind, _) in outcomes.items()} == {
                "safe": CommandTimedOut,
                "never": OutcomeUnknown,
            }
            assert all(0.5 <= seconds < 0.6 for _, seconds in outcomes.values())
            await run(manager, "within grace", Replay.NEVER)
            assert outcomes["within grace"][0] is RedisUnavailable
            assert outcomes["within grace"][1] < 0.3
            await run(manager, "known", Replay.NEVER)
            assert outcomes["known"][0] is RedisUnavailable
            assert outcomes["known"][1] < 0.05
            server.signal(signal.SIGCONT)
            started = trio.current_time()
            await manager.wait_connected()
            assert trio.current_time() - started < 2.2
            assert await manager.execute("PING") == b"PONG"


async def test_a_deadline_is_kept_under_latency(redis: Server) -> None:
    with trio.fail_after(10):
        async with (
            proxy_to(redis.path) as proxy,
            running_manager(through(proxy), command_timeout=0.3) as manager,
        ):
            proxy.to_client.delay = lambda: 0.5
            started = trio.current_time()
            with pytest.raises(CommandTimedOut):
                await manager.execute("GET", "key", replay=Replay.SAFE)
            assert 0.3 <= trio.current_time() - started < 0.35


async def test_a_killed_client_is_back_with_its_login_at_once(redis: Server) -> None:
    redis.command("ACL", "SETUSER", "agent", "on", ">secret", "~*", "+@all")
    target = Target(path=redis.path, username="agent", password="secret", database=2)
    with trio.fail_after(10):
        async with running_manager(target) as manager:
            first = await manager.execute("CLIENT", "ID")
            await manager.execute("SET", "key", "value")
            assert redis.command("CLIENT", "KILL", "ID", first) == 1
            started = trio.current_time()
            await until(lambda: manager.status().lanes[Lane.COMMAND].failed_attempts > 0)
            await manager.wait_connected()
            assert await manager.execute("GET", "key") == b"value"
            assert trio.current_time() - started < 0.5
            info = (await manager.execute("CLIENT", "INFO")).decode()
    assert f"id={first} " not in info
    assert "name=redstreamd:command " in info
    assert "db=2 " in info
    assert "user=agent " in info


async def test_a_refused_login_fails_commands_at_once_and_is_told_once(redis: Server) -> None:
    events: list[RedisEvent] = []
    with trio.fail_after(10):
        async with (
            proxy_to(redis.path) as proxy,
            running_manager(through(proxy, password="x"), connected=False, events=events) as manager,
        ):
            for _ in range(3):
                started = trio.current_time()
                with pytest.raises(RedisUnavailable, match="a password is configured here"):
                    await manager.execute("PING")
                assert trio.current_time() - started < 0.5
            assert proxy.accepted == 1
    assert [type(event) for event in events] == [ConnectFailed]


async def test_a_server_that_accepts_and_hangs_up_is_not_called_in_a_tight_loop(redis: Server) -> None:
    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy, running_manager(through(proxy)) as manager:
            with trio.move_on_after(1.0):
                while True:
                    await manager.wait_connected()
                    proxy.cut()
                    await until(lambda: not manager.status().lanes[Lane.COMMAND].connected)
    assert 2 < proxy.accepted < 12


async def test_waiting_ends_when_the_manager_does(redis: Server) -> None:
    errors: list[RedisUnavailable] = []
    with trio.fail_after(10):
        target = Target(host="127.0.0.1", port=free_port())
        async with trio.open_nursery() as nursery:

            async def ask(manager: Manager) -> None:
                with pytest.raises(RedisUnavailable) as refused:
                    await manager.execute("PING")
                errors.append(refused.value)

            async with running_manager(target, connected=False, connect_grace=60) as manager:
                nursery.start_soon(ask, manager)
                await until(lambda: manager.status().lanes[Lane.COMMAND].failed_attempts > 1)
    assert "shutting down" in errors[0].cause


async def test_a_manager_may_be_run_again(redis: Server) -> None:
    with trio.fail_after(10):
        manager = Manager(Target(path=redis.path))
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                await nursery.start(manager.run)
                assert await manager.execute("ECHO", "x") == b"x"
                nursery.cancel_scope.cancel()
            with pytest.raises(RedisUnavailable, match="shutting down"):
                await manager.execute("PING")


# Replies that say "not now"


async def test_commands_wait_while_redis_loads_its_data(server: Server) -> None:
    with trio.fail_after(20):
        server.commands(
            ("CONFIG", "SET", "key-load-delay", 100, "loading-process-events-interval-bytes", 1024),
            ("DEBUG", "POPULATE", 5_000),
        )
        try:
            async with running_manager(Target(path=server.path)) as manager, trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, server.command, "DEBUG", "RELOAD")
                await until(lambda: str(server.command("PING")).startswith("LOADING"))
                server_was_loading = trio.current_time()
                await manager.execute("XADD", "s", "*", "f", "v")
                assert trio.current_time() - server_was_loading > 0.1
                assert await manager.execute("XLEN", "s") == 1
                # The connection has survived it: a server that says LOADING is not broken.
                assert manager.status().lanes[Lane.COMMAND].failure is None
        finally:
            server.commands(("CONFIG", "SET", "key-load-delay", 0), ("FLUSHALL",))


async def test_commands_wait_for_a_long_script_and_never_kill_it(redis: Server) -> None:
    loop = "local t = redis.call('TIME')[1] while redis.call('TIME')[1] - t < 2 do end return 'finished'"
    replies: list[object] = []

    def run_loop() -> None:
        # Effects of TIME are replicated since Redis 7, so it moves on inside the script.
        replies.append(redis.command("EVAL", loop, 0))

    with trio.fail_after(20):
        redis.command("CONFIG", "SET", "busy-reply-threshold", 50)
        try:
            async with running_manager(Target(path=redis.path)) as manager, trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, run_loop)
                await until(lambda: str(redis.command("PING")).startswith("BUSY"))
                await manager.execute("XADD", "s", "*", "f", "v")
                assert await manager.execute("XLEN", "s") == 1
        finally:
            redis.command("CONFIG", "SET", "busy-reply-threshold", 5000)
    assert replies == [b"finished"]


@pytest.mark.parametrize(
    ("command", "break_it", "heal_it", "code"),
    [
        (
            ("XADD", "s", "*", "f", "v"),
            [("CONFIG", "SET", "min-replicas-to-write", 1)],
            [("CONFIG", "SET", "min-replicas-to-write", 0)],
            "NOREPLICAS",
        ),
        (
            ("XLEN", "s"),
            [("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", 1)],
            [("REPLICAOF", "NO", "ONE"), ("CONFIG", "SET", "replica-serve-stale-data", "yes")],
            "MASTERDOWN",
        ),
    ],
)
async def test_commands_that_were_not_executed_are_repeated_until_the_server_heals(
    redis: Server,
    command: tuple[str, ...],
    break_it: list[tuple[str | int, ...]],
    heal_it: list[tuple[str | int, ...]],
    code: str,
) -> None:
    replies: list[object] = []

    async def run(manager: Manager) -> None:
        replies.append(await manager.execute(*command))

    with trio.fail_after(20):
        async with running_manager(Target(path=redis.path), command_timeout=1.0) as manager:
            try:
                redis.commands(*break_it)
                with pytest.raises(RedisUnavailable, match=code):
                    await manager.execute(*command)
                redis.command("CONFIG", "RESETSTAT")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run, manager)
                    await until(lambda: calls(redis, command[0].lower()) >= 2)
                    assert replies == []
                    redis.commands(*heal_it)
            finally:
                redis.commands(*heal_it)
            assert len(replies) == 1
            assert await manager.execute("XLEN", "s") == (1 if command[0] == "XADD" else 0)
            # Degraded is not dead: all of it happened on one connection.
            assert manager.status().lanes[Lane.COMMAND].failure is None


async def test_a_cluster_that_does_not_serve_the_slot_is_waited_for() -> None:
    # The default bus port is the port plus 10,000, which may be more than there are.
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with trio.fail_after(20), start_redis(*options) as server:
        async with running_manager(Target(path=server.path), command_timeout=4.0) as manager:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(manager.execute, "XADD", "s", "*", "f", "v")
                await until(lambda: calls(server, "xadd") >= 2)
                server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            assert await manager.execute("XLEN", "s") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("XLEN", "text"), "WRONG_TYPE"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"), "GROUP_NOT_FOUND"),
        (("XGROUP", "CREATE", "absent", "g", "$"), "STREAM_NOT_FOUND"),
    ],
)
async def test_permanent_errors_are_not_repeated(server: Server, command: tuple[str, ...], code: str) -> None:
    with trio.fail_after(10):
        server.commands(("SET", "text", "x"), ("XADD", "s", "*", "f", "v"), ("CONFIG", "RESETSTAT"))
        async with running_manager(Target(path=server.path)) as manager:
            with pytest.raises(ServerReplied) as replied:
                await manager.execute(*command, replay=Replay.SAFE)
    assert replied.value.code == code
    name = "xgroup|create" if command[0] == "XGROUP" else command[0].lower()
    assert calls(server, name) == 1


# Lanes


async def test_lanes_are_connections_of_their_own_opened_when_first_needed(redis: Server) -> None:
    with trio.fail_after(10):
        async with running_manager(Target(path=redis.path)) as manager:
            assert _names(redis) == {"redstreamd:command"}
            assert not manager.status().lanes[Lane.BULK].wanted
            assert await manager.execute("ECHO", "x", lane=Lane.BULK) == b"x"
            assert _names(redis) == {"redstreamd:command", "redstreamd:bulk"}
            await manager.wait_connected(Lane.WATCH)
            assert _names(redis) == {"redstreamd:command", "redstreamd:bulk", "redstreamd:watch"}
            status = manager.status()
            assert all(lane.connected and lane.server.startswith("redis 7") for lane in status.lanes.values())
            assert status.label == redis.path


def _names(server: Server) -> set[str]:
    fields = server.command("CLIENT", "LIST").decode().split()
    return {field.partition("=")[2] for field in fields if field.startswith("name=redstreamd")}


async def test_a_large_reply_does_not_hold_up_the_command_lane(redis: Server) -> None:
    redis.command("SET", "large", b"x" * 100_000_000)
    pings: list[float] = []
    with trio.fail_after(30):
        async with running_manager(over_tcp(redis)) as manager:
            await manager.wait_connected(Lane.BULK)
            fetched = trio.Event()

            async def fetch() -> None:
                reply = await manager.execute("GET", "large", lane=Lane.BULK, replay=Replay.SAFE)
                assert len(reply) == 100_000_000
                fetched.set()

            began = trio.current_time()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                while not fetched.is_set():
                    started = trio.current_time()
                    await manager.execute("PING")
                    pings.append(trio.current_time() - started)
            took = trio.current_time() - began
    # Behind the reply on one lane, a PING would have taken as long as all of it. Here many got
    # through while it was arriving; the longest waited while its last copy was made.
    assert len(pings) > 20
    assert sorted(pings)[len(pings) // 2] < took / 20
    assert max(pings) < took / 2


async def test_the_watch_hooks_see_each_connection_before_its_replies(server: Server) -> None:
    seen: list[object] = []
    pushed = trio.Event()

    def on_push(message: list[object]) -> None:
        seen.append(message)
        pushed.set()

    with trio.fail_after(10):
        async with running_manager(Target(path=server.path)) as manager:
            manager.set_watch_hooks(on_push=on_push, on_connected=lambda: seen.append("connected"))
            client = await manager.execute("CLIENT", "ID", lane=Lane.WATCH)
            seen.append("first reply")
            await manager.execute("CLIENT", "TRACKING", "ON", lane=Lane.WATCH)
            await manager.execute("EXISTS", "s", lane=Lane.WATCH)
            server.command("XADD", "s", "*", "f", "v")
            await pushed.wait()
            server.command("CLIENT", "KILL", "ID", client)
            await until(lambda: seen.count("connected") == 2)
            await manager.execute("PING", lane=Lane.WATCH, replay=Replay.SAFE)
    assert seen == ["connected", "first reply", [b"invalidate", [b"s"]], "connected"]


async def test_hooks_that_raise_cost_nothing(redis: Server, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("a defect in a hook")

    with trio.fail_after(10):
        manager = Manager(Target(path=redis.path), on_event=broken)
        manager.set_watch_hooks(on_push=broken, on_connected=broken)
        async with trio.open_nursery() as nursery:
            await nursery.start(manager.run)
            for lane in Lane:
                assert await manager.execute("ECHO", "x", lane=lane) == b"x"
            nursery.cancel_scope.cancel()
    assert caplog.text.count("the hook for Redis events failed") == 3
    assert caplog.text.count("the hook for a new watch connection failed") == 1


async def test_the_round_trip_of_the_last_ping_is_known(redis: Server) -> None:
    with trio.fail_after(10):
        async with running_manager(Target(path=redis.path), ping_interval=0.02) as manager:

            def round_trip() -> float | None:
                statistics = manager.status().lanes[Lane.COMMAND].statistics
                return None if statistics is None else statistics.round_trip_seconds

            await until(lambda: round_trip() is not None)
            assert 0 < (round_trip() or 0) < 1


async def test_too_many_commands_at_once_are_refused(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_REQUESTS", 5)
    results: list[object] = []

    async def ask(manager: Manager) -> None:
        try:
            results.append(await manager.execute("ECHO", "x"))
        except QueueFull as full:
            results.append(str(full.code))

    with trio.fail_after(10):
        async with running_manager(Target(path=redis.path)) as manager, trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask, manager)
    assert results.count(b"x") == 5
    assert results.count("RATE_LIMITED") == 3


# Scripts


async def test_a_script_is_sent_in_full_only_once(server: Server) -> None:
    script = Script("return {KEYS[1], ARGV[1], ARGV[2]}")
    with trio.fail_after(10):
        server.commands(("SCRIPT", "FLUSH"), ("CONFIG", "RESETSTAT"))
        async with running_manager(Target(path=server.path)) as manager:
            for _ in range(3):
                reply = await manager.run_script(script, ["key"], [1, b"two"], replay=Replay.SAFE)
                assert reply == [b"key", b"1", b"two"]
            assert (calls(server, "evalsha"), calls(server, "eval")) == (3, 1)
            server.command("SCRIPT", "FLUSH")
            assert await manager.run_script(script, ["key"], [1, 2], replay=Replay.NEVER)
    assert calls(server, "eval") == 2


async def test_an_error_of_a_script_reaches_its_caller(server: Server) -> None:
    script = Script("return redis.error_reply('CUSTOM no luck')")
    with trio.fail_after(10):
        async with running_manager(Target(path=server.path)) as manager:
            with pytest.raises(ServerReplied) as replied:
                await manager.run_script(script, [], [], replay=Replay.NEVER)
    assert str(replied.value.reply) == "CUSTOM no luck"
    assert replied.value.code == "INTERNAL"
