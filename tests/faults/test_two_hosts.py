"""Two daemons on two hosts share the work of a group while either is killed, again and again.

The hosts are network namespaces; what they share is a Redis on a third one, and the key of leases. A client
whose daemon was killed goes to the other one, as a client behind a balancer does, and repeats its call there
under the same idempotency key. Leases are longer than the run, so no entry may ever be in two.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from redstreamd.errors import BusError
from tests.faults.calling import by_tool, tool
from tests.faults.killing import Agent
from tests.support.counts import counts, numbers_until
from tests.support.daemon import PROGRAM, Daemon, home, running_daemon
from tests.support.history import History, Told, entries_of
from tests.support.hosts import Host, network
from tests.support.mcp_client import EraName
from tests.support.waiting import until

STREAM, GROUP = "hosts:work:stream", "workers"
_ERAS: tuple[EraName, EraName] = ("handshake", "modern")
#: Writers with and without a key, and workers, of each as many.
_CLIENTS = 4
#: Finished between two kills.
LOAD = 30
_LEASE_SECONDS = 3_600
_PAUSE_SECONDS = 0.05


@attrs.define
class RoamingAgent(Agent):
    """An agent that goes to the other daemon when it loses its own.

    Attributes:
        other: The other daemon's socket.
    """

    other: str = ""

    async def aclose(self) -> None:
        """Close the connection."""
        await super().aclose()
        self.path, self.other = self.other, self.path


@attrs.define
class Site:
    """A daemon on a host, which is killed and started again.

    Attributes:
        host: The host.
        directory: Its home.
        key_file: The key of leases.
    """

    host: Host
    directory: Path
    key_file: Path
    _running: Any = None
    daemon: Daemon = attrs.field(init=False)

    @property
    def path(self) -> str:
        """Its socket."""
        return str(self.directory / "redstreamd" / "mcp.sock")

    def start(self) -> None:
        """Start the daemon; blocks until it serves."""
        self._running = running_daemon(
            "absent",
            directory=self.directory,
            program=self.host.words(PROGRAM),
            REDIS_URL=self.host.redis_url,
            REDSTREAMD_DAEMON_LEASE_KEY_FILE=str(self.key_file),
        )
        self.daemon = self._running.__enter__()

    def end(self) -> None:
        """Take note that it was killed, or stop it."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__(None, None, None)


@contextlib.asynccontextmanager
async def running(sites: list[Site]) -> AsyncIterator[None]:
    """Run a daemon at each site for the block."""
    try:
        async with trio.open_nursery() as nursery:
            for each in sites:
                nursery.start_soon(trio.to_thread.run_sync, each.start)
        yield
    finally:
        with trio.CancelScope(shield=True):
            for each in sites:
                await trio.to_thread.run_sync(each.end)


@attrs.define
class Leases:
    """Which leases an entry was in: the identity of each take that was answered with it."""

    of: dict[str, set[str]] = attrs.field(factory=lambda: defaultdict(set))

    def problems(self) -> list[str]:
        """Return each entry that was in two."""
        many = {entry: takes for entry, takes in self.of.items() if len(takes) > 1}
        return [f"{entry} was in the leases {sorted(takes)}" for entry, takes in many.items()]


@pytest.mark.parametrize("kills", counts(2, ci=20, full=100))
@pytest.mark.limit(60, kills=15)
async def test_two_hosts_share_a_group_while_either_daemon_is_killed(
    rng: random.Random, tmp_path: Path, kills: int
) -> None:
    key_file = tmp_path / "lease.key"
    key_file.write_bytes(rng.randbytes(32))
    with network(2) as net, home() as first, home() as second:
        homes = zip(net.hosts, (first, second), strict=True)
        sites = [Site(host, directory, key_file) for host, directory in homes]
        history, leases = History(), Leases()
        repeated = 0
        stopping = False
        writing = 2 * _CLIENTS
        numbers = itertools.count()

        def agent(number: int) -> RoamingAgent:
            mine, other = (sites[(number + turn) % 2].path for turn in (0, 1))
            return RoamingAgent(mine, _ERAS[number // 2 % 2], other=other)

        async def write(client: RoamingAgent, keyed: bool) -> None:
            nonlocal writing
            add = by_tool(client, STREAM)
            while not stopping:
                line = await (history.add_with_key if keyed else history.add)(add, next(numbers))
                if line.told is not Told.ACKNOWLEDGED:
                    await trio.sleep(_PAUSE_SECONDS)
            writing -= 1
            await client.aclose()

        async def ask(client: RoamingAgent, name: str, **arguments: Any) -> dict[str, Any]:
            nonlocal repeated
            while True:
                try:
                    return await tool(client, name, **arguments)
                except BusError:
                    repeated += 1
                    await trio.sleep(_PAUSE_SECONDS)

        async def work(client: RoamingAgent, consumer: str) -> None:
            place = {"stream": STREAM, "group": GROUP, "consumer": consumer, "count": 5}
            for number in itertools.count():
                take = f"{consumer} {number}"
                taken = await ask(
                    client, "work_take", **place, lease_seconds=_LEASE_SECONDS, idempotency_key=take
                )
                if "lease" in taken:
                    for entry in taken["entries"]:
                        leases.of[entry["id"]].add(take)
                    done = await ask(client, "work_done", lease=taken["lease"])
                    history.finished.update([*done.get("done", []), *done.get("already_done", [])])
                elif stopping and not writing:
                    break
            await client.aclose()

        async with running(sites), trio.open_nursery() as nursery:
            for number in range(_CLIENTS):
                nursery.start_soon(write, agent(number), True)
                nursery.start_soon(write, agent(number + 1), False)
                nursery.start_soon(work, agent(number), f"worker-{number}")
            # Until a client was in the middle of a call.
            for number in numbers_until(kills, lambda: repeated + history.count(Told.UNKNOWN) > 0):
                before = len(history.finished)
                await until(lambda before=before: len(history.finished) >= before + LOAD, every=0.01)
                await trio.sleep(rng.uniform(0.0, 0.05))
                site = sites[number % 2]
                # Stopped first: once its clients wait, each has a call that is not answered.
                site.daemon.process.send_signal(signal.SIGSTOP)
                await trio.sleep(2 * _PAUSE_SECONDS)
                site.daemon.process.kill()
                # The other one serves all clients meanwhile.
                await trio.to_thread.run_sync(site.end)
                await trio.to_thread.run_sync(site.start)
            stopping = True
            await until(lambda: len(nursery.child_tasks) == 0, every=0.01)
        entries = entries_of(net.server, STREAM)
        problems = [*history.problems(entries), *leases.problems()]
        pending = net.server.command("XPENDING", STREAM, GROUP)[0]
        problems += history.work_problems([each for each, _ in entries], pending=pending, once=True)
    told = ", ".join(f"{history.count(each)} {each.value}" for each in Told)
    print(f"{kills} kills: {told}, {len(history.finished)} finished, {repeated} calls repeated")
    assert not problems, f"{len(problems)} problems: {problems[:20]}"
