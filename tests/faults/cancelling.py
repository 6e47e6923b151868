"""Many requests of which many are cancelled, at random moments, while Redis's connections are killed.

Every client sends the same ids, and each request asks for something of its own, so that an answer to somebody
else is found by what is in it. Messages of one connection are handled in order: once a request that was sent
after a cancellation is answered, the cancellation was handled, and its request must not be answered any more.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import attrs
import trio

from tests.support.history import History, Line, Told, content, entries_of
from tests.support.mcp_client import EraName, RawClient, raw_client
from tests.support.servers import Server
from tests.support.waiting import until

STREAM = "cancelled:adds:stream"
#: As the clients take turns: both eras on the same daemon, with the same ids.
ERAS: Sequence[EraName] = ("handshake", "modern") * 4

#: Of all requests.
_CANCELLED = 0.4
#: Requests of one client that are neither answered nor cancelled; with more it stops sending.
_WINDOW = 16
#: Streams of one client, each with an entry that names it.
_OWN = 8
#: Answers without an error between two kills of all connections to Redis, at the least and at the most.
_KILL_EVERY = (150, 450)
#: After an error: Redis is away, and to be refused is no load.
_PAUSE_SECONDS = 0.1
#: For the next answer, and for the last ones.
_ANSWER_SECONDS = 30.0


@attrs.define
class Request:
    """A request that was sent.

    Attributes:
        number: Of the entry that it adds, among all.
        wrong: Tells what is wrong with its result; None if nothing is.
        sent: Its place among the messages of its connection.
        cancelled: The place of its cancellation.
        answers: How often it was answered.
    """

    number: int
    wrong: Callable[[dict[str, Any]], str | None]
    sent: int = 0
    cancelled: int | None = None
    answers: int = 0


@attrs.define
class Outcome:
    """What the whole run did.

    Attributes:
        seen: How many requests ended how.
        violations: What must not have happened.
        kills: How often all connections to Redis were killed.
        served: How many answers came so far that are no errors.
    """

    seen: Counter[str] = attrs.field(factory=Counter)
    violations: list[str] = attrs.field(factory=list)
    kills: int = 0
    served: int = 0

    def is_enough(self, count: int) -> bool:
        """Return whether so many requests have met lost connections often enough."""
        return self.kills > count // 1_000 and self.seen["answered with an error"] > 0

    def __str__(self) -> str:
        seen = ", ".join(f"{count} {what}" for what, count in sorted(self.seen.items()))
        return f"{seen}; {self.kills} kills; {len(self.violations)} violations"


@attrs.define
class Player:
    """One client.

    Attributes:
        raw: Its connection.
        label: Its number among all.
        history: What all are told of the entries that they add.
        outcome: Of the whole run.
        requests: What it sent, by id.
    """

    raw: RawClient
    label: int
    history: History
    outcome: Outcome
    requests: dict[int, Request] = attrs.field(factory=dict)
    _sent: int = 0
    _confirmed: int = 0
    _waiting: int = 0
    _unsent: list[dict[str, Any]] = attrs.field(factory=list)
    _refused: bool = False
    _ended: bool = False

    def own_stream(self, which: int) -> str:
        """Return the name of one of its streams, each of which holds an entry with its name."""
        return f"cancelled:own:{self.label}-{which}"

    async def play(self, dice: random.Random, count: int) -> None:
        """Send so many requests and the cancellations, then wait for the answers that are owed.

        It sends more until the connections to Redis were killed often enough.
        """
        due: list[tuple[float, int]] = []
        for request_id in itertools.count(1):
            if request_id > count and self.outcome.is_enough(count * len(ERAS)):
                break
            if self._waiting >= _WINDOW:
                await self._flush()
                with trio.move_on_after(_ANSWER_SECONDS) as patience:
                    await until(lambda: self._waiting < _WINDOW)
                if patience.cancelled_caught:
                    self._violation(f"{_WINDOW} requests are not answered")
                    break
            if self._refused:
                self._refused = False
                await self._flush()
                await trio.sleep(_PAUSE_SECONDS)
            request = Request(self.label * 10_000_000 + request_id, lambda content: None)
            self.requests[request_id] = request
            self._waiting += 1
            request.sent = self._put(self._line(dice, request, request_id))
            if dice.random() < _CANCELLED:
                # With its request, or later, or when it was answered.
                due.append((request_id + dice.choice([0, 0, 1, 2, 5, math.inf]), request_id))
            for each in list(due):
                when, which = each
                if when <= request_id or self.requests[which].answers:
                    self._cancel(which)
                    due.remove(each)
            if dice.random() < 0.6:
                await self._flush()
                for _ in range(dice.randrange(4)):
                    await trio.lowlevel.checkpoint()
                if dice.random() < 0.1:
                    await trio.sleep(dice.uniform(0, 0.01))
        for _, which in due:
            self._cancel(which)
        # The answer to this one says that everything before it was handled.
        last = Request(-1, lambda content: None)
        last_id = len(self.requests) + 1
        self.requests[last_id] = last
        self._waiting += 1
        last.sent = self._put(self.raw.tool_call("stream_list", {"count": 1}, request_id=last_id))
        await self._flush()
        with trio.move_on_after(_ANSWER_SECONDS):
            await until(lambda: self._waiting == 0, every=0.02)
        self._ended = True
        await self.raw.stream.send_eof()  # type: ignore[attr-defined]

    async def listen(self) -> None:
        """Take the answers until the connection ends."""
        while True:
            try:
                message = await self.raw.receive()
            except EOFError:
                break
            self._take(message)
        if not self._ended:
            self._violation("the connection ended")
        for request_id, request in self.requests.items():
            if request.answers:
                kind = "answered" if request.cancelled is None else "answered before they were cancelled"
            elif request.cancelled is not None:
                kind = "cancelled"
            else:
                self._violation(f"request {request_id} was not answered")
                kind = "not answered"
            self.outcome.seen[kind] += 1

    def _take(self, message: dict[str, Any]) -> None:
        request = self.requests.get(message.get("id", 0))
        if request is None or "method" in message:
            self._violation(f"an answer to nothing: {message}")
            return
        request_id = message["id"]
        request.answers += 1
        if request.answers > 1:
            self._violation(f"request {request_id} was answered {request.answers} times")
        elif request.cancelled is None:
            self._waiting -= 1
        if request.cancelled is not None and request.cancelled < self._confirmed:
            self._violation(f"request {request_id} was answered after its cancellation had been handled")
        self._confirmed = max(self._confirmed, request.sent)
        result = message.get("result")
        if result is None:
            self._violation(f"request {request_id} failed: {message}")
        elif result.get("isError"):
            self._refused = True
            self.outcome.seen["answered with an error"] += 1
            if request.number in self.history.lines:
                # What it says of its outcome is not judged here, only that nothing is there twice.
                code = result["structuredContent"]["code"]
                self.history.lines[request.number] = Line(Told.UNKNOWN, code=code)
        else:
            self.outcome.served += 1
            if (wrong := request.wrong(result["structuredContent"])) is not None:
                self._violation(f"request {request_id} was answered with {wrong}")

    def _line(self, dice: random.Random, request: Request, request_id: int) -> dict[str, Any]:
        """Choose what a request asks for."""
        kind = dice.random()
        which = dice.randrange(_OWN)
        own = self.own_stream(which)
        if kind < 0.6:
            self.history.lines[request.number] = Line(Told.UNKNOWN)

            def added(content: dict[str, Any]) -> None:
                # Whether this entry is the one of this request is judged by what is in the stream.
                self.history.lines[request.number] = Line(Told.ACKNOWLEDGED, content["ids"][0])

            request.wrong = added
            arguments = {"stream": STREAM, "entries": [content(request.number)]}
            return self.raw.tool_call("stream_add", arguments, request_id=request_id)

        def read(content: dict[str, Any]) -> str | None:
            found = [entry["fields"] for entry in content["entries"]]
            return None if found == [{"own": own}] else f"{found} instead of the entry of {own}"

        if kind < 0.8:
            request.wrong = read
            return self.raw.tool_call("stream_read", {"stream": own}, request_id=request_id)
        if kind < 0.9:
            request.wrong = read
            arguments = {"streams": [own], "cursor": "0-0", "timeout_seconds": 1}
            return self.raw.tool_call("stream_wait", arguments, request_id=request_id)

        def nothing(content: dict[str, Any]) -> str | None:
            return f"{content['entries']} instead of nothing" if content["entries"] else None

        request.wrong = nothing
        arguments = {"streams": [own], "timeout_seconds": dice.choice([0.01, 0.05])}
        return self.raw.tool_call("stream_wait", arguments, request_id=request_id)

    def _cancel(self, request_id: int) -> None:
        request = self.requests[request_id]
        if not request.answers:
            self._waiting -= 1
        request.cancelled = self._put(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": request_id}}
        )
        self.outcome.seen["cancellations"] += 1

    def _put(self, message: dict[str, Any]) -> int:
        """Queue a message and return its place."""
        self._unsent.append(message)
        self._sent += 1
        return self._sent

    async def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        await self.raw.send(*unsent)

    def _violation(self, what: str) -> None:
        self.outcome.violations.append(f"client {self.label} ({self.raw.era}): {what}")


async def cancel_at_random(path: str, server: Server, rng: random.Random, count: int) -> Outcome:
    """Send so many requests to the daemon at `path`, of all clients together, and return what happened."""
    outcome, history = Outcome(), History()
    server.flush()
    async with AsyncExitStack() as stack:
        players = [
            Player(
                await stack.enter_async_context(raw_client(path, era=era, initialize=era == "handshake")),
                label,
                history,
                outcome,
            )
            for label, era in enumerate(ERAS, start=1)
        ]
        names = [player.own_stream(which) for player in players for which in range(_OWN)]
        server.commands(*(("XADD", name, "*", "own", name) for name in names))

        async def kill() -> None:
            while True:
                due = outcome.served + rng.randint(*_KILL_EVERY)
                await until(lambda due=due: outcome.served >= due, every=0.02)
                server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                outcome.kills += 1

        async with trio.open_nursery() as killing:
            killing.start_soon(kill)
            async with trio.open_nursery() as playing:
                for player in players:
                    dice = random.Random(rng.random())
                    playing.start_soon(player.play, dice, count // len(players))
                    playing.start_soon(player.listen)
            killing.cancel_scope.cancel()
    outcome.violations += history.problems(entries_of(server, STREAM))
    outcome.seen["acknowledged"] = history.count(Told.ACKNOWLEDGED)
    async with raw_client(path, initialize=True) as raw:
        answer = await raw.call("resources/read", {"uri": "redstream://health"})
        report = json.loads(answer["result"]["contents"][0]["text"])
    # The question itself is in flight while it is answered.
    if report["clients"]["requests_in_flight"] != 1 or report["waiting"]["watches"]:
        outcome.violations.append(f"something is left: {report['clients']}, {report['waiting']}")
    return outcome
