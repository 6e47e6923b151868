"""A host that vanishes, in a network namespace of its own; needs root and iproute2."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from redstreamd.redisio import dialing
from redstreamd.redisio.node import RedisEvent, Role
from redstreamd.redisio.redis_errors import OutcomeUnknown
from redstreamd.redisio.server_health import ConnectionLost
from redstreamd.redisio.target import Target
from tests.redisio.running import running_node
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.servers import Server, missing, redis_binary
from tests.support.waiting import until, wait_until

PORT = 6379


@attrs.define
class Host:
    """A Redis on a host that can be unplugged.

    Attributes:
        address: Its address.
        namespace: Its network namespace.
        server: The Redis there, whose Unix socket can be reached all the same.
    """

    address: str
    namespace: str
    server: Server

    def unplug(self) -> None:
        """Take its cable out: nothing is refused, nothing is acknowledged."""
        run("ip", "-n", self.namespace, "link", "set", "eth0", "down")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=10)


@pytest.fixture
def host() -> Iterator[Host]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("a network namespace", "run as root, with iproute2")
    namespace, ours = f"rs-{os.getpid()}", f"rs{os.getpid()}"
    directory = Path(tempfile.mkdtemp(prefix="rs-"))
    server = Server(binary=redis_binary(), directory=directory, port=PORT)
    run("ip", "netns", "add", namespace)
    try:
        run("ip", "link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "address", "add", "198.18.77.1/30", "dev", ours)
        run("ip", "link", "set", ours, "up")
        run("ip", "-n", namespace, "address", "add", "198.18.77.2/30", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        server.process = subprocess.Popen(
            [
                *("ip", "netns", "exec", namespace, server.binary, "--port", str(PORT)),
                *("--unixsocket", server.path, "--dir", str(directory), "--save", ""),
                *("--bind", "198.18.77.2", "--protected-mode", "no"),
            ],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: (directory / "redis.sock").exists())
        yield Host("198.18.77.2", namespace, server)
    finally:
        server.kill()
        # The namespace lives on while the kernel still tries to deliver; the link must not.
        subprocess.run(["ip", "link", "delete", ours], check=False, capture_output=True)
        run("ip", "netns", "delete", namespace)
        shutil.rmtree(directory, ignore_errors=True)


async def test_a_host_that_vanishes_with_unacknowledged_data_is_given_up_within_two_seconds(
    host: Host, clock: Clock
) -> None:
    events: list[RedisEvent] = []
    # A deadline that could not explain it.
    async with running_node(Target(host=host.address), events=events, command_timeout=60) as node:
        assert await node.execute("PING") == b"PONG"
        host.unplug()
        started = clock()
        with pytest.raises(OutcomeUnknown):
            await node.execute("XADD", "s", "*", "f", "v")
        with measured:
            assert clock() - started < 2.0
    (lost,) = (event for event in events if isinstance(event, ConnectionLost))
    assert "timed out" in lost.problem.cause


async def test_a_host_that_vanishes_while_idle_is_given_up_by_the_ping(
    host: Host, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel, which gives it up as well, is to be later in any case.
    monkeypatch.setattr(dialing, "UNACKNOWLEDGED_MS", 60_000)
    events: list[RedisEvent] = []
    async with running_node(
        Target(host=host.address), events=events, command_timeout=60, ping_interval=0.3, ping_timeout=0.5
    ) as node:
        await node.wait_connected(Role.WATCH)
        host.unplug()
        started = clock()
        # Told once the socket is closed, which is a moment after no more commands are taken.
        await until(lambda: any(isinstance(event, ConnectionLost) for event in events))
        with measured:
            assert clock() - started < 1.3
    assert {event.problem.cause for event in events if isinstance(event, ConnectionLost)} == {
        "no reply to PING within 0.5 s"
    }
