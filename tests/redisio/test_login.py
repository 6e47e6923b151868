from __future__ import annotations

import contextlib
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import attrs
import pytest
import trio

from redstreamd.redisio.connection import Connection
from redstreamd.redisio.redis_errors import ConnectionEnded, Problem, ProblemKind
from redstreamd.redisio.target import Target
from tests.redisio.running import failure_of, over_tcp, running_connection, slow_loading, through
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.proxy import proxy_to
from tests.support.servers import Server, free_port, start_redis, start_valkey
from tests.support.waiting import until

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module", params=[start_redis, start_valkey], ids=["redis", "valkey"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that asks for a password, with two further users."""
    start: Callable[..., AbstractContextManager[Server]] = request.param
    with start("--requirepass", PASSWORD) as server:
        for user, *rules in (
            ("agent", "on", ">secret", "~*", "+@all"),
            ("open", "on", "nopass", "~*", "+@all"),
            ("mute", "on", ">secret", "~*", "+@all", "-ping"),
            ("stuck", "on", ">secret", "~*", "+@all", "-select"),
        ):
            _, created = server.commands(("AUTH", PASSWORD), ("ACL", "SETUSER", user, *rules))
            assert created == b"OK"
        yield server


@contextlib.asynccontextmanager
async def peer_that_says(first: bytes, *answers: bytes) -> AsyncIterator[Target]:
    """Something listening that is no Redis in its right mind: it may speak first, and it hangs up."""

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            if first:
                await stream.send_all(first)
            for answer in answers:
                await stream.receive_some()
                os.write(stream.socket.fileno(), answer)
            # In the step of the last answer, so that the client finds both together.
            stream.socket.shutdown(socket.SHUT_WR)
            await stream.receive_some()
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Target(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("username", "password"),
    [(None, PASSWORD), ("default", PASSWORD), ("agent", "secret"), ("open", None), ("open", "anything")],
)
async def test_right_logins_are_accepted(guarded: Server, username: str | None, password: str | None) -> None:
    target = Target(path=guarded.path, username=username, password=password)
    connection = Connection(target, role="test")
    async with running_connection(connection):
        assert await connection.execute("ACL", "WHOAMI") == (username or "default").encode()


@pytest.mark.parametrize(
    ("username", "password", "cause", "next_step"),
    [
        (None, None, "no password is configured here", "Set REDIS_PASSWORD"),
        (None, "wrong", "logging in as the default user", "Correct REDIS_PASSWORD"),
        ("agent", "wrong", "logging in as user 'agent'", "REDIS_USERNAME"),
        ("nobody", "secret", "logging in as user 'nobody'", "REDIS_USERNAME"),
        ("mute", "secret", "user 'mute' may not run PING", "ACL SETUSER mute +ping "),
        ("stuck", "secret", "user 'stuck' may not run SELECT", "ACL SETUSER stuck +select "),
    ],
)
async def test_wrong_logins_name_what_to_change(
    guarded: Server, username: str | None, password: str | None, cause: str, next_step: str
) -> None:
    failure = await failure_of(Target(path=guarded.path, username=username, password=password, database=1))
    assert failure.kind is ProblemKind.SETTINGS
    assert cause in failure.cause
    assert next_step in failure.next_step
    # Where no password is set here, this is where one has to be set.
    assert failure.server_can_help is (password is not None)
    assert "secret" not in repr(failure)
    assert "wrong" not in failure.cause.replace("WRONGPASS", "")


async def test_a_password_that_the_server_does_not_ask_for_is_an_error_that_says_so(server: Server) -> None:
    failure = await failure_of(Target(path=server.path, password="unexpected"))
    assert failure.kind is ProblemKind.SETTINGS
    assert "a password is configured here, but this Redis has none" in failure.cause
    assert "Remove REDIS_PASSWORD" in failure.next_step
    assert failure.server_can_help
    assert "unexpected" not in repr(failure)


def test_a_target_never_shows_its_password() -> None:
    target = Target(username="agent", password="secret")
    assert "secret" not in repr(target)
    assert "secret" not in target.label
    assert "agent" in repr(target)


@pytest.mark.parametrize(
    ("target", "label"),
    [
        (Target(), "localhost:6379"),
        (Target(host="::1", port=7000), "[::1]:7000"),
        (Target(path="/run/redis/redis.sock"), "/run/redis/redis.sock"),
    ],
)
def test_a_target_is_labelled_by_its_address(target: Target, label: str) -> None:
    assert target.label == label


async def test_the_database_is_selected_and_the_client_has_a_name(server: Server) -> None:
    for target in (Target(path=server.path, database=3), over_tcp(server, database=3)):
        connection = Connection(attrs.evolve(target, client_name="redstreamd-7"), role="command")
        async with running_connection(connection):
            await connection.execute("SET", "where", "three")
            clients = server.command("CLIENT", "LIST").decode()
            assert connection.server.split()[0] in ("redis", "valkey")
        assert "name=redstreamd-7:command db=3" in " ".join(
            field for field in clients.split() if field.startswith(("name=", "db="))
        )
        assert server.commands(("SELECT", 3), ("GET", "where"))[1] == b"three"


