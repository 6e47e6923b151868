"""A daemon that is restarted, killed and stopped, and clients that add entries through the bridge meanwhile.

Each client takes down what it was told of each entry. tests.support.history judges that by what is in Redis.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import trio
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCRequest, JSONRPCResponse
from mcp_types.version import LATEST_MODERN_VERSION

from redstreamd.errors import BusError, Code
from tests.faults.calling import Caller, by_tool, tool
from tests.support.daemon import PROGRAM, Daemon, home, running_daemon
from tests.support.history import History, Line, Told
from tests.support.mcp_client import EraName, LineReader, RawClient
from tests.support.node import BIN
from tests.support.servers import Server
from tests.support.waiting import until

SCRIPT = Path(__file__).with_name("outliving_client.mjs")

#: Calls that a client has in flight.
IN_FLIGHT = 4
#: How long a daemon is stopped: longer than a call takes.
STOPPED_SECONDS = 0.3
#: Before a refused call is repeated.
_PAUSE_SECONDS = 0.05


class Fault(enum.Enum):
    """What happens to a daemon; afterwards it serves again, or another in its place."""

    RESTART = "restart"
    KILL = "kill -9"
    STOP = "SIGSTOP"


@attrs.define
class Host:
    """A home in which one daemon runs after the other.

    Attributes:
        server: The Redis they use; its path may be that of a proxy.
        directory: The home.
        variables: Of their environment.
        daemon: The one that runs.
    """

    server: Server
    directory: Path
    variables: Mapping[str, str] = attrs.field(factory=dict)
    _running: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)
    _daemon: Daemon | None = None

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    @property
    def path(self) -> str:
        """The socket of all of them."""
        return str(self.directory / "redstreamd" / "mcp.sock")

    def start(self) -> None:
        """Start one, and return once it serves."""
        running = running_daemon(self.server, directory=self.directory, **self.variables)
        self._daemon = self._running.enter_context(running)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        status = self.daemon.stop(number)
        assert status == (-number if number is signal.SIGKILL else 0), self.daemon.log[-2000:]

    def suffer(self, fault: Fault, while_away: Callable[[], object] = lambda: None) -> None:
        """Let it have a fault, and return once it serves again.

        Args:
            fault: Which.
            while_away: Called while nobody serves.
        """
        if fault is Fault.STOP:
            self.daemon.process.send_signal(signal.SIGSTOP)
            try:
                while_away()
                time.sleep(STOPPED_SECONDS)
            finally:
                self.daemon.process.send_signal(signal.SIGCONT)
        else:
            self.end(signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM)
            while_away()
            self.start()


@contextlib.contextmanager
def running_host(server: Server, **variables: str) -> Iterator[Host]:
    """Run daemons in one home for the block."""
    with home() as directory, contextlib.ExitStack() as running:
        host = Host(server, directory, variables, running)
        host.start()
        yield host


# Clients


def error_of(error: Mapping[str, Any]) -> BusError:
    """Return what an error of JSON-RPC tells of a call."""
    message = str(error["message"])
    code = Code.CONNECTION_ERROR if error.get("data") == {"executed": False} else Code.OUTCOME_UNKNOWN
    return BusError(code, message, cause=json.dumps(error), next_step="-")


def wrong_counts(sent: Sequence[Any], answers: Mapping[Any, int]) -> list[str]:
    """Return which requests were not answered once, and what was answered that nobody asked."""
    wrong = [f"{each} has {answers.get(each, 0)} answers" for each in sent if answers.get(each, 0) != 1]
    return wrong + [f"{each} was answered and not asked" for each in answers.keys() - {*sent}]


@attrs.define
class LineClient:
    """A client of lines with several requests in flight. It counts the answers to each.

    Attributes:
        raw: Its connection.
        process: The bridge.
        sent: Ids of its requests.
        answers: How often each id was answered.
        others: What came that is no answer, the latest last.
    """

    raw: RawClient
    process: trio.Process
    sent: list[Any] = attrs.field(factory=list)
    answers: Counter[Any] = attrs.field(factory=Counter)
    others: list[dict[str, Any]] = attrs.field(factory=list)
    _waiting: dict[Any, list[dict[str, Any]]] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)
    _ended: bool = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Receive until the bridge ends."""
        if self.raw.era == "handshake":
            await self.raw.initialize()
        task_status.started()
        try:
            while True:
                message = await self.raw.receive()
                if "method" in message:
                    self.others.append(message)
                else:
                    self.answers[message.get("id")] += 1
                    self._waiting.setdefault(message.get("id"), []).append(message)
                self._wake()
        except EOFError:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, trio.Event()
        news.set()

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Return what `condition` returns once that is true, which it asks after each message.

        Raises:
            AssertionError: The bridge ended first.
        """
        while not (found := condition()):
            assert not self._ended, f"the bridge ended; {self.unanswered()} are not answered"
            await self._news.wait()
        return found

    async def send(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a request, and return its id."""
        request = self.raw.request(method, params)
        self.sent.append(request["id"])
        async with self._sending:
            await self.raw.send(request)
        return request["id"]

    async def answer(self, request_id: Any) -> dict[str, Any]:
        """Return the answer to a request."""
        found: list[dict[str, Any]] = await self.until(lambda: self._waiting.pop(request_id, None))
        return found[0]

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its answer."""
        return await self.answer(await self.send(method, params))

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a `tools/call` and return its answer.

        Raises:
            BusError: It is an error of JSON-RPC.
        """
        message = await self.ask("tools/call", {"name": name, "arguments": dict(arguments or {})})
        if "error" in message:
            raise error_of(message["error"])
        return message

    def unanswered(self) -> list[Any]:
        """Return the ids of the requests that were not answered."""
        return [request_id for request_id in self.sent if not self.answers[request_id]]

    async def finish(self) -> list[str]:
        """End the session as a client does, and return what was wrong in it."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        while not self._ended:
            await self._news.wait()
        problems = wrong_counts(self.sent, self.answers)
        if (status := await self.process.wait()) != 0:
            problems.append(f"the bridge ended with {status}")
        return problems


def bridge_words(path: str) -> list[str]:
    """Return the words that start a bridge to the daemon at `path`."""
    return [str(PROGRAM), "connect", "--socket", path]


@contextlib.asynccontextmanager
async def line_client(
    words: Sequence[str], *, era: EraName, env: Mapping[str, str] | None = None
) -> AsyncIterator[LineClient]:
    """Run a client of lines on the bridge that `words` start, which is killed if it runs at the end."""
    process = await trio.lowlevel.open_process(
        list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        stream = trio.StapledStream(process.stdin, process.stdout)
        async with stream, trio.open_nursery() as nursery:
            client = LineClient(RawClient(stream, era=era), process)
            await nursery.start(client.run)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


# Traffic


@attrs.define
class Party:
    """A client that adds entries as long as it is wanted.

    Attributes:
        name: Which.
        stream: Where it adds, and nobody else.
        history: What it was told.
        calls: How many of its calls were answered.
        wrong: What must not have happened.
    """

    name: str
    history: History = attrs.field(factory=History)
    calls: int = 0
    wrong: list[str] = attrs.field(factory=list)

    @property
    def stream(self) -> str:
        return f"outlived:by:{self.name}"

    def __str__(self) -> str:
        told = ", ".join(f"{self.history.count(each)} {each.value}" for each in Told)
        keyed = sum(line.duplicate for line in self.history.lines.values())
        return f"{self.name}: {self.calls} calls; {told}; {keyed} repeated"

    async def call_on(self, caller: Caller, wanted: Callable[[], bool]) -> None:
        """Call several at a time: adds with and without a key, and reads."""
        numbers = itertools.count()
        add = by_tool(caller, self.stream)

        async def go_on() -> None:
            while wanted():
                number = next(numbers)
                if number % 3 == 0:
                    await self.history.add_with_key(add, number)
                elif number % 3 == 1:
                    line = await self.history.add(add, number)
                    if line.told is Told.REFUSED:
                        await trio.sleep(_PAUSE_SECONDS)
                else:
                    await self._read(caller)
                self.calls += 1

        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(go_on)

    async def _read(self, caller: Caller) -> None:
        try:
            await tool(caller, "stream_read", stream=self.stream, count=1)
        except BusError as error:
            if error.code is not Code.STREAM_NOT_FOUND:
                self.wrong.append(f"a read was answered with {error!r}")

    def problems(self, entries: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
        """Return what must not have happened, with the entries of its stream."""
        keyed = [line for line in self.history.lines.values() if line.keyed]
        repeated = [f"a keyed add took {line.attempts} calls" for line in keyed if line.attempts > 1]
        found = [*self.wrong, *self.history.problems(entries), *repeated]
        return [f"{self.name}: {each}" for each in found]


async def by_lines(party: Party, path: str, era: EraName, wanted: Callable[[], bool]) -> None:
    """Call as a client of lines."""
    async with line_client(bridge_words(path), era=era) as client:
        await party.call_on(client, wanted)
        party.wrong += await client.finish()


@attrs.frozen
class _SdkCaller:
    """The SDK's client as a `Caller`."""

    client: Client

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            result = await self.client.call_tool(name, dict(arguments or {}))
        except MCPError as error:
            raise error_of(error.error.model_dump()) from error
        return {"result": {"structuredContent": result.structured_content, "isError": result.is_error}}


