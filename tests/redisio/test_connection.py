from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest
import trio
import trio.testing
from redis.exceptions import ResponseError

from redstreamd.redisio import decoder, pipeline
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.dial import UNACKNOWLEDGED_MS, open_stream
from redstreamd.redisio.errors import QueueFull, ReplyTooLarge
from redstreamd.redisio.failures import ConnectionEnded, FailureKind, NotSent, ReplyLost
from redstreamd.redisio.target import Target
from tests.redisio.running import over_tcp, running_connection, through, until
from tests.support.proxy import proxy_to
from tests.support.servers import Server


async def test_one_connection_serves_many_callers_in_one_packet(server: Server) -> None:
    replies: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        replies[number] = await connection.execute("ECHO", number)

    with trio.fail_after(10):
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
    with trio.fail_after(10):
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
    with trio.fail_after(10):
        connection = Connection(Target(path=server.path), role="test")
        async with running_connection(connection):
            await connection.execute("SET", "key", "text")
            with pytest.raises(ResponseError, match="WRONGTYPE"):
                await connection.execute("XLEN", "key")
            assert await connection.execute("GET", "key") == b"text"


@pytest.mark.parametrize("bad", [True, None, bytearray(b"x")])
async def test_types_without_one_meaning_on_the_wire_are_refused(redis: Server, bad: Any) -> None:
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection):
            with pytest.raises(TypeError):
                connection.submit("ECHO", bad)
            assert await connection.execute("ECHO", "x") == b"x"


async def test_a_command_without_a_name_is_refused(redis: Server) -> None:
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection):
            with pytest.raises(ValueError, match="a command has a name"):
                connection.submit()
            assert await connection.execute("ECHO", "aligned") == b"aligned"


async def test_replies_in_slices_of_one_byte_are_parsed(server: Server) -> None:
    with trio.fail_after(20):
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


async def test_a_reply_that_cannot_be_parsed_ends_the_connection(server: Server) -> None:
    with trio.fail_after(10):
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
    with trio.fail_after(10):
        async with proxy_to(server.path) as proxy:
            connection = Connection(through(proxy), role="test")
            async with running_connection(connection) as ran:
                # "$5" becomes "$4": a reply could be parsed, but what follows it is no reply.
                proxy.to_client.flip_after(1, mask=ord("5") ^ ord("4"))
                with pytest.raises(ReplyLost):
                    await connection.execute("ECHO", "hello")
                await ran.ended.wait()


async def test_a_reply_nobody_asked_for_ends_the_connection(redis: Server) -> None:
    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy:
            connection = Connection(through(proxy), role="test")
            async with running_connection(connection) as ran:
                # MONITOR breaks the rule of one reply for each request.
                await connection.execute("MONITOR")
                redis.command("PING")
                await ran.ended.wait()
                assert ran.failure is not None
                assert "nobody asked" in ran.failure.cause


async def test_sent_and_unsent_requests_fail_differently_when_the_connection_breaks(redis: Server) -> None:
    outcomes: dict[int, type[Exception]] = {}
    payload = b"x" * 200_000

    async def add(connection: Connection, number: int) -> None:
        try:
            await connection.execute("XADD", "s", f"1-{number + 1}", "f", payload)
        except (NotSent, ReplyLost) as error:
            outcomes[number] = type(error)

    with trio.fail_after(20):
        async with proxy_to(redis.path) as proxy:
            connection = Connection(through(proxy), role="test")
            async with running_connection(connection):
                proxy.to_server.hold()
                async with trio.open_nursery() as nursery:
                    for number in range(150):
                        nursery.start_soon(add, connection, number)
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    before = connection.statistics()
                    proxy.cut()
    # The socket's buffers take some, the rest was never handed over.
    assert 0 < before.in_flight < 150
    assert before.queued > 0
    assert list(outcomes.values()).count(ReplyLost) == before.in_flight
    assert list(outcomes.values()).count(NotSent) == before.queued
    # In order: what was sent first is what may have arrived.
    sent = sorted(number for number, kind in outcomes.items() if kind is ReplyLost)
    assert redis.command("XLEN", "s") <= len(sent)