async def test_a_database_out_of_range_is_a_settings_error(server: Server) -> None:
    failure = await failure_of(Target(path=server.path, database=99))
    assert failure.kind is ProblemKind.SETTINGS
    assert "database 99" in failure.cause


@pytest.mark.parametrize("unix", [True, False])
async def test_a_full_server_says_so_however_early_it_hangs_up(server: Server, unix: bool) -> None:
    inside = Connection(Target(path=server.path), role="inside")
    async with running_connection(inside):
        await inside.execute("CONFIG", "SET", "maxclients", 1)
        try:
            failures = [
                await failure_of(Target(path=server.path) if unix else over_tcp(server)) for _ in range(30)
            ]
        finally:
            await inside.execute("CONFIG", "SET", "maxclients", 10_000)
    assert {failure.kind for failure in failures} == {ProblemKind.UNREACHABLE}
    assert {failure.cause for failure in failures} == {"ERR max number of clients reached"}
    assert "maxclients" in failures[0].next_step


async def test_a_server_that_loads_its_data_is_not_used_yet(server: Server) -> None:
    with slow_loading(server, 1.0):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, server.command, "DEBUG", "RELOAD")
            await until(lambda: str(server.command("PING")).startswith("LOADING"))
            failure = await failure_of(Target(path=server.path))
    assert failure.kind is ProblemKind.NOT_SERVING
    assert failure.cause.startswith("LOADING")


async def test_a_server_that_cannot_save_is_used_all_the_same() -> None:
    with start_redis("--save", "3600 1000000", "--dbfilename", "d.rdb") as server:
        # A directory of that name: the dump cannot be written, and the server goes MISCONF.
        (server.directory / "d.rdb").mkdir()
        server.commands(("SET", "key", "value"), ("BGSAVE",))
        try:
            await until(lambda: str(server.command("PING")).startswith("MISCONF"))
            connection = Connection(Target(path=server.path), role="test")
            async with running_connection(connection):
                assert await connection.execute("GET", "key") == b"value"
        finally:
            # Else it refuses to stop.
            server.command("CONFIG", "SET", "save", "")


async def test_a_connection_that_breaks_with_the_last_reply_of_its_login_never_opens() -> None:
    """The reader and the login see both in the same step, in random order; hence many times."""
    opened: list[Problem | None] = []

    class Status(trio.TaskStatus[None]):
        def started(self, value: None = None) -> None:
            opened.append(connection._problem)

    async with peer_that_says(b"", b"%0\r\n", b"+PONG\r\n") as target:
        for _ in range(60):
            connection = Connection(target, role="test")
            with pytest.raises(ConnectionEnded):
                await connection.run(task_status=Status())
    assert [failure for failure in opened if failure is not None] == []


@pytest.mark.parametrize(
    ("words", "kind", "cause"),
    [
        (b"-DENIED Redis is running in protected mode\r\n", ProblemKind.SETTINGS, "protected mode"),
        (b"-ERR unknown command `AUTH`, with args\r\n" * 2, ProblemKind.SETTINGS, "unknown command"),
        (b"-NOPROTO unsupported protocol version\r\n" * 2, ProblemKind.SETTINGS, "NOPROTO"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProblemKind.UNREACHABLE, "could not be read"),
        (b"", ProblemKind.UNREACHABLE, "closed the connection"),
    ],
)
async def test_peers_that_are_no_usable_redis_are_described(
    words: bytes, kind: ProblemKind, cause: str
) -> None:
    async with peer_that_says(words) as target:
        failure = await failure_of(target)
    assert failure.kind is kind
    assert cause in failure.cause


async def test_a_server_that_accepts_and_stays_silent_is_given_up(redis: Server, clock: Clock) -> None:
    async with proxy_to(redis.path) as proxy:
        proxy.to_client.hold()
        began, started = trio.current_time(), clock()
        failure = await failure_of(through(proxy, connect_timeout=0.3))
        assert trio.current_time() - began >= 0.3
        with measured:
            assert clock() - started < 0.5
    assert "did not answer the login within 0.3 s" in failure.cause


async def test_addresses_that_lead_nowhere_name_the_setting_to_correct(tmp_path: Path) -> None:
    nobody = await failure_of(Target(host="localhost", port=free_port()))
    missing = await failure_of(Target(path=str(tmp_path / "missing.sock")))
    unknown = await failure_of(Target(host="no-such-host.invalid"))
    assert nobody.cause == "Connection refused"  # once, though localhost has two addresses
    assert "REDIS_HOST and REDIS_PORT" in nobody.next_step
    assert missing.cause == "No such file or directory"
    assert "unixsocket" in missing.next_step
    assert "REDIS_HOST" in unknown.next_step
    assert {each.kind for each in (nobody, missing, unknown)} == {ProblemKind.UNREACHABLE}
