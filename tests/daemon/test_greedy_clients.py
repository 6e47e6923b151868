"""One process that takes all connections, waits or subscriptions, and others of the same socket beside it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs

from tests.support import preloaded
from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, request, running_daemon
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

WAITS: Final = 40
#: How long a polite one waits. Whose time is over before it has looked at its streams needs no place.
LASTING: Final = 1
CONNECTIONS: Final = 30


@attrs.define
class Client:
    """A connection of this process."""

    connection: socket.socket
    buffer: bytes = b""

    def send(self, line: bytes) -> None:
        """Send a request."""
        self.connection.sendall(line)

    def message(self) -> dict[str, Any]:
        """Return the next message."""
        while b"\n" not in self.buffer:
            data = self.connection.recv(1 << 16)
            assert data, "the daemon closed the connection"
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        decoded: dict[str, Any] = json.loads(line)
        return decoded

    def answer(self) -> dict[str, Any]:
        """Return the content of the next answer."""
        content: dict[str, Any] = self.message()["result"]["structuredContent"]
        return content

    def has_ended(self) -> bool:
        """Return whether the daemon closes the connection, after what was sent before."""
        while data := self.connection.recv(1 << 16):
            self.buffer += data
        return True


@contextlib.contextmanager
def client_of(address: str | int) -> Iterator[Client]:
    """Connect to a path or a TCP port."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(120)
        connection.connect(address if isinstance(address, str) else ("127.0.0.1", address))
        yield Client(connection)