@contextlib.asynccontextmanager
async def _counted(
    server: StdioServerParameters, sent: list[Any], answers: Counter[Any]
) -> AsyncIterator[TransportStreams]:
    """The SDK's own transport for a command, with ids taken down as they pass."""
    to_client, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, from_client = anyio.create_memory_object_stream[SessionMessage](0)

    async def pass_on(source: Any, sink: Any) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async with source, sink:
                async for each in source:
                    if isinstance(each, SessionMessage):
                        message = each.message
                        if isinstance(message, JSONRPCRequest):
                            sent.append(message.id)
                        elif isinstance(message, JSONRPCResponse | JSONRPCError):
                            answers[message.id] += 1
                    await sink.send(each)

    async with stdio_client(server) as (theirs, ours), trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, theirs, to_client)
        nursery.start_soon(pass_on, from_client, ours)
        yield read, write
        nursery.cancel_scope.cancel()


async def by_sdk(party: Party, path: str, era: EraName, wanted: Callable[[], bool]) -> None:
    """Call as the SDK's client of Python, which starts the bridge itself."""
    words = bridge_words(path)
    mode = {"handshake": "legacy", "modern": LATEST_MODERN_VERSION}[era]
    sent: list[Any] = []
    answers: Counter[Any] = Counter()
    server = _counted(StdioServerParameters(command=words[0], args=words[1:]), sent, answers)
    async with Client(server, mode=mode) as client:
        await party.call_on(_SdkCaller(client), wanted)
    party.wrong += wrong_counts(sent, answers)


