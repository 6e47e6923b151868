"""Hosts in network namespaces: each with an address of its own, and one Redis that all of them reach.

Needs root and iproute2. A program in the namespace of a host sees the file system of this one, so a daemon's
Unix socket there is reached as any other.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests.support.preloaded import IN_NAMESPACE
from tests.support.servers import Server, missing, redis_binary
from tests.support.waiting import wait_until

_PORT = 6379


@attrs.frozen
class Host:
    """A host.

    Attributes:
        namespace: Its network namespace.
        redis_url: Where it reaches the Redis.
    """

    namespace: str
    redis_url: str

    def words(self, *program: str | Path) -> tuple[str | Path, ...]:
        """Return the words that run a program there."""
        return *IN_NAMESPACE, self.namespace, *program


@attrs.frozen
class Network:
    """Hosts, and what they share.

    Attributes:
        hosts: Each has its own link to the host of the server.
        server: The Redis, on a host of its own; its Unix socket is reached from here.
    """

    hosts: tuple[Host, ...]
    server: Server


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """Make so many hosts and one with a Redis, for the block; skip the test (in CI: fail it) without root."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        missing("a network namespace", "run as root, with iproute2")
    prefix = f"rs-{os.getpid()}"
    servers = f"{prefix}-redis"
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="rs-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        _namespace(servers, stack)
        hosts = []
        for number in range(count):
            host = Host(f"{prefix}-{number}", f"redis://198.18.{number}.1:{_PORT}")
            _namespace(host.namespace, stack)
            peer = ("type", "veth", "peer", "name", f"to{number}", "netns", servers)
            _run("link", "add", "eth0", "netns", host.namespace, *peer)
            for namespace, link, last in ((host.namespace, "eth0", 2), (servers, f"to{number}", 1)):
                _run("-n", namespace, "address", "add", f"198.18.{number}.{last}/30", "dev", link)
                _run("-n", namespace, "link", "set", link, "up")
            hosts.append(host)
        server = Server(binary=redis_binary(), directory=directory, port=_PORT)
        command = (
            *("ip", "netns", "exec", servers, server.binary, "--port", str(_PORT), "--bind", "0.0.0.0"),
            *("--protected-mode", "no", "--unixsocket", server.path, "--dir", str(directory), "--save", ""),
        )
        server.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        stack.callback(server.kill)
        wait_until(Path(server.path).exists)
        yield Network(tuple(hosts), server)


def _namespace(name: str, stack: contextlib.ExitStack) -> None:
    _run("netns", "add", name)
    stack.callback(_run, "netns", "delete", name)
    _run("-n", name, "link", "set", "lo", "up")


def _run(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)
