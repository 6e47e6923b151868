"""Runs redstreamd, and tells what each process got and what it was due: ``share_counter.py serve ...``.

Who has nothing to be done is due nothing. At the end of each pass of trio's scheduler the seconds of work
that were charged in it are divided equally among the processes that had something to be done in it: those
that were served, those that wait for a turn of the loop or at Redis, and those that anything else is held
back of, see `CountedTurns.after_io_wait`. So a client that asks late, because it had no core, is due less by
as much as it asked for less; and so is one whose calls are all being executed by Redis, which may have no
core either.

SIGUSR1 writes ``shares:`` and a JSON object to standard error: for each ID of a process the seconds that it
got and those that it was due, since the last time. The product knows nothing of this.

What is put before ``serve`` makes it worse, so that tests show that they see it. ``--first-come`` switches
fair turns off: who comes first is first, and nobody is let pass. ``--dearer`` makes what is done for more
than two processes, a client and the polite one, cost 30 % more, which nobody is charged for. ``--late
messages``, ``commands`` or ``replies`` holds those of one client for 50 ms, where nobody waits for a turn.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from select import POLLIN, poll
from typing import Any, ClassVar, Final

import hiredis
import trio

from redstreamd.admission import accounts, fair_queue, turns
from redstreamd.mcp_server.direct_calls import _DirectCall
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.message_reader import MessageReader
from redstreamd.mcpio.parked_readers import Left
from redstreamd.redisio.awaited_replies import AwaitedReplies
from redstreamd.redisio.pipeline import Pipeline
from tests.support.signal_output import write_line

#: A client and the polite one.
_FEW = 2
_LATE_SECONDS = 0.05
#: Whose calls are late: of the clients of shares.py the one with fewest in flight.
_LATE_STREAM = "shares:0"

charge = accounts.Account.charge


class CountedTurns(turns.Turns):
    """Counts what processes got and were due."""

    got: ClassVar[defaultdict[accounts.Account, float]] = defaultdict(float)
    shares: ClassVar[defaultdict[int, list[float]]] = defaultdict(lambda: [0.0, 0.0])
    #: Served, and possibly not done, when this pass began.
    present: ClassVar[set[accounts.Account]] = set()
    #: What the work of a pass costs in addition where several processes share it, as a part of it.
    extra: ClassVar[float] = 0.0

    def before_io_wait(self, timeout: float) -> None:
        """Divide what was done in this pass."""
        super().before_io_wait(timeout)
        waiting = {each for each in self.waiting._nodes if each.level is accounts.Level.PROCESS}
        served, present = dict(self.got), self.present
        self.got.clear()
        present.update(waiting, served)
        if self.extra and len(present) > _FEW:
            ends = time.thread_time() + self.extra * sum(served.values())
            while time.thread_time() < ends:
                pass
        due = sum(served.values()) / max(len(present), 1)
        for process in present:
            share = self.shares[process.peer.pid]
            share[0] += served.get(process, 0.0)
            share[1] += due
        present.intersection_update([each for each in present if each in waiting or each.queued])

    def after_io_wait(self, timeout: float) -> None:
        """Begin a pass: also those have something to be done that the daemon holds anything of."""
        present = self.present
        present.update([each for each in connections if each not in present and is_held_back(each)])


def count(self: accounts.Account, seconds: float, now: float) -> None:
    """Charge a connection, or several of a process together, and note it for the process."""
    is_process = self.level is accounts.Level.PROCESS
    CountedTurns.got[self if is_process else self.parent or self] += seconds
    charge(self, seconds, now)


#: Open connections, by the process of each.
connections: Final[defaultdict[accounts.Account, dict[ClientConnection, int]]] = defaultdict(dict)
#: Of each connection, how many commands Redis has: they were sent, and their replies have not arrived.
at_redis: Final[defaultdict[accounts.Account | None, int]] = defaultdict(int)
#: Of a connection to Redis, how many replies have arrived that nobody was given yet.
arrived: Final[defaultdict[AwaitedReplies, int]] = defaultdict(int)


def is_held_back(process: accounts.Account) -> bool:
    """Return whether the daemon has a message, a call or an answer of a process that it could go on with.

    That is what was read and is no call yet, a call of which Redis has no command, an answer that was not
    written, and what was not read; but nothing of a client that does not take its answers.
    """
    arrivals = poll()
    for connection, descriptor in connections[process].items():
        outbox = connection._outbox
        if outbox._backlog is not None:
            continue
        if (
            len(connection._session.in_flight) > at_redis[connection._books.account]
            or connection._reader.splitter.lines
            or outbox.size
        ):
            return True
        arrivals.register(descriptor, POLLIN)
    return bool(arrivals.poll(0))


def follow(run: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return `ClientConnection.run` of connections that are looked at."""

    async def followed(self: ClientConnection, **options: Any) -> None:
        process = self.process
        connections[process][self] = self._reader._descriptor()
        try:
            await run(self, **options)
        finally:
            del connections[process][self]
            if not connections[process]:
                del connections[process]

    return followed