async def by_typescript(party: Party, path: str, modules: Path, wanted: Callable[[], bool]) -> None:
    """Call as the SDK's client of TypeScript does in a program of its own, until its input ends."""
    words = [BIN / "node", SCRIPT, modules, *bridge_words(path), party.stream, str(IN_FLIGHT)]
    process = await trio.lowlevel.open_process(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with process.stdin, process.stdout, trio.open_nursery() as nursery:

            async def end_input() -> None:
                await until(lambda: not wanted(), every=0.01)
                await process.stdin.aclose()

            nursery.start_soon(end_input)
            lines = LineReader(process.stdout)
            while (line := await lines.next_line()) is not None:
                report = json.loads(line)
                if "sent" in report:
                    answers = Counter({each["id"]: each["times"] for each in report["answers"]})
                    party.wrong += [*wrong_counts(report["sent"], answers), *report["errors"]]
                elif "number" in report:
                    party.history.lines[report["number"]] = _line_of(report)
                    party.calls += 1
                else:
                    party.wrong += [f"a read was answered with {report}"] if report["error"] else []
                    party.calls += 1
            nursery.cancel_scope.cancel()
        if (status := await process.wait()) != 0:
            party.wrong.append(f"the program ended with {status}")
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def _line_of(report: Mapping[str, Any]) -> Line:
    """Return the line of the history that the program's report of an add is."""
    error = report["error"]
    if error is None:
        told, code = Told.ACKNOWLEDGED, ""
    else:
        code = error["code"] if isinstance(error["code"], str) else error_of(error).code.value
        told = Told.UNKNOWN if code in (Code.OUTCOME_UNKNOWN.value, Code.TIMEOUT.value) else Told.REFUSED
    return Line(told, report["id"], report["keyed"], report["duplicate"], report["attempts"], code)
