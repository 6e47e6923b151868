from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from redis.auth.token import SimpleToken
from redis.credentials import (
    CredentialProvider,
    StreamingCredentialProvider,
    UsernamePasswordCredentialProvider,
)

from redstreamd.redisio import credentials
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.credentials import PasswordFile
from redstreamd.redisio.node import RedisEvent, Role
from redstreamd.redisio.reauth import LoginRenewed, RenewalFailed
from redstreamd.redisio.redis_errors import ProblemKind
from redstreamd.redisio.server_health import ConnectionLost
from redstreamd.redisio.target import Target
from tests.redisio.running import failure_of, running_connection, running_node
from tests.support.servers import Server, start_redis
from tests.support.waiting import until


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server whose default user has a password, with a further user."""
    with start_redis("--requirepass", "first") as server:
        yield server


@pytest.fixture(autouse=True)
def passwords(guarded: Server) -> Iterator[Callable[[str, str], None]]:
    """Set the password of a user; both are as they were at the start of each test."""
    current = "first"

    def set_password(user: str, password: str) -> None:
        nonlocal current
        _, done = guarded.commands(
            ("AUTH", current),
            ("ACL", "SETUSER", user, "on", "resetpass", f">{password}", "~*", "&*", "+@all"),
        )
        assert done == b"OK"
        if user == "default":
            current = password

    set_password("agent", "secret")
    yield set_password
    set_password("default", "first")


class Provider(CredentialProvider):
    """Gives what the test puts there, and remembers who asked."""

    def __init__(self, *given: str) -> None:
        self.given: tuple[str, ...] = given
        self.threads: list[threading.Thread] = []
        self.answers = 0
        self.hold: threading.Event | None = None

    def get_credentials(self) -> Any:
        self.threads.append(threading.current_thread())
        if self.hold is not None:
            self.hold.wait(10)
        self.answers += 1
        return self.given


class Streaming(Provider, StreamingCredentialProvider):
    """One that announces."""

    def on_next(self, callback: Callable[[Any], None]) -> None:
        self.announce = callback

    def on_error(self, callback: Callable[[Exception], None]) -> None:
        self.fail = callback

    def is_streaming(self) -> bool:
        return True


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
async def test_the_password_is_read_from_a_file(guarded: Server, tmp_path: Path, ending: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(f"secret{ending}".encode())
    target = Target(path=guarded.path, credentials=PasswordFile(str(file), "agent"))
    async with running_connection(connection := Connection(target, role="test")):
        assert await connection.execute("ACL", "WHOAMI") == b"agent"


async def test_a_password_that_was_rotated_is_used_by_the_next_login(
    guarded: Server, tmp_path: Path, passwords: Callable[[str, str], None]
) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    target = Target(path=guarded.path, credentials=PasswordFile(str(file)))
    events: list[RedisEvent] = []
    async with running_node(target, events=events) as node:
        assert await node.execute("ACL", "WHOAMI") == b"default"
        passwords("default", "second")
        file.write_text("second\n")
        number = await node.execute("CLIENT", "ID")
        guarded.commands(("AUTH", "second"), ("CLIENT", "KILL", "ID", number))
        await until(lambda: any(isinstance(event, ConnectionLost) for event in events))
        await node.wait_connected()
        assert await node.execute("CLIENT", "ID") != number


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b"x" * (credentials.MAX_PASSWORD_BYTES + 1), "it is longer than 65536 bytes"),
    ],
)
async def test_a_file_without_a_password_is_named(
    guarded: Server, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    failure = await failure_of(Target(path=guarded.path, credentials=PasswordFile(str(file))))
    assert failure.cause == f"the password file {file} cannot be used: {reason}"
    assert "redis.password_file" in failure.next_step
    # It may be there again in a moment.
    assert failure.kind is ProblemKind.UNREACHABLE


async def test_a_wrong_password_from_a_file_does_not_blame_the_environment(
    guarded: Server, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2")
    failure = await failure_of(Target(path=guarded.path, credentials=PasswordFile(str(file))))
    assert failure.kind is ProblemKind.SETTINGS
    assert "REDIS_PASSWORD" not in failure.next_step
    assert "hunter2" not in repr(failure)


@pytest.mark.parametrize(
    ("provider", "user"),
    [
        (Provider("agent", "secret"), b"agent"),
        (Provider("first"), b"default"),
        (UsernamePasswordCredentialProvider("agent", "secret"), b"agent"),
        (UsernamePasswordCredentialProvider(password="first"), b"default"),
    ],
)
async def test_a_provider_is_asked_instead_of_the_target(
    guarded: Server, provider: CredentialProvider, user: bytes
) -> None:
    target = Target(path=guarded.path, username="nobody", password="wrong", credentials=provider)
    async with running_connection(connection := Connection(target, role="test")):
        assert await connection.execute("ACL", "WHOAMI") == user


async def test_a_provider_that_blocks_holds_up_nobody_and_can_be_cancelled(guarded: Server) -> None:
    provider = Provider("first")
    provider.hold = threading.Event()
    target = Target(path=guarded.path, credentials=provider)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Connection(target, role="test").run)
            await until(lambda: provider.threads != [])
            nursery.cancel_scope.cancel()
        # That did not wait for it.
        assert provider.answers == 0
        assert threading.current_thread() not in provider.threads
    finally:
        provider.hold.set()


async def test_a_provider_that_gives_no_answer_is_blamed_instead_of_the_server(guarded: Server) -> None:
    provider = Provider("first")
    provider.hold = threading.Event()
    try:
        target = Target(path=guarded.path, credentials=provider, connect_timeout=0.2)
        failure = await failure_of(target)
    finally:
        provider.hold.set()
    assert failure.cause == "the credential provider gave no answer within 0.2 s"


async def test_a_provider_that_fails_is_named_without_its_words(guarded: Server) -> None:
    class Failing(CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            raise RuntimeError("token abc123 expired")

    failure = await failure_of(Target(path=guarded.path, credentials=Failing()))
    assert "Failing failed (RuntimeError)" in failure.cause
    assert "abc123" not in repr(failure)


def test_a_target_shows_nothing_of_its_provider() -> None:
    assert "Provider" not in repr(Target(credentials=Provider("agent", "secret")))


async def test_announced_credentials_reach_every_live_connection_from_another_thread(guarded: Server) -> None:
    provider = Streaming("first")
    events: list[RedisEvent] = []
    target = Target(path=guarded.path, credentials=provider)
    async with running_node(target, events=events) as node:
        numbers = {}
        for role in Role:
            numbers[role] = await node.execute("CLIENT", "ID", role=role)
            assert await node.execute("ACL", "WHOAMI", role=role) == b"default"
        provider.given = ("agent", "secret")
        await trio.to_thread.run_sync(provider.announce, "ask me again")
        await until(lambda: sum(isinstance(event, LoginRenewed) for event in events) == len(Role))
        for role in Role:
            assert await node.execute("ACL", "WHOAMI", role=role) == b"agent"
            # The very same connections.
            assert await node.execute("CLIENT", "ID", role=role) == numbers[role]


async def test_a_token_carries_its_own_user(guarded: Server) -> None:
    provider = Streaming("first")
    events: list[RedisEvent] = []
    target = Target(path=guarded.path, credentials=provider)
    async with running_node(target, events=events) as node:
        provider.announce(SimpleToken("secret", -1, 0, {"oid": "agent"}))
        await until(lambda: any(isinstance(event, LoginRenewed) for event in events))
        assert await node.execute("ACL", "WHOAMI") == b"agent"


async def test_a_renewal_that_is_refused_is_told_and_costs_no_connection(guarded: Server) -> None:
    provider = Streaming("first")
    events: list[RedisEvent] = []
    target = Target(path=guarded.path, credentials=provider)
    async with running_node(target, events=events) as node:
        number = await node.execute("CLIENT", "ID")
        provider.announce(SimpleToken("hunter2", -1, 0, {"oid": "agent"}))
        provider.fail(RuntimeError("hunter2"))
        await until(lambda: sum(isinstance(event, RenewalFailed) for event in events) == 2)
        assert await node.execute("CLIENT", "ID") == number
        assert await node.execute("ACL", "WHOAMI") == b"default"
    told = [event.cause for event in events if isinstance(event, RenewalFailed)]
    assert any("logging in as user 'agent'" in cause for cause in told)
    assert not any("hunter2" in cause for cause in told)


async def test_an_announcement_after_the_end_is_nobodys_business(guarded: Server) -> None:
    provider = Streaming("first")
    events: list[RedisEvent] = []
    async with running_node(Target(path=guarded.path, credentials=provider), events=events):
        pass
    provider.announce("too late")
    await trio.testing.wait_all_tasks_blocked()
    assert not any(isinstance(event, LoginRenewed | RenewalFailed) for event in events)
