"""A client of lines on the bridge, `redstreamd connect`, which counts the answers to each request."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import subprocess
import termios
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from redstreamd.errors import BusError, Code
from tests.support.daemon import PROGRAM
from tests.support.mcp_client import EraName, RawClient


def error_of(error: Mapping[str, Any]) -> BusError:
    """Return what an error of JSON-RPC tells of a call."""
    message = str(error["message"])
    executed = (error.get("data") or {}).get("executed")
    code = Code.CONNECTION_ERROR if executed is False else Code.OUTCOME_UNKNOWN
    return BusError(code, message, cause=json.dumps(error), next_step="-")


def wrong_counts(sent: Sequence[Any], answers: Mapping[Any, int]) -> list[str]:
    """Return which requests were not answered once, and what was answered that nobody asked."""
    wrong = [f"{each} has {answers.get(each, 0)} answers" for each in sent if answers.get(each, 0) != 1]
    return wrong + [f"{each} was answered and not asked" for each in answers.keys() - {*sent}]


@attrs.define(eq=False)
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

    async def send_call(self, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Send a `tools/call`, and return its id."""
        return await self.send("tools/call", {"name": name, "arguments": dict(arguments or {})})

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
        message = await self.answer(await self.send_call(name, arguments))
        if "error" in message:
            raise error_of(message["error"])
        return message

    def unanswered(self) -> list[Any]:
        """Return the ids of the requests that were not answered."""
        return [request_id for request_id in self.sent if not self.answers[request_id]]

    def bridge_has_forwarded(self) -> bool:
        """Return whether the bridge has read all that was sent, and waits for more."""
        assert self.process.stdin is not None
        unread = array.array("i", [0])
        fcntl.ioctl(self.process.stdin.fileno(), termios.FIONREAD, unread)
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return unread[0] == 0 and state == "S"

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


def connections_to(path: str) -> int:
    """Return how many clients are connected to a Unix socket."""
    connected = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    # Connecting, until it is accepted, or connected; 1 is the listening socket.
    return sum(fields[5] in ("02", "03") and fields[-1] == path for fields in connected)


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


@contextlib.asynccontextmanager
async def both_eras(words: Sequence[str]) -> AsyncIterator[dict[EraName, LineClient]]:
    """Run a client of each era, on a bridge of its own."""
    async with line_client(words, era="handshake") as former, line_client(words, era="modern") as latter:
        yield {"handshake": former, "modern": latter}