def take(self: Pipeline, deadline: float, take: Callable[..., bytes] = Pipeline.take) -> bytes:
    """Send, and note whose commands Redis has."""
    requests = self.awaited.requests
    before = len(requests)
    data = take(self, deadline)
    for request in islice(reversed(requests), len(requests) - before):
        at_redis[request.account] += 1
    return data


def answer(
    self: AwaitedReplies,
    replies: Any,
    *args: Any,
    answer: Callable[..., Any] = AwaitedReplies.answer,
    **options: Any,
) -> Any:
    """Give replies to those who asked, once it is noted whose have arrived."""
    for request in islice(self.requests, arrived[self], _count(replies)):
        at_redis[request.account] -= 1
    rest = answer(self, replies, *args, **options)
    arrived[self] = _count(rest)
    return rest


def _count(replies: Any) -> int:
    return sum(type(each) is not hiredis.PushNotification for each in replies)


def tell(*_: object) -> None:
    """Tell what each process got and was due, and begin anew."""
    write_line("shares:", json.dumps(CountedTurns.shares))
    CountedTurns.shares.clear()


def first_come() -> None:
    """Let who comes first be first in every queue, and let nobody pass."""
    queue = fair_queue.FairQueue
    push, remove = queue.push, queue.remove
    places: dict[Any, dict[Any, accounts.Account]] = defaultdict(dict)

    def add(self: Any, account: accounts.Account, item: Any) -> None:
        push(self, account, item)
        places[self][item] = account

    def take_out(self: Any, account: accounts.Account, item: Any) -> bool:
        places[self].pop(item, None)
        return remove(self, account, item)

    def pop(self: Any) -> tuple[accounts.Account, Any]:
        item, account = next(iter(places[self].items()))
        take_out(self, account, item)
        return account, item

    queue.push, queue.remove, queue.pop = add, take_out, pop  # type: ignore[method-assign]
    assert turns.is_behind is fair_queue.is_behind
    turns.is_behind = lambda process: False


def late(what: str) -> None:
    """Hold what one client is to get or to be asked for a while."""
    start, on_reply = _DirectCall.start, _DirectCall._on_reply
    take, serve = MessageReader.take, MessageReader._serve

    async def go_on(step: Callable[..., None], *args: Any) -> None:
        await trio.sleep(_LATE_SECONDS)
        step(*args)

    def start_late(self: Any) -> None:
        if self.arguments.stream == _LATE_STREAM:
            trio.lowlevel.spawn_system_task(go_on, start, self)
        else:
            start(self)

    def reply_late(self: Any, reply: Any) -> None:
        if self.plan.stream == _LATE_STREAM:
            trio.lowlevel.spawn_system_task(go_on, on_reply, self, reply)
        else:
            on_reply(self, reply)

    def leave(self: Any, data: bytes | None, *args: Any, **options: Any) -> Left:
        if data is None or _LATE_STREAM.encode() not in data:
            return take(self, data, *args, **options)
        self.splitter.feed(data)
        return Left.FOR_TASK

    async def serve_late(self: Any) -> None:
        if any(_LATE_STREAM.encode() in line for line in self.splitter.lines):
            await trio.sleep(_LATE_SECONDS)
        await serve(self)

    if what == "replies":
        _DirectCall._on_reply = reply_late  # type: ignore[method-assign]
    elif what == "commands":
        _DirectCall.start = start_late  # type: ignore[method-assign]
    else:
        MessageReader.take = leave  # type: ignore[method-assign]
        MessageReader._serve = serve_late  # type: ignore[method-assign]


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, tell)
    ClientConnection.run = follow(ClientConnection.run)  # type: ignore[method-assign]
    Pipeline.take = take  # type: ignore[method-assign]
    AwaitedReplies.answer = answer  # type: ignore[method-assign]
    accounts.Account.charge = count  # type: ignore[method-assign]
    turns.Turns = CountedTurns  # type: ignore[misc]
    if sys.argv[1] == "--first-come":
        del sys.argv[1]
        first_come()
    elif sys.argv[1] == "--late":
        late(sys.argv[2])
        del sys.argv[1:3]
    elif sys.argv[1] == "--dearer":
        del sys.argv[1]
        CountedTurns.extra = 0.3
    sys.argv[0] = str(Path(sys.executable).with_name("redstreamd"))
    sys.path.pop(0)  # this directory, which a program run by its path begins with
    runpy.run_path(sys.argv[0], run_name="__main__")
