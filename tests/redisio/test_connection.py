from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.turns import ACCOUNT, turns
from redstreamd.errors.defects import Defect
from redstreamd.policy import Principal
from redstreamd.redisio import decoder
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.dialing import UNACKNOWLEDGED_MS, open_stream
from redstreamd.redisio.pipeline import MAX_SEND_BYTES
from redstreamd.redisio.redis_errors import NotSent, ReplyLost, ReplyTooLarge
from redstreamd.redisio.target import Target
from tests.redisio.running import over_tcp, running_connection, through
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.servers import Server
from tests.support.waiting import until


async def test_one_connection_serves_many_callers_in_one_packet(server: Server) -> None:
    replies: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        replies[number] = await connection.execute("ECHO", number)

    async with proxy_to(server.path, unix=True) as proxy:
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection):
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(ask, number)
            statistics = connection.statistics()
    assert replies == {number: str(number).encode() for number in range(500)}
    assert proxy.accepted == 1
    assert statistics.in_flight == statistics.queued == statistics.queued_bytes == 0


async def test_replies_keep_every_resp3_type(server: Server) -> None:
    script = """
        redis.setresp(3)
        return {{map={a=1}}, {double=1.5}, false, true, {big_number='12345678901234567890123'}, 7, 'text'}
    """
    connection = Connection(Target(path=server.path), role="test")
    async with running_connection(connection):
        reply = await connection.execute("EVAL", script, 0)
        # RESP3's false on its own must not be taken for "nothing there yet".
        alone = await connection.execute("EVAL", "redis.setresp(3) return false", 0)
        after = await connection.execute("ECHO", "still aligned")
    assert reply == [{b"a": 1}, 1.5, False, True, b"12345678901234567890123", 7, b"text"]
    assert alone is False
    assert after == b"still aligned"


async def test_an_error_reply_is_raised_for_its_caller_only(server: Server) -> None:
    connection = Connection(Target(path=server.path), role="test")
    async with running_connection(connection):
        await connection.execute("SET", "key", "text")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await connection.execute("XLEN", "key")
        assert await connection.execute("GET", "key") == b"text"


@pytest.mark.parametrize("bad", [True, None, bytearray(b"x")])
async def test_types_without_one_meaning_on_the_wire_are_refused(redis: Server, bad: Any) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        with pytest.raises(TypeError):
            connection.submit("ECHO", bad)
        assert await connection.execute("ECHO", "x") == b"x"


async def test_replies_in_slices_of_one_byte_are_parsed(server: Server) -> None:
    async with proxy_to(server.path) as proxy:
        proxy.to_client.slice_bytes = lambda: 1
        proxy.to_server.slice_bytes = lambda: 1
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection):
            for number in range(20):
                await connection.execute("XADD", "s", f"1-{number + 1}", "field", f"value {number}")
            entries = await connection.execute("XRANGE", "s", "-", "+")
    assert [[entry[0].decode(), entry[1][1].decode()] for entry in entries] == [
        [f"1-{number + 1}", f"value {number}"] for number in range(20)
    ]


async def test_replies_are_taken_up_within_a_pass_and_reach_their_callers_in_order(redis: Server) -> None:
    got: list[object] = []
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        (server,) = turns().arrivals.servers.values()
        server.take_replies()
        for number in range(3):
            connection.submit("ECHO", number, then=got.append)
        server.send_now()
        deadline = time.monotonic() + 20
        # Without giving way to the task that reads.
        while len(got) < 3 and time.monotonic() < deadline:
            server.take_replies()
        assert got == [b"0", b"1", b"2"]
        assert await connection.execute("ECHO", "still aligned") == b"still aligned"
    assert not turns().arrivals.servers


