"""Clients that add entries through the bridge as long as they are wanted, whatever happens to the daemon.

Each takes down what it was told of each entry. tests.support.history judges that by what is in Redis.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
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
from tests.clients.bridged_client import error_of, line_client, wrong_counts
from tests.faults.calling import Caller, by_tool, tool
from tests.support.history import History, Line, Told
from tests.support.mcp_client import EraName, LineReader
from tests.support.node import BIN
from tests.support.waiting import until

SCRIPT = Path(__file__).with_name("restart_traffic.mjs")

#: Calls that a client has in flight.
IN_FLIGHT = 4
#: Before a refused call is repeated.
_PAUSE_SECONDS = 0.05


@attrs.define
class Party:
    """A client that adds entries as long as it is wanted.

    Attributes:
        name: Which.
        stream: Where it adds, and nobody else.
        history: What it was told.
        calls: How many of its calls were answered.
        enough: With so many it pauses.
        wrong: What must not have happened.
    """

    name: str
    history: History = attrs.field(factory=History)
    calls: int = 0
    enough: float = math.inf
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
                if self.calls >= self.enough:
                    await trio.sleep(_PAUSE_SECONDS / 10)
                    continue
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

    def problems(self, entries: Sequence[tuple[str, Mapping[str, str]]], *, most_unknown: int) -> list[str]:
        """Return what must not have happened.

        Args:
            entries: Of its stream.
            most_unknown: Of how many adds the outcome may be unknown to it.
        """
        unknown = self.history.count(Told.UNKNOWN)
        wrong = [f"{unknown} unknown outcomes"] if unknown > most_unknown else []
        keyed = [line for line in self.history.lines.values() if line.keyed]
        repeated = [f"a keyed add took {line.attempts} calls" for line in keyed if line.attempts > 1]
        found = [*wrong, *self.wrong, *self.history.problems(entries), *repeated]
        return [f"{self.name}: {each}" for each in found]


def pause_after(parties: Sequence[Party], count: int) -> None:
    """Let each pause after so many calls more, so that none keeps a daemon that starts from the others."""
    for each in parties:
        each.enough = each.calls + count


async def all_call(parties: Sequence[Party], count: int) -> None:
    """Return once each has made so many calls more; all go on calling then."""
    pause_after(parties, count)
    await until(lambda: all(each.calls >= each.enough for each in parties), every=0.01)
    for each in parties:
        each.enough = math.inf


async def by_lines(party: Party, words: Sequence[str], era: EraName, wanted: Callable[[], bool]) -> None:
    """Call as a client of lines, on the bridge that `words` start."""
    async with line_client(words, era=era) as client:
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


async def by_sdk(party: Party, words: Sequence[str], era: EraName, wanted: Callable[[], bool]) -> None:
    """Call as the SDK's client of Python, which starts the bridge itself."""
    mode = {"handshake": "legacy", "modern": LATEST_MODERN_VERSION}[era]
    sent: list[Any] = []
    answers: Counter[Any] = Counter()
    server = _counted(StdioServerParameters(command=words[0], args=words[1:]), sent, answers)
    async with Client(server, mode=mode) as client:
        await party.call_on(_SdkCaller(client), wanted)
    party.wrong += wrong_counts(sent, answers)


async def by_typescript(
    party: Party, words: Sequence[str], modules: Path, wanted: Callable[[], bool]
) -> None:
    """Call as the SDK's client of TypeScript does in a program of its own, until its input ends."""
    process = await trio.lowlevel.open_process(
        [BIN / "node", SCRIPT, modules, *words, party.stream, str(IN_FLIGHT)],
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
