"""A client that outlives daemons, and counts what becomes of the entries that it takes."""

from __future__ import annotations

import datetime as dt
import json
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from tests.support.daemon import Daemon, request
from tests.support.fair_clock import Clock
from tests.support.measured import measured
from tests.support.server_clock import milliseconds
from tests.support.servers import Server

GROUP = "workers"

#: Seconds until an answer must have come that is waited for.
PATIENCE = 30
#: Seconds by which something may be taken late. A take that nobody wakes looks again after five.
LATE = 2.0

_OUTCOMES = ("done", "extended", "retried", "dead_lettered", "already_done", "lost")

Answer = dict[str, Any]


@attrs.define
class Client:
    """Calls tools of whichever daemon runs, as one principal.

    Attributes:
        server: The Redis of all the daemons.
        clock: Leaves out what holds up the whole machine.
        daemon: The daemon that runs.
        finished: How often each entry, as (stream, entry ID), was answered to be done.
        dead_lettered: Entries that became dead letters.
    """

    server: Server
    clock: Clock
    daemon: Daemon = attrs.field(init=False)
    finished: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    dead_lettered: set[tuple[str, str]] = attrs.field(factory=set)
    _streams: dict[str, str] = attrs.field(factory=dict)
    _connections: list[socket.socket] = attrs.field(factory=list)

    def __call__(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool, which must succeed, and return its structured content."""
        result = self.daemon.call(tool, **arguments)
        assert not result["isError"], result["content"]
        answer: Answer = result["structuredContent"]
        if "lease" in answer:
            self._streams[answer["lease"]] = arguments["stream"]
        if "lease" in arguments:
            stream = self._streams[arguments["lease"]]
            self.finished.update((stream, entry_id) for entry_id in answer.get("done", ()))
            self.dead_lettered |= {(stream, entry_id) for entry_id in answer.get("dead_lettered", ())}
        return answer

    def refused(self, tool: str, **arguments: Any) -> str:
        """Call a tool, which must fail, and return the code of its error."""
        result = self.daemon.call(tool, **arguments)
        assert result["isError"], result["structuredContent"]
        code: str = result["structuredContent"]["code"]
        return code

    def add(self, stream: str, *names: str, **more: Any) -> list[str]:
        """Add an entry for each name and return their IDs."""
        entries = [{"task": name, "parts": [1, 2]} for name in names]
        ids: list[str] = self("stream_add", stream=stream, entries=entries, **more)["ids"]
        return ids

    def take(self, stream: str, consumer: str = "alice", **more: Any) -> Answer:
        """Take up to ten entries."""
        arguments = {"stream": stream, "group": GROUP, "consumer": consumer}
        return self("work_take", **arguments, **({"count": 10} | more))

    def take_in_time(self, stream: str, consumer: str, due: str, **more: Any) -> Answer:
        """Wait for entries that are due at a time, an ISO 8601 one; they must not come early or late."""
        due_at = milliseconds_of(due)
        left = max(0.0, (due_at - milliseconds(self.server)) / 1000)
        began = self.clock()
        answer = self.take(stream, consumer, timeout_seconds=PATIENCE, **more)
        assert answer["entries"]
        with measured:
            assert self.clock() - began < left + LATE
        assert milliseconds(self.server) >= due_at
        return answer

    def settle(
        self, tool: str, lease: str, /, *, expect: dict[str, Sequence[str]], **arguments: Any
    ) -> Answer:
        """Settle a lease; its entries must be named in the lists that are expected, and in no others."""
        answer = self(tool, lease=lease, **arguments)
        found = {name: sorted(answer[name]) for name in _OUTCOMES if answer.get(name)}
        # In whatever order: a lease has its entries in the order in which they came due.
        expect = {name: sorted(ids) for name, ids in expect.items()}
        assert found == expect, f"{found} instead of {expect}"
        return answer

    def held(self, stream: str, key: str) -> dict[str, str]:
        """Return what pending_list says under `key` of each pending entry."""
        listed = self("pending_list", stream=stream, group=GROUP, count=100)["entries"]
        return {entry["id"]: entry[key] for entry in listed}

    def letters(self, stream: str, **more: Any) -> Answer:
        """List, replay or delete the dead letters of a stream."""
        return self("dead_letter_replay", stream=stream, group=GROUP, **more)

    def pending(self, stream: str) -> int:
        """Return how many entries are not finished, as the server itself counts them."""
        count: int = self.server.command("XPENDING", stream, GROUP)[0]
        return count

    def send(self, tool: str, **arguments: Any) -> socket.socket:
        """Begin a call; `answer_of` reads its answer, also once the daemon has ended."""
        connection = socket.socket(socket.AF_UNIX)
        self._connections.append(connection)
        connection.settimeout(PATIENCE)
        connection.connect(self.daemon.path)
        connection.sendall(request(1, tool, arguments))
        return connection

    def forget(self) -> None:
        """Forget all that was taken; for a server that was emptied."""
        for known in (self.finished, self.dead_lettered, self._streams):
            known.clear()

    def close(self) -> None:
        """Close the connections of calls that were begun."""
        for connection in self._connections:
            connection.close()


def answer_of(connection: socket.socket) -> Answer:
    """Return the structured content of the answer that a call gets."""
    text = b""
    while not text.endswith(b"\n"):
        data = connection.recv(1 << 16)
        assert data, "the daemon closed the connection without an answer"
        text += data
    answer: Answer = json.loads(text)["result"]["structuredContent"]
    return answer


def milliseconds_of(iso_time: str) -> int:
    """Return an ISO 8601 time in milliseconds since the epoch."""
    return round(dt.datetime.fromisoformat(iso_time).timestamp() * 1000)


def taken(answer: Answer) -> dict[str, int]:
    """Return the attempt of each entry that a take returned."""
    return {entry["id"]: entry["attempt"] for entry in answer["entries"]}
