"""The daemon is killed under load, again and again, by SIGKILL; the same home and socket serve the next one.

Writers with and without keys, and workers, on connections of their own in both eras. What they are told is
judged by what is in Redis, as tests.support.history says.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import attrs
import trio
import trio.testing

from redstreamd.errors import BusError, Code
from tests.faults.calling import by_tool, tool
from tests.support.daemon import Daemon, home, running_daemon
from tests.support.history import History, InvalidRun, Told, entries_of
from tests.support.mcp_client import EraName, RawClient
from tests.support.servers import Server
from tests.support.waiting import until

STREAM = "killed:work:stream"
GROUP = "workers"
_ERAS: tuple[EraName, EraName] = ("handshake", "modern")

#: Of each kind: writers with a key, writers without, and workers.
_CLIENTS = 4
#: Entries acknowledged between two kills; with fewer there was no load to kill under.
LOAD = 40
_LOAD_SECONDS = 60.0
#: For the clients, to finish what they have begun.
_END_SECONDS = 120.0
#: Longer than any run: whatever is finished was in an answer that arrived.
_LEASE_SECONDS = 3_600
#: Before what failed is repeated.
_PAUSE_SECONDS = 0.05


@attrs.define
class Outcome:
    """What the whole run did.

    Attributes:
        history: What the clients were told.
        kills: How often the daemon was killed.
        violations: What must not have happened.
    """

    history: History
    kills: int = 0
    violations: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        counted = ", ".join(f"{self.history.count(told)} {told.value}" for told in Told)
        finished = f"{len(self.history.finished)} finished"
        return f"{self.kills} kills: {counted}, {finished}; {len(self.violations)} violations"


_LOST = (EOFError, OSError, trio.BrokenResourceError)


@attrs.define
class Agent:
    """A client that connects again after it lost its connection, and knows what an agent knows then.

    Attributes:
        path: The daemon's socket.
        era: How it speaks.
    """

    path: str
    era: EraName
    _raw: RawClient | None = None

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a `tools/call` and return its answer.

        Raises:
            BusError: OUTCOME_UNKNOWN after a lost connection, CONNECTION_ERROR where nothing was sent.
        """
        try:
            if self._raw is None:
                await self._connect()
        except _LOST as error:
            await self.aclose()
            raise BusError(Code.CONNECTION_ERROR, name, cause=f"{error!r}", next_step="repeat") from error
        assert self._raw is not None
        try:
            return await self._raw.call_tool(name, arguments)
        except _LOST as error:
            await self.aclose()
            raise BusError(Code.OUTCOME_UNKNOWN, name, cause=f"{error!r}", next_step="repeat") from error

    async def _connect(self) -> None:
        self._raw = RawClient(await trio.open_unix_socket(self.path), era=self.era)
        if self.era == "handshake":
            await self._raw.initialize()

    async def aclose(self) -> None:
        """Close the connection."""
        raw, self._raw = self._raw, None
        if raw is not None:
            await trio.aclose_forcefully(raw.stream)


#: Returns the entries of a stream, as `entries_of` does.
Entries = Callable[[Server, str], Iterable[tuple[str, Mapping[str, Any]]]]


async def kill_under_load(
    server: Server, rng: random.Random, kills: int, *, entries_in: Entries = entries_of, **variables: str
) -> Outcome:
    """Kill daemons on an empty server so many times.

    Args:
        server: The server.
        rng: Chooses the moments.
        kills: How often.
        entries_in: Reads what the server holds in the end.
        variables: For the environment of the daemons.

    Raises:
        InvalidRun: There was no load, or the clients came to no end.
    """
    outcome = Outcome(History())
    history = outcome.history
    server.flush()
    stopping = False
    writing = 2 * _CLIENTS
    numbers = itertools.count()

    async def write(agent: Agent, keyed: bool) -> None:
        nonlocal writing
        add = by_tool(agent, STREAM)
        while not stopping:
            line = await (history.add_with_key if keyed else history.add)(add, next(numbers))
            if line.told is not Told.ACKNOWLEDGED:
                await trio.sleep(_PAUSE_SECONDS)
        writing -= 1
        await agent.aclose()

    async def repeated(agent: Agent, name: str, **arguments: Any) -> dict[str, Any]:
        while True:
            try:
                return await tool(agent, name, **arguments)
            except BusError:
                await trio.sleep(_PAUSE_SECONDS)

    async def work(agent: Agent, consumer: str) -> None:
        place = {"stream": STREAM, "group": GROUP, "consumer": consumer, "count": 5}
        for number in itertools.count():
            key = {"lease_seconds": _LEASE_SECONDS, "idempotency_key": f"{consumer} {number}"}
            taken = await repeated(agent, "work_take", **place, **key)
            if "lease" in taken:
                done = await repeated(agent, "work_done", lease=taken["lease"])
                history.finished.update([*done.get("done", []), *done.get("already_done", [])])
            elif stopping and not writing:
                break
        await agent.aclose()

    with home() as directory:
        path = str(directory / "redstreamd" / "mcp.sock")

        async def serve(until_killed: Callable[[Daemon], Awaitable[None]]) -> None:
            running = running_daemon(server, directory=directory, **variables)
            daemon = await trio.to_thread.run_sync(running.__enter__)
            try:
                await until_killed(daemon)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(running.__exit__, None, None, None)

        async def kill(daemon: Daemon) -> None:
            before = history.count(Told.ACKNOWLEDGED)
            with trio.move_on_after(_LOAD_SECONDS) as patience:
                await until(lambda: history.count(Told.ACKNOWLEDGED) >= before + LOAD, every=0.01)
            if patience.cancelled_caught:
                raise InvalidRun(
                    f"fewer than {LOAD} acknowledged in {_LOAD_SECONDS:g} s: {daemon.log[-2000:]}"
                )
            await trio.sleep(rng.uniform(0.0, 0.05))
            # Stopped first: once all clients wait, each has a call that is not answered.
            daemon.process.send_signal(signal.SIGSTOP)
            await trio.testing.wait_all_tasks_blocked(2 * _PAUSE_SECONDS)
            history.fault("kill of the daemon")
            daemon.process.kill()
            outcome.kills += 1

        async with trio.open_nursery() as nursery:
            for number in range(_CLIENTS):
                era = _ERAS[number % 2]
                nursery.start_soon(write, Agent(path, era), True)
                nursery.start_soon(write, Agent(path, era), False)
                nursery.start_soon(work, Agent(path, era), f"worker-{number}")
            for _ in range(kills):
                await serve(kill)

            async def finish(daemon: Daemon) -> None:
                nonlocal stopping
                stopping = True
                with trio.move_on_after(_END_SECONDS) as patience:
                    await until(lambda: len(nursery.child_tasks) == 0, every=0.01)
                if patience.cancelled_caught:
                    raise InvalidRun(f"clients still wait after {_END_SECONDS:g} s: {daemon.log[-2000:]}")

            await serve(finish)
    entries = list(entries_in(server, STREAM))
    outcome.violations += history.problems(entries)
    pending = server.command("XPENDING", STREAM, GROUP)[0]
    ids = [entry_id for entry_id, _ in entries]
    outcome.violations += history.work_problems(ids, pending=pending, once=True)
    return outcome