async def test_no_caller_gets_the_reply_of_another_when_ten_thousand_are_cancelled(redis: Server) -> None:
    """Cancellation before sending, while awaiting the reply, and in the middle of it."""
    rng = random.Random(20260728)
    numbers = iter(range(10_000))
    wrong: list[tuple[bytes, bytes]] = []
    answered = before_sending = after_sending = 0

    async def ask_again_and_again(connection: Connection) -> None:
        nonlocal answered, before_sending, after_sending
        for number in numbers:
            token = b"%d:%s" % (number, rng.randbytes(rng.randint(0, 40)))
            # Some give up in the very step after queueing, some at any time later, some never.
            patience = rng.choice([0.0, rng.uniform(0.0, 0.03), math.inf])
            with trio.move_on_after(patience) as scope:
                request = connection.submit("ECHO", token)
                reply = await request.reply()
                answered += 1
                if reply != token:
                    wrong.append((token, reply))
            if scope.cancelled_caught:
                if request.sent:
                    after_sending += 1
                else:
                    before_sending += 1

    with trio.fail_after(60):
        async with proxy_to(redis.path) as proxy:
            proxy.to_client.slice_bytes = lambda: rng.randint(1, 200)
            proxy.to_client.delay = lambda: rng.uniform(0.0, 0.02)
            proxy.to_server.delay = lambda: rng.uniform(0.0, 0.005)
            connection = Connection(through(proxy), role="test")
            async with running_connection(connection) as ran:
                async with trio.open_nursery() as nursery:
                    for _ in range(100):
                        nursery.start_soon(ask_again_and_again, connection)
                # The connection that saw all this is still the first, and aligned.
                assert await connection.execute("ECHO", "last") == b"last"
                assert not ran.ended.is_set()
                assert connection.statistics().in_flight == 0
    assert proxy.accepted == 1
    assert wrong == []
    assert answered + before_sending + after_sending == 10_000
    assert before_sending > 2_000
    assert after_sending > 1_000
    assert answered > 3_000


async def test_a_request_cancelled_before_sending_is_never_executed(redis: Server) -> None:
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection):
            with trio.CancelScope() as scope:
                scope.cancel()
                await connection.execute("SET", "taken-back", "1")
            assert scope.cancelled_caught
            assert connection.statistics().queued == connection.statistics().queued_bytes == 0
            assert await connection.execute("EXISTS", "taken-back") == 0


async def test_the_queue_is_bounded_in_requests(redis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_REQUESTS", 10)
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection):
            requests = [connection.submit("ECHO", number) for number in range(10)]
            with pytest.raises(QueueFull) as refused:
                connection.submit("ECHO", "one too many")
            assert refused.value.code == "RATE_LIMITED"
            assert [await request.reply() for request in requests] == [b"%d" % n for n in range(10)]
            assert await connection.execute("ECHO", "again") == b"again"


async def test_the_queue_is_bounded_in_bytes_but_one_request_always_fits(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "MAX_QUEUED_BYTES", 1_000)
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection):
            large = connection.submit("ECHO", b"x" * 5_000)
            with pytest.raises(QueueFull, match="bytes"):
                connection.submit("ECHO", "y")
            assert len(await large.reply()) == 5_000
            assert await connection.execute("ECHO", "y") == b"y"


async def test_a_reply_beyond_the_limit_fails_its_caller_and_ends_the_connection(
    redis: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "MAX_REPLY_BYTES", 1_000_000)
    redis.command("SET", "large", b"x" * 3_000_000)
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test")
        async with running_connection(connection) as ran:
            with pytest.raises(ReplyTooLarge) as refused:
                await connection.execute("GET", "large")
            assert refused.value.code == "TOO_LARGE"
            await ran.ended.wait()
            with pytest.raises(NotSent):
                connection.submit("PING")


