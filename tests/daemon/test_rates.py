"""Rates of a real daemon: of each principal and tool, and who is too early is told when to come back."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from redstreamd.settings import load
from tests.support import preloaded
from tests.support.daemon import PROGRAM, clean_environment, home, request, running_daemon
from tests.support.servers import Server, free_port

EXAMPLE: Final = Path(__file__).parents[2] / "contrib" / "limits" / "red-stream.toml"


@attrs.define
class Client:
    """A connection on which calls are made, one after the other or all at once."""

    connection: socket.socket
    buffer: bytes = b""
    calls: int = 0

    def send(self, tool: str, **arguments: Any) -> None:
        """Make a call."""
        self.calls += 1
        self.connection.sendall(request(self.calls, tool, arguments))

    def answers(self, number: int) -> list[dict[str, Any]]:
        """Return the structured results of the next calls that are answered."""
        return [each["structuredContent"] for each in self._results(number)]

    def texts(self, number: int) -> list[str]:
        """Return the same as texts; the original's tools answer with nothing else."""
        return [each["content"][0]["text"] for each in self._results(number)]

    def _results(self, number: int) -> list[dict[str, Any]]:
        while self.buffer.count(b"\n") < number:
            data = self.connection.recv(1 << 16)
            assert data, "the daemon closed the connection"
            self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n", number)
        return [json.loads(line)["result"] for line in lines]


@contextlib.contextmanager
def two_sockets(server: Server, *options: str) -> Iterator[tuple[Client, Client]]:
    """Run a daemon with a client of each of two principals, "unix" and "tcp"."""
    port = free_port()
    with home() as directory, contextlib.ExitStack() as stack:
        path = f"{directory}/redstreamd/mcp.sock"
        listen = ["--listen", f"unix:{path}", "--listen", f"tcp:127.0.0.1:{port}"]
        stack.enter_context(running_daemon(server, *options, *listen, directory=directory))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.settimeout(60)
        unix.connect(path)
        tcp = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        yield Client(unix), Client(tcp)


def refused(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in answers if each.get("code") == "RATE_LIMITED"]


def test_each_principal_has_its_own_rate_of_each_tool_and_is_told_when_to_come_back(redis: Server) -> None:
    rates = "stream_list@tcp=1/min burst 3,stream_list=2/min burst 2,stream_add=1/h"
    with two_sockets(redis, "--set", f"limits.rates={rates}") as (unix, tcp):
        for client, passing in ((unix, 2), (tcp, 3)):
            for _ in range(10):
                client.send("stream_list")
            answers = client.answers(10)
            assert len(refused(answers)) == 10 - passing
            assert sum("streams" in answer for answer in answers) == passing
        (error, *_) = refused(answers)
        assert set(error) == {"code", "message", "cause", "next_step", "retry_after_seconds"}
        assert 50 < error["retry_after_seconds"] <= 60
        assert "tcp" in error["cause"]
        assert "limits.rates" in error["cause"]
        # What is refused for another reason does not count, and a tool without a rate has none.
        for _ in range(5):
            unix.send("stream_add", stream="", entries=[{"n": 1}])
        assert not refused(unix.answers(5))
        unix.send("stream_add", stream="orders:new:stream", entries=[{"n": 1}])
        unix.send("stream_add", stream="orders:new:stream", entries=[{"n": 1}])
        assert sorted("ids" in answer for answer in unix.answers(2)) == [False, True]
        for _ in range(100):
            unix.send("stream_read", stream="orders:new:stream")
        assert all(len(answer["entries"]) == 1 for answer in unix.answers(100))


def test_who_comes_back_when_told_is_served(redis: Server) -> None:
    with two_sockets(redis, "--set", "limits.rates=stream_list=2/s burst 1") as (client, _):
        calls = waited = 0
        # Until it was told at all: where this process is held up for as long as it would be told, it is not.
        while calls < 4 or not waited:
            calls += 1
            client.send("stream_list")
            (answer,) = client.answers(1)
            while answer.get("code") == "RATE_LIMITED":
                waited += 1
                assert answer["retry_after_seconds"] <= 0.5
                time.sleep(answer["retry_after_seconds"])
                client.send("stream_list")
                (answer,) = client.answers(1)
        # Told once each time at most: the clock of this process is the daemon's.
        assert waited < calls


def test_the_example_holds_the_rates_of_the_original(redis: Server) -> None:
    rates = {rate.tool: rate.per_second for rate in load(config=EXAMPLE, environ={}).settings.limits.rates}
    original = {"add_stream_message": 1000, "read_group": 100, "list_groups": 10, "create_consumer_group": 5}
    assert rates | original == rates
    options = ("--config", str(EXAMPLE), "--set", "tools.profile=red-stream,operator")
    with two_sockets(redis, *options) as (unix, tcp):
        unix.send("stream_add", stream="s", entries=[{"n": 1}])
        unix.answers(1)
        for client in (unix, tcp):
            began = time.monotonic()
            for _ in range(100):
                client.send("list_groups", stream="s")
            limited = [each for each in client.texts(100) if "RATE_LIMITED" in each]
            # A second of calls at once, and then as many as the time allows.
            assert 10 <= 100 - len(limited) <= 11 + 10 * (time.monotonic() - began)


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_a_rate_of_a_tool_that_does_not_exist_is_refused_with_the_nearest(command: str) -> None:
    with home() as directory:
        done = preloaded.run(
            [PROGRAM, command, "--set", "limits.rates=stream_ad=5/s"],
            text=True,
            timeout=60,
            env=clean_environment(directory),
        )
    assert done.returncode == 78
    assert "limits.rates" in done.stderr
    assert "such as stream_add" in done.stderr
