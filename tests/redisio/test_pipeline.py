from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.admission.turns import turns
from redstreamd.policy import Principal
from redstreamd.redisio import pipeline
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.redis_errors import NotSent, QueueFull, ReplyLost
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls
from redstreamd.redisio.work_window import COMMAND_SECONDS, EARLY_SECONDS, LEAST_EARLY_SECONDS
from tests.redisio.running import running_connection, through
from tests.support.certificates import Authority, tls_options
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import Server, free_port, start_redis

pytestmark = pytest.mark.limit(60)


async def test_a_command_without_a_name_is_refused(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        with pytest.raises(ValueError, match="a command has a name"):
            connection.submit()
        assert await connection.execute("ECHO", "aligned") == b"aligned"


async def test_sent_and_unsent_requests_fail_differently_when_the_connection_breaks(redis: Server) -> None:
    outcomes: dict[int, type[Exception]] = {}
    payload = b"x" * 200_000

    async def add(connection: Connection, number: int) -> None:
        try:
            await connection.execute("XADD", "s", f"1-{number + 1}", "f", payload)
        except (NotSent, ReplyLost) as error:
            outcomes[number] = type(error)

    async with proxy_to(redis.path) as proxy:
        connection = Connection(through(proxy), role="test")
        async with running_connection(connection):
            proxy.to_server.hold()
            async with trio.open_nursery() as nursery:
                for number in range(150):
                    nursery.start_soon(add, connection, number)
                before = None
                while before != (before := connection.statistics()):
                    # On a busy machine the proxy takes longer to fill its buffers.
                    await trio.testing.wait_all_tasks_blocked(0.2)
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
    async with proxy_to(redis.path) as proxy:
        await ask_and_cancel(proxy, through(proxy), 10_000)


async def test_no_caller_gets_the_reply_of_another_over_tls(tmp_path: Path) -> None:
    """The same through TLS, whose records begin and end elsewhere than replies do."""
    authority, port = Authority(tmp_path), free_port()
    certificate = authority.issue("server", "127.0.0.1")
    with start_redis(*tls_options(port, authority, certificate, clients="no")):
        async with proxy_to(port) as proxy:
            target = through(proxy, tls=Tls(ca_file=authority.certificate))
            await ask_and_cancel(proxy, target, 3_000)


async def test_no_caller_gets_the_reply_of_another_among_large_ones(redis: Server) -> None:
    """Replies of megabytes with small ones right behind them, cut wherever the socket cuts them."""
    large, nested = b"v" * 3_000_000, "return {ARGV[1], {ARGV[1]}}"
    redis.command("SET", "large", large)
    wrong: list[bytes] = []

    async def ask(connection: Connection, token: bytes) -> None:
        reply: Any
        right: Any
        if token == b"large":
            reply, right = await connection.execute("GET", "large"), large
        else:
            # Nested, as entries are: the parser remembers its way into what is not whole yet.
            reply, right = await connection.execute("EVAL", nested, 0, token), [token, [token]]
        if reply != right:
            wrong.append(token)

    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection) as ran:
        for turn in range(8):
            async with trio.open_nursery() as nursery:
                for number in range(4):
                    nursery.start_soon(ask, connection, b"large")
                    for small in range(10):
                        nursery.start_soon(ask, connection, b"%d-%d-%d" % (turn, number, small))
        assert not ran.ended.is_set()
    assert wrong == []


async def ask_and_cancel(proxy: Proxy, target: Target, count: int) -> None:
    rng = random.Random(20260728)
    numbers = iter(range(count))
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

    proxy.to_client.slice_bytes = lambda: rng.randint(1, 200)
    proxy.to_client.delay = lambda: rng.uniform(0.0, 0.02)
    proxy.to_server.delay = lambda: rng.uniform(0.0, 0.005)
    connection = Connection(target, role="test")
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
    assert answered + before_sending + after_sending == count
    assert before_sending > count / 5
    assert after_sending > count / 10
    assert answered > count / 4


async def test_a_request_cancelled_before_sending_is_never_executed(redis: Server) -> None:
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
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        large = connection.submit("ECHO", b"x" * 5_000)
        with pytest.raises(QueueFull, match="bytes"):
            connection.submit("ECHO", "y")
        assert len(await large.reply()) == 5_000
        assert await connection.execute("ECHO", "y") == b"y"


async def test_one_request_of_a_pass_can_be_sent_before_the_pass_ends(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    async with running_connection(connection):
        for _ in range(2):
            await trio.lowlevel.checkpoint()
            now, behind = connection.submit("ECHO", "now"), connection.submit("ECHO", "behind")
            now.send_now()
            assert now.sent
            assert behind.sent
            later = connection.submit("ECHO", "later")
            later.send_now()
            assert not later.sent
            assert [await each.reply() for each in (now, behind, later)] == [b"now", b"behind", b"later"]


@pytest.mark.parametrize("payload", ["x", "x" * pipeline.MAX_EARLY_BYTES])
async def test_a_server_with_nothing_to_do_gets_the_first_of_many_commands_early(
    redis: Server, payload: str
) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    account = Accounts().open(Principal("me", "unix"), Peer(1000, 1), "1")
    async with running_connection(connection):
        # Enough for two such parts.
        count = int(2.5 * EARLY_SECONDS / COMMAND_SECONDS)
        for asked_before in (False, True):
            # Nothing else is under way, and a pass begins.
            await connection.execute("PING")
            await trio.lowlevel.checkpoint()
            before = [connection.submit("PING")] if asked_before else []
            for request in before:
                request.send_now()
            turns().work_for(account)
            requests = [connection.submit("ECHO", f"{number} {payload}") for number in range(count)]
            turns().work_for(None)
            sent = [request.sent for request in requests]
            early = sent.index(False)
            if asked_before or len(payload) > 1:
                assert early == 0
            else:
                assert 0.3 < early / count <= 0.5
            # What is behind the first part waits for the end of the pass: it is one more write, not many.
            assert sent == [True] * early + [False] * (count - early)
            replies = [await request.reply() for request in requests]
            assert replies == [f"{number} {payload}".encode() for number in range(count)]
            for request in before:
                await request.reply()


async def test_a_client_that_is_alone_has_half_of_few_commands_sent_early(redis: Server) -> None:
    connection = Connection(Target(path=redis.path), role="test")
    accounts = Accounts()
    account, other = (accounts.open(Principal("me", "unix"), Peer(1000, n), str(n)) for n in (1, 2))
    few, many = 21, 100
    half = few // 2 + 1
    # The bytes of a command count, too.
    least = int(0.96 * LEAST_EARLY_SECONDS / COMMAND_SECONDS) + 1

    async def early(count: int) -> int:
        # A pass begins, in which nothing else is under way.
        await trio.lowlevel.checkpoint()
        turns().work_for(account)
        requests = [connection.submit("ECHO", "x") for _ in range(count)]
        turns().work_for(None)
        sent = [request.sent for request in requests]
        for request in requests:
            await request.reply()
        return sum(sent)

    async with running_connection(connection):
        # What is sent the first time shows how much there is.
        assert await early(few) == 0
        assert [await early(few) for _ in range(3)] == [half] * 3
        # A single one, or one of the daemon's own, shows nothing.
        assert await early(1) == 0
        await connection.execute("PING")
        assert await early(few) == half
        assert await early(least + 2) == half
        assert await early(few) == least
        assert await early(many) == half
        assert half < await early(many) < many / 3
        # While others have requests, too, these are few writes.
        turns().work_for(account)
        turns().work_for(other)
        turns().work_for(None)
        await early(few)
        assert await early(few) == 0