async def test_pushes_arrive_between_replies_and_a_failing_hook_costs_nothing(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    pushed: list[list[Any]] = []
    told = trio.Event()

    def on_push(message: list[Any]) -> None:
        pushed.append(message)
        told.set()
        raise RuntimeError("a defect in the hook")

    with trio.fail_after(10):
        connection = Connection(
            Target(path=server.path), role="test", on_push=on_push, greeting=[("CLIENT", "TRACKING", "ON")]
        )
        async with running_connection(connection):
            assert await connection.execute("XREAD", "STREAMS", "s", "0") is None
            server.command("XADD", "s", "*", "f", "v")
            await told.wait()
            assert await connection.execute("ECHO", "aligned") == b"aligned"
            assert connection.statistics().pushes == 1
    assert pushed == [[b"invalidate", [b"s"]]]
    assert "a defect in the hook" in caplog.text


async def test_a_refused_greeting_ends_the_connection(redis: Server) -> None:
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test", greeting=[("NO-SUCH-COMMAND",)])
        with pytest.raises(ConnectionEnded) as ended:
            await connection.run()
    assert ended.value.failure.kind is FailureKind.SETTINGS
    assert "NO-SUCH-COMMAND" in ended.value.failure.cause


async def test_an_overdue_reply_ends_the_connection(redis: Server) -> None:
    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy:
            connection = Connection(through(proxy), role="test", reply_timeout=0.3)
            async with running_connection(connection) as ran:
                proxy.to_client.hold()
                started = trio.current_time()
                with pytest.raises(ReplyLost):
                    await connection.execute("ECHO", "x")
                assert 0.3 <= trio.current_time() - started < 0.4
                await ran.ended.wait()
                assert ran.failure is not None
                assert "no reply" in ran.failure.cause


async def test_a_pause_of_this_process_is_not_held_against_the_server(redis: Server) -> None:
    with trio.fail_after(10):
        connection = Connection(Target(path=redis.path), role="test", reply_timeout=0.2)
        async with running_connection(connection) as ran:
            unread = 0
            for _ in range(20):
                request = connection.submit("ECHO", "on time")
                while not request.sent:
                    await trio.lowlevel.checkpoint()
                unread += connection.statistics().in_flight
                # The event loop stands still beyond the deadline; the reply has long arrived.
                time.sleep(0.25)  # noqa: ASYNC251
                assert await request.reply() == b"on time"
            assert not ran.ended.is_set()
            assert unread > 10


async def test_an_idle_half_open_connection_is_found_by_its_ping(redis: Server) -> None:
    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy:
            connection = Connection(
                through(proxy), role="test", reply_timeout=30, ping_interval=0.1, ping_timeout=0.2
            )
            async with running_connection(connection) as ran:
                await until(lambda: connection.statistics().round_trip_seconds is not None)
                proxy.to_client.swallow = proxy.to_server.swallow = True
                started = trio.current_time()
                await ran.ended.wait()
                assert trio.current_time() - started < 0.5
                assert ran.failure is not None
                assert "no reply to PING" in ran.failure.cause


async def test_an_error_reply_to_the_idle_ping_is_a_sign_of_life(redis: Server) -> None:
    with trio.fail_after(10):
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

    with trio.fail_after(10):
        async with proxy_to(redis.path) as proxy:
            proxy_target = through(proxy)
            connection = Connection(proxy_target, role="test")
            async with trio.open_nursery() as nursery, running_connection(connection):
                proxy.to_client.hold()
                nursery.start_soon(ask, connection)
                await until(lambda: connection.statistics().in_flight > 0)
    assert "shutting down" in str(outcome[0])


async def test_tcp_connections_carry_the_options_that_find_dead_peers(redis: Server) -> None:
    with trio.fail_after(10):
        async with await open_stream(over_tcp(redis)) as stream:
            tcp = trio.socket.IPPROTO_TCP
            assert stream.getsockopt(tcp, trio.socket.TCP_NODELAY)
            assert stream.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)
            assert stream.getsockopt(tcp, trio.socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_MS