async def test_a_reply_that_cannot_be_parsed_ends_the_connection(server: Server) -> None:
    async with proxy_to(server.path) as proxy:
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection) as ran:
            assert await connection.execute("ECHO", "fine") == b"fine"
            proxy.to_client.flip_after(0)
            with pytest.raises(ReplyLost):
                await connection.execute("ECHO", "damaged")
            await ran.ended.wait()
            assert ran.failure is not None
            assert "could not be read" in ran.failure.cause
            with pytest.raises(NotSent):
                await connection.execute("ECHO", "never again")


async def test_a_reply_with_a_wrong_length_reaches_nobody(server: Server) -> None:
    async with proxy_to(server.path) as proxy:
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection) as ran:
            # "$5" becomes "$4": a reply could be parsed, but what follows it is no reply.
            proxy.to_client.flip_after(1, mask=ord("5") ^ ord("4"))
            with pytest.raises(ReplyLost):
                await connection.execute("ECHO", "hello")
            await ran.ended.wait()


async def test_a_reply_nobody_asked_for_ends_the_connection(redis: Server) -> None:
    async with proxy_to(redis.path) as proxy:
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection) as ran:
            # MONITOR breaks the rule of one reply for each request.
            await connection.execute("MONITOR")
            redis.command("PING")
            await ran.ended.wait()
            assert ran.failure is not None
            assert "reply to no command" in ran.failure.cause


async def test_a_reply_beyond_the_limit_fails_its_caller_and_ends_the_connection(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "MAX_REPLY_BYTES", 1_000_000)
    redis.command("SET", "large", b"x" * 3_000_000)
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection) as ran:
        with pytest.raises(ReplyTooLarge) as refused:
            await connection.execute("GET", "large")
        assert refused.value.code == "TOO_LARGE"
        await ran.ended.wait()
        with pytest.raises(NotSent):
            connection.submit("PING")


async def test_pushes_arrive_between_replies_and_a_failing_hook_costs_nothing(
    server: Server, defects: list[Defect]
) -> None:
    pushed: list[list[Any]] = []
    told = trio.Event()

    def on_push(message: list[Any]) -> None:
        pushed.append(message)
        told.set()
        raise RuntimeError("a defect in the hook")

    connection = Connection(Target(path=server.path), role="test", on_push=on_push)
    async with running_connection(connection):
        await connection.execute("CLIENT", "TRACKING", "ON")
        assert await connection.execute("XREAD", "STREAMS", "s", "0") is None
        server.command("XADD", "s", "*", "f", "v")
        await told.wait()
        assert await connection.execute("ECHO", "aligned") == b"aligned"
        assert connection.statistics().pushes == 1
    assert pushed == [[b"invalidate", [b"s"]]]
    assert [str(each.error) for each in defects] == ["a defect in the hook"]


async def test_messages_of_a_channel_are_pushed_beside_replies(server: Server) -> None:
    pushed: list[list[Any]] = []
    connection = Connection(Target(path=server.path), role="test", on_push=pushed.append)
    async with running_connection(connection):
        await connection.subscribe("news")
        server.command("PUBLISH", "news", "1")
        assert await connection.execute("ECHO", "2") == b"2"
        await until(lambda: len(pushed) == 2)
        assert pushed == [[b"subscribe", b"news", 1], [b"message", b"news", b"1"]]


