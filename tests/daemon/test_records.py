"""What an administrator finds in the journal, in `redstreamd status` and behind `systemctl status`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import hiredis
import pytest

from tests.support import preloaded
from tests.support.counts import long
from tests.support.daemon import PROGRAM, Daemon, clean_environment, hasty, home, running_daemon
from tests.support.servers import Server, start_redis
from tests.support.waiting import wait_until

#: A daemon that soon asks whether writes are accepted again.
SOON = hasty("redstreamd.redisio.write_availability", "_ASK_SECONDS")


def records(daemon: Daemon, words: str) -> list[str]:
    """The records that contain `words`."""
    return [line for line in daemon.log.splitlines() if words in line]


def connections(server: Server) -> list[dict[str, str]]:
    """The daemon's connections, as CLIENT LIST describes them."""
    lines = server.command("CLIENT", "LIST").decode().splitlines()
    listed = [dict(word.partition("=")[::2] for word in line.split(" ")) for line in lines]
    return [each for each in listed if each["name"].startswith("redstreamd:")]


def status(daemon: Daemon) -> tuple[int, str]:
    """What `redstreamd status` says, and its exit status."""
    done = preloaded.run(
        [PROGRAM, "status", "--socket", daemon.path],
        env=clean_environment(daemon.directory),
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def use_every_connection(daemon: Daemon) -> None:
    """Have all four connections opened."""
    daemon.call("stream_add", stream="s", entries=[{"a": 1}], durability="replicated")
    daemon.call("stream_read", stream="s")
    daemon.call("stream_wait", streams=["s"], timeout_seconds=0)
    daemon.call("stream_wait", streams=["s"], cursor="9999999999999-0", timeout_seconds=1)


@pytest.fixture
def served() -> Iterator[tuple[Server, Daemon]]:
    """A daemon with all its connections, over TCP to a Redis of its own."""
    with home() as directory, start_redis() as server:
        address = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
        with running_daemon("absent", directory=directory, program=SOON, **address) as daemon:
            use_every_connection(daemon)
            wait_until(lambda: len(connections(server)) == 4)
            yield server, daemon


def test_an_outage_is_one_record_with_its_cause_and_one_for_its_end(served: tuple[Server, Daemon]) -> None:
    server, daemon = served
    # Long enough for each connection to count as one that worked.
    wait_until(lambda: all(int(each["age"]) >= 2 for each in connections(server)))
    before = len(daemon.log.splitlines())
    server.kill()
    wait_until(lambda: bool(records(daemon, "cannot use Redis")))
    assert status(daemon)[0] == 1
    server.start()
    wait_until(lambda: bool(records(daemon, "failed attempts")))
    wait_until(lambda: status(daemon)[0] == 0)
    log = daemon.log.splitlines()[before:]
    # A server that is ending may reset an attempt, and one that is beginning may be LOADING: reasons of their
    # own, each told once.
    reasons = [line for line in log if "cannot use Redis" in line]
    (refused,) = (line for line in reasons if "Connection refused. Start Redis" in line)
    assert len(reasons) <= 3, "\n".join(log)
    (back,) = (line for line in log if line not in reasons)
    # One connection may find the server gone before the next one does; the end names them all.
    roles = ("short commands", "waiting calls", "large reads", "confirmed writes")
    assert any(role in refused for role in roles)
    assert all(role in back for role in roles)
    assert "Nothing needs to be changed" not in refused + back


def test_a_missing_connection_is_degraded(served: tuple[Server, Daemon]) -> None:
    server, daemon = served
    wait_until(lambda: status(daemon)[0] == 0)
    clients = server.command("CLIENT", "LIST").decode().splitlines()
    (bulk,) = (dict(pair.split("=", 1) for pair in line.split()) for line in clients if ":bulk " in line)
    with open_client(server) as ask:
        ask("CONFIG", "SET", "maxclients", 1)
        ask("CLIENT", "KILL", "ID", bulk["id"])
        # First that it is gone, then why no other is let in.
        wait_until(lambda: status(daemon)[0] == 1 and "maxclients" in status(daemon)[1])
        text = status(daemon)[1]
        ask("CONFIG", "SET", "maxclients", 1000)
    assert "DEGRADED: no connection for large reads: " in text
    assert len(records(daemon, "cannot use Redis")) == 1
    wait_until(lambda: status(daemon)[0] == 0)


@contextlib.contextmanager
def open_client(server: Server) -> Iterator[Callable[..., Any]]:
    """A client that is there already when no other is let in."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server.path)

        def ask(*args: str | int) -> Any:
            connection.sendall(hiredis.pack_command(args))
            reader = hiredis.Reader()
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(1 << 16))
            return reply

        yield ask


def test_a_server_that_refuses_writes_is_told_and_shown(served: tuple[Server, Daemon]) -> None:
    server, daemon = served
    server.command("REPLICAOF", "127.0.0.1", 1)
    for _ in range(3):
        assert daemon.call("stream_add", stream="s", entries=[{"a": 1}])["isError"]
    # Records are written beside the answers.
    wait_until(lambda: records(daemon, "refuses writes"))
    (record,) = records(daemon, "refuses writes")
    assert "READONLY" in record
    assert "redis.topology" in record
    code, text = status(daemon)
    assert code == 1
    assert "DEGRADED: Redis refuses writes" in text
    server.command("REPLICAOF", "NO", "ONE")
    wait_until(lambda: status(daemon)[0] == 0)
    wait_until(lambda: records(daemon, "accepts writes again"))
    assert len(records(daemon, "accepts writes again")) == 1


def test_a_server_that_cannot_save_is_shown_as_what_it_is_though_nobody_writes() -> None:
    options = ("--save", "3600 1000000", "--dbfilename", "d.rdb")
    with start_redis(*options) as server, running_daemon(server, program=SOON) as daemon:
        server.command("SET", "key", "value")
        # A directory of that name: the dump cannot be written.
        (server.directory / "d.rdb").mkdir()
        server.command("BGSAVE")
        wait_until(lambda: str(server.command("PING")).startswith("MISCONF"))
        wait_until(lambda: status(daemon)[0] == 1)
        text = status(daemon)[1]
        assert text.count("DEGRADED") == text.count("MISCONF") == 1
        wait_until(lambda: records(daemon, "refuses writes"))
        (record,) = records(daemon, "refuses writes")
        assert "MISCONF" in record
        # Else it also refuses to stop.
        server.command("CONFIG", "SET", "save", "")
        wait_until(lambda: status(daemon)[0] == 0)
        wait_until(lambda: records(daemon, "accepts writes again"))
        assert len(records(daemon, "accepts writes again")) == 1


@long
def test_an_idle_timeout_of_redis_is_named_once_and_fills_no_journal(served: tuple[Server, Daemon]) -> None:
    server, daemon = served
    server.command("CONFIG", "SET", "timeout", 1)
    wait_until(lambda: bool(records(daemon, "CONFIG GET timeout")))
    before = len(daemon.log.splitlines())
    seen = {each["id"] for each in connections(server)}
    known = len(seen)

    def replaced(times: int) -> bool:
        seen.update(each["id"] for each in connections(server))
        return len(seen) >= known + times

    wait_until(lambda: replaced(6))
    assert len(daemon.log.splitlines()) == before
    assert len(records(daemon, "CONFIG GET timeout")) == 1


def test_a_peer_that_sends_too_much_over_and_over_is_one_record(served: tuple[Server, Daemon]) -> None:
    _, daemon = served
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(daemon.path)
            with contextlib.suppress(OSError):
                peer.sendall(b"x" * (9 << 20))
                peer.recv(1 << 16)
    wait_until(lambda: bool(records(daemon, "limits.max_message_bytes")))
    daemon.stop()
    first, count = records(daemon, "limits.max_message_bytes")
    assert "skipped a message of" in first
    assert "over 4194304 bytes" in first
    assert "4 more" in count
