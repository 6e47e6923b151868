"""From the settings to the login: each mistake has its own sentence, and what depends on it is skipped."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from redstreamd.doctor import Severity
from tests.doctor.conftest import CHECKS, Examine, Report
from tests.support.certificates import Authority, tls_options
from tests.support.servers import Server, free_port, start_redis, start_redis8, start_redis62

OF_THE_SERVER = CHECKS[CHECKS.index("permissions") : CHECKS.index("secrets")]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server whose default user has a password, with a further user."""
    with start_redis("--requirepass", "hunter2") as server:
        server.commands(("AUTH", "hunter2"), ("ACL", "SETUSER", "agent", "on", ">hunter3", "~*", "+@all"))
        yield server


def assert_stopped_at(report: Report, name: str) -> None:
    """Everything before is fine or not applicable; everything on the server after it is skipped."""
    assert list(report) == CHECKS
    assert report[name].severity is Severity.ERROR
    assert report[name].seen
    assert report[name].todo
    for before in CHECKS[: CHECKS.index(name)]:
        assert report[before].severity in (Severity.OK, Severity.SKIPPED), report[before]
    for after in OF_THE_SERVER:
        assert report[after].severity is Severity.SKIPPED
        assert report[after].seen
    # The daemon is looked at in any case.
    assert report["socket"].severity is Severity.WARNING


async def test_a_healthy_server_passes_every_check_in_order(report: Examine, server: Server) -> None:
    found = await report(host="127.0.0.1", port=server.port)
    assert list(found) == CHECKS
    for name in ("settings", "name_resolution", "connect", "login", *OF_THE_SERVER):
        if name != "persistence":  # the servers of tests keep nothing on disk
            assert found[name].severity is Severity.OK, found[name]
    assert found["persistence"].severity is Severity.WARNING
    assert found["tls"].severity is Severity.SKIPPED
    # It leaves nothing behind.
    assert server.command("DBSIZE") == 0


@pytest.mark.parametrize(("start", "newest"), [(start_redis62, False), (start_redis8, True)])
async def test_the_oldest_and_the_newest_server_pass_too(
    report: Examine, start: Callable[[], AbstractContextManager[Server]], newest: bool
) -> None:
    with start() as server:
        server.commands(
            ("ACL", "SETUSER", "narrow", "on", ">p", "~a:*", "+@all", "-acl"),
            ("XADD", "a:b:c", "*", "f", "v"),
        )
        every = await report(path=server.path)
        narrow = await report(path=server.path, username="narrow", password="p")
    for found in (every, narrow):
        for name in ("login", "permissions", "version", "tracking", "scripts", "streams"):
            assert found[name].severity is Severity.OK, found[name]
    assert ("XNACK" in every["version"].seen) is newest


async def test_the_classic_mistakes_with_passwords_have_a_sentence_each(
    report: Examine, redis: Server, guarded: Server
) -> None:
    mistakes = {
        "password where none is set": await report(path=redis.path, password="hunter9"),
        "none where one is needed": await report(path=guarded.path),
        "wrong password": await report(path=guarded.path, password="hunter9"),
        "wrong user": await report(path=guarded.path, username="nobody", password="hunter3"),
    }
    for found in mistakes.values():
        assert_stopped_at(found, "login")
        assert "hunter" not in repr(found)
    seen = {name: found["login"].seen for name, found in mistakes.items()}
    assert "a password is configured here, but this Redis has none" in seen["password where none is set"]
    assert "no password is configured here" in seen["none where one is needed"]
    assert "logging in as the default user" in seen["wrong password"]
    assert "logging in as user 'nobody'" in seen["wrong user"]
    todo = {name: found["login"].todo for name, found in mistakes.items()}
    assert "Remove REDIS_PASSWORD" in todo["password where none is set"]
    assert "Set REDIS_PASSWORD" in todo["none where one is needed"]
    assert "Correct REDIS_PASSWORD" in todo["wrong password"]
    assert "user 'nobody' exists and is on" in todo["wrong user"]
    assert len(set(todo.values())) == len(mistakes)


async def test_the_right_login_is_accepted(report: Examine, guarded: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter3\n")
    found = await report(path=guarded.path, username="agent", password_file=file)
    assert found["login"].severity is Severity.OK
    assert found["name_resolution"].severity is Severity.SKIPPED
    assert guarded.path in found["name_resolution"].seen
    assert "password from a file" in found["login"].tried
    assert "hunter" not in repr(found)


async def test_a_password_file_that_is_missing_stops_at_the_login(report: Examine, guarded: Server) -> None:
    found = await report(path=guarded.path, password_file="/nonexistent/password")
    assert_stopped_at(found, "login")
    assert "/nonexistent/password cannot be used" in found["login"].seen


async def test_a_name_that_nobody_knows_stops_there(report: Examine) -> None:
    found = await report(host="no-such-host.invalid")
    assert_stopped_at(found, "name_resolution")
    assert found["connect"].seen == "the name is unknown"


async def test_a_port_where_nobody_listens_stops_there(report: Examine) -> None:
    # Held, so that no other process can listen there.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        found = await report(host="127.0.0.1", port=held.getsockname()[1])
    assert_stopped_at(found, "connect")
    assert found["connect"].seen == "Connection refused"
    assert "REDIS_PORT" in found["connect"].todo


async def test_a_socket_that_is_missing_stops_there(report: Examine, tmp_path: Path) -> None:
    found = await report(path=tmp_path / "no.sock")
    assert_stopped_at(found, "connect")


async def test_tls_is_examined_on_its_own(report: Examine, tmp_path: Path) -> None:
    authority, port = Authority(tmp_path), free_port()
    certificate = authority.issue("server", "localhost")
    with start_redis(*tls_options(port, authority, certificate, clients="no")) as server:
        good = await report(host="localhost", port=port, tls=True, ca_file=authority.certificate)
        distrusted = await report(host="localhost", port=port, tls=True)
        plain_port = await report(host="localhost", port=server.port, tls=True, connect_timeout_seconds=0.3)
        tls_port = await report(host="localhost", port=port)
    assert good["tls"].severity is Severity.OK
    assert "TLSv1.3; the server's certificate is valid until" in good["tls"].seen
    assert good["streams"].severity is Severity.OK
    assert_stopped_at(distrusted, "tls")
    assert "redis.ca_file" in distrusted["tls"].todo
    assert_stopped_at(plain_port, "tls")
    assert "redis://" in plain_port["tls"].todo
    assert_stopped_at(tls_port, "login")
    assert "rediss://" in tls_port["login"].todo