async def test_a_burst_of_pushes_is_handed_out_in_parts_and_ends_nothing(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redstreamd.admission.turns.LONE_TURN_SECONDS", 0.0)
    pushed: list[list[Any]] = []
    async with proxy_to(redis.path) as proxy:
        connection = Connection(through(proxy), role="test", on_push=pushed.append)
        async with running_connection(connection):
            await connection.subscribe("news")
            proxy.to_client.hold()
            redis.commands(*[("PUBLISH", "news", str(number)) for number in range(50)])
            await trio.testing.wait_all_tasks_blocked(0.05)
            proxy.to_client.release()
            await until(lambda: len(pushed) == 51)
            assert await connection.execute("ECHO", "behind them") == b"behind them"
    assert [message[2] for message in pushed[1:]] == [b"%d" % number for number in range(50)]


async def test_a_refused_subscription_is_told_and_its_connection_not_used_again(server: Server) -> None:
    server.command("ACL", "SETUSER", "u", "on", "nopass", "+@all", "-subscribe", "allkeys")
    try:
        connection = Connection(Target(path=server.path, username="u"), role="test")
        async with running_connection(connection) as ran:
            with pytest.raises(ResponseError, match="permissions"):
                await connection.subscribe("news")
            await ran.ended.wait()
    finally:
        server.command("ACL", "DELUSER", "u")


async def test_an_overdue_reply_ends_the_connection(redis: Server, clock: Clock) -> None:
    async with proxy_to(redis.path) as proxy:
        connection = Connection(through(proxy), role="test", reply_timeout=0.3)
        async with running_connection(connection) as ran:
            proxy.to_client.hold()
            began, started = trio.current_time(), clock()
            with pytest.raises(ReplyLost):
                await connection.execute("ECHO", "x")
            assert trio.current_time() - began >= 0.3
            with measured:
                assert clock() - started < 0.5
            await ran.ended.wait()
            assert ran.failure is not None
            assert "no reply" in ran.failure.cause


def stand_still(connection: Connection, seconds: float) -> None:
    """Hold up the event loop so long, and until the reply has arrived: the server may be held up as well."""
    time.sleep(seconds)
    if connection.statistics().in_flight:
        stream = connection._stream
        assert isinstance(stream, trio.SocketStream)
        assert select.select([stream.socket], [], [], 30)[0]


@pytest.mark.limit(60)
async def test_a_pause_of_this_process_is_not_held_against_the_server(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test", reply_timeout=0.2)
    async with running_connection(connection) as ran:
        # Now and then the reply is read before the loop stands still.
        unread = 0
        while unread <= 10:
            request = connection.submit("ECHO", "on time")
            while not request.sent:
                await trio.lowlevel.checkpoint()
            unread += connection.statistics().in_flight
            # The event loop stands still beyond the deadline; the reply has long arrived.
            stand_still(connection, 0.25)
            assert await request.reply() == b"on time"
        assert not ran.ended.is_set()


@pytest.mark.limit(60)
async def test_a_pause_of_this_process_is_not_held_against_a_server_that_is_pinged(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test", ping_interval=0.01, ping_timeout=0.1)
    async with running_connection(connection) as ran:
        for _ in range(10):
            while not connection.statistics().in_flight:
                await trio.lowlevel.checkpoint()
                assert not ran.ended.is_set()
            # The event loop stands still beyond the deadline of the PING; its reply has long arrived.
            stand_still(connection, 0.15)
            await until(lambda: not connection.statistics().in_flight)
            assert not ran.ended.is_set()


async def test_a_reply_that_came_while_this_process_stood_still_came_in_time(redis: Server) -> None:
    async def once_sent() -> None:
        while not request.sent:
            await trio.lowlevel.checkpoint()
        stand_still(connection, 0.15)

    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection), trio.open_nursery() as nursery:
        # Now and then the reply is read before the loop stands still.
        for _ in range(10):
            request = connection.submit("ECHO", "on time")
            nursery.start_soon(once_sent)
            assert await request.reply_by(trio.current_time() + 0.1) == b"on time"


async def test_an_idle_half_open_connection_is_found_by_its_ping(redis: Server, clock: Clock) -> None:
    async with proxy_to(redis.path) as proxy:
        is_shown = False
        # A server that is held up itself is found, too: then there is another connection.
        while not is_shown:
            connection = Connection(
                through(proxy), role="test", reply_timeout=30, ping_interval=0.1, ping_timeout=0.2
            )
            async with running_connection(connection) as ran:
                await until(
                    lambda connection=connection, ran=ran: (  # type: ignore[misc]
                        connection.statistics().round_trip_seconds is not None or ran.ended.is_set()
                    )
                )
                is_shown = not ran.ended.is_set()
                proxy.to_client.swallow = proxy.to_server.swallow = is_shown
                started = clock()
                await ran.ended.wait()
                assert ran.failure is not None
                assert "no reply to PING" in ran.failure.cause
        with measured:
            assert clock() - started < 0.8


async def test_who_asks_behind_a_ping_has_the_time_of_a_command(redis: Server) -> None:
    """Else a write would have no known outcome because the server was busy for two seconds."""
    connection = Connection(
        Target(path=redis.path), role="test", reply_timeout=60, ping_interval=0.05, ping_timeout=0.2
    )
    async with running_connection(connection) as ran:
        redis.signal(signal.SIGSTOP)
        try:
            while not connection.statistics().in_flight:
                await trio.lowlevel.checkpoint()
            request = connection.submit("ECHO", "late")
            await trio.sleep(0.5)
        finally:
            redis.signal(signal.SIGCONT)
        assert await request.reply() == b"late"
        assert not ran.ended.is_set()


async def test_an_error_reply_to_the_idle_ping_is_a_sign_of_life(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test", ping_interval=0.05)
    async with running_connection(connection) as ran:
        redis.command("ACL", "SETUSER", "default", "-ping")
        try:
            await until(lambda: connection.statistics().round_trip_seconds is not None)
            assert not ran.ended.is_set()
        finally:
            redis.command("ACL", "SETUSER", "default", "+ping")


async def test_cancelling_a_connection_fails_what_it_owed(redis: Server) -> None:
    outcome: list[Exception] = []

    async def ask(connection: Connection) -> None:
        try:
            await connection.execute("ECHO", "x")
        except ReplyLost as error:
            outcome.append(error)

    async with proxy_to(redis.path) as proxy:
        proxy_target = through(proxy)
        connection = Connection(proxy_target, role="test")
        async with trio.open_nursery() as nursery, running_connection(connection):
            proxy.to_client.hold()
            nursery.start_soon(ask, connection)
            await until(lambda: connection.statistics().in_flight > 0)
    assert "shutting down" in str(outcome[0])


async def test_tcp_connections_carry_the_options_that_find_dead_peers(redis: Server) -> None:
    async with await open_stream(over_tcp(redis)) as stream:
        tcp = trio.socket.IPPROTO_TCP
        assert stream.getsockopt(tcp, trio.socket.TCP_NODELAY)
        assert stream.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)
        assert stream.getsockopt(tcp, trio.socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_MS


async def test_a_unix_socket_takes_at_once_what_is_sent_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        async with await open_stream(Target(path=path)) as stream:
            written = os.write(stream.socket.fileno(), b"x" * MAX_SEND_BYTES)
    # Nobody reads.
    assert written == MAX_SEND_BYTES


#: More than the buffers of a socket take, so that a task has to send the rest.
_MUCH = b"x" * 4_000_000


@pytest.mark.parametrize("passes", range(6))
async def test_what_is_queued_while_a_connection_is_cancelled_starts_no_task(
    redis: Server, passes: int, defects: list[Defect]
) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    async with trio.open_nursery() as nursery:
        await nursery.start(connection.run)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            with contextlib.suppress(NotSent):
                connection.submit("ECHO", _MUCH).send_now()
            await trio.lowlevel.checkpoint()
    assert defects == []


class _Spawned(trio.abc.Instrument):
    """Notes for whom each task runs that sends for a connection."""

    def __init__(self) -> None:
        self.accounts: list[Account | None] = []

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("Connection._send"):
            self.accounts.append(task.context.get(ACCOUNT))


async def test_what_a_task_sends_is_not_counted_for_whoever_was_served(
    redis: Server,
) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    spawned = _Spawned()
    account = Accounts().open(Principal("me", "unix"), Peer(1000, 1), "1")
    async with running_connection(connection):
        trio.lowlevel.add_instrument(spawned)
        token = ACCOUNT.set(account)
        request = connection.submit("ECHO", _MUCH)
        request.send_now()
        ACCOUNT.reset(token)
        assert await request.reply() == _MUCH
        trio.lowlevel.remove_instrument(spawned)
    assert spawned.accounts == [None]