def another_process(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of redstreamd: a client of its own at the daemon's socket."""
    command, *rest = words
    return preloaded.run(
        [PROGRAM, command, "--socket", daemon.path, *rest],
        env=clean_environment(daemon.directory),
        text=True,
        timeout=60,
    )


def wait_line(number: int, stream: str = "s", seconds: float = 3_000, **more: Any) -> bytes:
    return request(number, "stream_wait", {"streams": [stream], "timeout_seconds": seconds, **more})


def waiting(daemon: Daemon) -> int:
    """Return how many calls wait, as the daemon's health tells."""
    with client_of(daemon.path) as client:
        client.send(modern("resources/read", uri="redstream://health"))
        text = client.message()["result"]["contents"][0]["text"]
    number: int = json.loads(text)["waiting"]["watches"]
    return number


def modern(method: str, **params: Any) -> bytes:
    """Return the line of a request in the 2026-07-28 era."""
    message = json.loads(request(1, "", {}))
    message["method"] = method
    message["params"] = {"_meta": message["params"]["_meta"], **params}
    return json.dumps(message).encode() + b"\n"


def until_waiting(daemon: Daemon, number: int) -> None:
    deadline = time.monotonic() + 120
    while waiting(daemon) != number:
        assert time.monotonic() < deadline, f"{waiting(daemon)} wait"
        time.sleep(0.01)


def test_where_one_process_has_all_waits_others_wait_and_it_loses_nothing(redis: Server) -> None:
    redis.command("XADD", "s", "1-0", "n", "1")
    limit = ("--set", f"limits.max_waits={WAITS}", "--set", "tools.max_wait_seconds=3600")
    with (
        running_daemon(redis, *limit) as daemon,
        client_of(daemon.path) as first,
        client_of(daemon.path) as rest,
    ):
        # The oldest is the first one of this connection.
        first.send(wait_line(1))
        until_waiting(daemon, 1)
        for number in range(2, WAITS + 1):
            rest.send(wait_line(number))
        until_waiting(daemon, WAITS)
        for client in (first, rest):
            client.send(wait_line(1000))
            refused = client.answer()
            assert refused["code"] == "RATE_LIMITED"
            assert refused["retry_after_seconds"] > 0
            assert "limits.max_waits" in refused["next_step"]
        polite = another_process(
            daemon, "call", "stream_wait", json.dumps({"streams": ["s"], "timeout_seconds": LASTING})
        )
        assert polite.returncode == 0, polite.stdout + polite.stderr
        assert "RATE_LIMITED" not in polite.stdout
        # As at its timeout: nothing came, and it goes on from its cursor, once there is a place.
        ended = first.answer()
        assert ended["entries"] == []
        redis.command("XADD", "s", "2-0", "n", "2")
        first.send(wait_line(2, cursor=ended["next_cursor"]))
        assert [entry["id"] for entry in first.answer()["entries"]] == ["2-0"]
        for _ in range(WAITS - 1):
            assert [entry["id"] for entry in rest.answer()["entries"]] == ["2-0"]
        assert waiting(daemon) == 0


def test_takes_in_the_queue_of_a_group_give_way_as_any_wait(redis: Server) -> None:
    redis.command("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM")
    limit = ("--set", f"limits.max_waits={WAITS}")
    with running_daemon(redis, *limit) as daemon, client_of(daemon.path) as greedy:
        for number in range(WAITS):
            take = {"stream": "s", "group": "g", "consumer": "c", "timeout_seconds": 200}
            greedy.send(request(number, "work_take", take))
        until_waiting(daemon, WAITS)
        for told in range(3):
            polite = another_process(
                daemon,
                "call",
                "stream_wait",
                json.dumps({"streams": ["t"], "timeout_seconds": LASTING}),
            )
            assert polite.returncode == 0, polite.stdout + polite.stderr
            assert greedy.answer()["entries"] == []
            # What the other one has left is free.
            greedy.send(request(1_000 + told, "work_take", take))
            until_waiting(daemon, WAITS)
        # Whoever is left gets what comes.
        redis.command("XADD", "s", "1-0", "n", "1")
        assert [entry["id"] for entry in greedy.answer()["entries"]] == ["1-0"]


def test_each_principal_has_its_own_limits_of_waits_and_subscriptions(redis: Server) -> None:
    port = free_port()
    with home() as directory, contextlib.ExitStack() as stack:
        path = f"{directory}/redstreamd/mcp.sock"
        options = [f"unix:{path}", f"tcp:127.0.0.1:{port}"]
        limits = ("max_waits_per_principal=3", "max_subscriptions_per_principal=2")
        daemon = stack.enter_context(
            running_daemon(
                redis,
                *(word for each in options for word in ("--listen", each)),
                *(word for each in limits for word in ("--set", f"limits.{each}")),
                directory=directory,
            )
        )
        unix, tcp = (stack.enter_context(client_of(each)) for each in (daemon.path, port))
        for client in (unix, tcp):
            for number in range(4):
                client.send(wait_line(number, "a"))
            refused = client.answer()
            assert refused["code"] == "RATE_LIMITED"
            assert "limits.max_waits_per_principal" in refused["next_step"]
        until_waiting(daemon, 6)
        listens = [stack.enter_context(client_of(each)) for each in (daemon.path, daemon.path, port)]
        texts = [
            listen(client, f"redstream://streams/{name}") for client, name in zip(listens, "xyz", strict=True)
        ]
        assert all("acknowledged" in text for text in texts)
        another = stack.enter_context(client_of(daemon.path))
        assert "limits.max_subscriptions_per_principal" in listen(another, "redstream://streams/w")


def listen(client: Client, uri: str) -> str:
    """Subscribe to a resource, and return the first message as text."""
    client.send(modern("subscriptions/listen", notifications={"resourceSubscriptions": [uri]}))
    return json.dumps(client.message())


def test_where_one_process_has_all_connections_others_are_served_and_the_status_takes_none(
    redis: Server,
) -> None:
    limit = ("--set", f"limits.max_connections={CONNECTIONS}")
    with running_daemon(redis, *limit) as daemon, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(client_of(daemon.path)) for _ in range(CONNECTIONS - 1)]
        used = stack.enter_context(client_of(daemon.path))
        used.send(wait_line(1, "a", 100))
        until_waiting(daemon, 1)
        done = another_process(daemon, "status")
        assert done.returncode == 0, done.stderr
        # Nobody gives way for one more of the process that has most.
        further = stack.enter_context(client_of(daemon.path))
        further.send(request(1, "stream_list", {}))
        assert "limits.max_connections" in further.message()["error"]["message"]
        assert "closed a connection" not in daemon.log
        for _ in range(3):
            polite = another_process(daemon, "call", "stream_list", "{}")
            assert polite.returncode == 0, polite.stdout + polite.stderr
        # One after the other takes the same place.
        message = idle[0].message()
        assert message["id"] is None
        assert "closed for another client" in message["error"]["message"]
        assert idle[0].has_ended()
        # The others, and the one that waits, are as they were.
        idle[-1].send(request(1, "stream_list", {}))
        assert idle[-1].answer()["streams"] == []
        redis.command("XADD", "a", "1-0", "n", "1")
        assert [entry["id"] for entry in used.answer()["entries"]] == ["1-0"]
        wait_until(lambda: "closed a connection" in daemon.log)
        (record,) = [line for line in daemon.log.splitlines() if "closed a connection" in line]
        assert " WARNING " in record
        assert "limits.max_connections" in record
