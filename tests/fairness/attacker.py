"""The attacker: a program of its own that keeps a daemon as busy as its row says, with prepared lines.

    attacker.py ADDRESS REDIS SPECIFICATION

ADDRESS is a Unix socket, or ``http:PORT`` of 127.0.0.1; there it comes from 127.0.0.2, as another host would.
SPECIFICATION is a JSON file: `crowds`, each with the fields of `rows.Crowd`, and `flood`, with `command` (for
Redis, bytes as latin-1), `at_once` and `every` (seconds), or null. It needs only the standard library.

It prints "ready" once every connection is open, has sent what its socket takes and, where the crowd
`settles`, has its answers. It goes on until its standard input ends. Then it prints one line of JSON about
what it did since the last byte of that input. A connection that the daemon closes is opened again a tenth of
a second later.
"""

import heapq
import json
import os
import resource
import select
import socket
import sys
import time
from typing import Any

_AGAIN_SECONDS = 0.1
_BATCH_BYTES = 1 << 18
_READ_BYTES = 1 << 18
#: Until an attack counts as begun: at the earliest; even if not everything could be sent; even if answers are
#: missing that are waited for.
_LEAST_SECONDS, _READY_SECONDS, _SETTLED_SECONDS = 0.3, 1.0, 30.0
_ERRORS = b'"isError":true', b'"error":{'
_TAIL = max(map(len, _ERRORS)) - 1
#: What each answer has once: of lines their end, of HTTP the beginning of its response.
_LINE, _RESPONSE = b"\n", b"HTTP/1.1 "
_OTHER_HOST = "127.0.0.2"


class Totals:
    """What all connections together did."""

    def __init__(self) -> None:
        self.sent = self.received = self.answers = self.errors = self.closed = self.refused = self.flooded = 0
        self.last_error = ""


class Connection:
    """One connection of a crowd.

    Attributes:
        owed: How many lines are still to be sent.
        unsent: The rest of what is being sent.
    """

    def __init__(self, attack: "Attack", crowd: dict[str, Any]) -> None:
        self.attack = attack
        self.crowd = crowd
        self.lines = crowd["lines"]
        self.socket: socket.socket | None = None
        self.next_line = crowd["first_line"]
        self.open()

    def open(self) -> None:
        """Connect, and begin to send."""
        self.tail = self.mark_tail = b""
        self.unsent = memoryview(b"")
        self.owed = self.crowd["depth"]
        self.counted = 0
        self.socket = socket.socket(socket.AF_INET if self.attack.port else socket.AF_UNIX)
        try:
            if self.attack.port:
                self.socket.bind((_OTHER_HOST, 0))
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.socket.connect(("127.0.0.1", self.attack.port))
            elif self.crowd["own_processes"]:
                self._connect_as_another()
            else:
                self.socket.connect(self.attack.path)
        except OSError:
            self.attack.totals.refused += 1
            self.close()
            return
        self.socket.setblocking(False)
        self.attack.register(self)
        self.send()

    def _connect_as_another(self) -> None:
        """Connect in another process: the daemon is told which one it was (SO_PEERCRED of unix(7))."""
        assert self.socket is not None
        child = os.fork()
        if child == 0:
            os._exit(self.socket.connect_ex(self.attack.path))
        _, status = os.waitpid(child, 0)
        if failed := os.waitstatus_to_exitcode(status):
            raise OSError(failed, os.strerror(failed))

    def close(self) -> None:
        """Give the connection up, and come again."""
        if self.socket is not None:
            if self.socket.fileno() in self.attack.connections:
                self.attack.unregister(self)
            self.socket.close()
            self.socket = None
        self.attack.later(_AGAIN_SECONDS, self.open)

    def _prepare(self) -> None:
        parts = []
        size = 0
        while self.owed and size < _BATCH_BYTES:
            pieces = self.lines[self.next_line % len(self.lines)]
            self.next_line += 1
            if len(pieces) > 1:
                self.attack.next_id += 1
                parts.append((b"%d" % self.attack.next_id).join(pieces))
            else:
                parts.append(pieces[0])
            size += len(parts[-1])
            self.owed -= 1
        self.unsent = memoryview(b"".join(parts))

    def send(self) -> None:
        """Send as much as the socket takes."""
        assert self.socket is not None
        try:
            while self.owed or self.unsent:
                if not self.unsent:
                    self._prepare()
                sent = self.socket.send(self.unsent)
                self.attack.totals.sent += sent
                self.unsent = self.unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.attack.totals.closed += 1
            self.close()
            return
        self.attack.want(self, bool(self.unsent))
        if not self.unsent and self.crowd["leaves"]:
            self.attack.totals.answers += 1
            self.close()

    def receive(self) -> None:
        """Take what there is; each answer makes room for another line."""
        assert self.socket is not None
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.attack.totals.closed += 1
            self.close()
            return
        mark = self.attack.mark
        answers = (self.mark_tail + data).count(mark)
        if len(mark) > 1:
            self.mark_tail = (self.mark_tail + data)[1 - len(mark) :]
        totals = self.attack.totals
        totals.received += len(data)
        totals.answers += answers
        seen = self.tail + data
        for error in _ERRORS:
            if failed := seen.count(error):
                totals.errors += failed
                totals.last_error = seen[max(0, (at := seen.index(error)) - 400) : at + 400].decode(
                    "utf-8", "replace"
                )
        self.tail = seen[-_TAIL:]
        if answers and self.crowd["repeats"]:
            if self.crowd["gap"]:
                self.attack.later(self.crowd["gap"], lambda: self.more(answers))
            else:
                self.owed += answers
                self.send()

    def more(self, lines: int) -> None:
        """Send further lines, if it is still connected."""
        if self.socket is not None and self.socket.fileno() in self.attack.connections:
            self.owed += lines
            self.send()


class Attack:
    """All connections."""

    def __init__(self, path: str, redis: str, specification: dict[str, Any]) -> None:
        self.path = path
        scheme, _, port = path.rpartition(":")
        self.port = int(port) if scheme == "http" else 0
        self.mark = _RESPONSE if self.port else _LINE
        self.totals = Totals()
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.wanting: set[int] = set()
        self.timers: list[tuple[float, int, Any]] = []
        self.timer_count = 0
        self.next_id = 1_000_000_000
        self.counting = True
        self.began, self.used = time.monotonic(), time.process_time()
        self.flood = specification["flood"]
        if self.flood:
            self.redis = socket.socket(socket.AF_UNIX)
            self.redis.connect(redis)
            self.command = self.flood["command"].encode("latin-1") * self.flood["at_once"]
            self.awaited = 0
            self.due = time.monotonic()
        self.awaited_answers = 0
        for crowd in specification["crowds"]:
            if crowd["settles"]:
                self.awaited_answers += crowd["connections"] * crowd["depth"]
            crowd["lines"] = [line.encode("latin-1").split(b"@ID@") for line in crowd["lines"]]
            for number in range(crowd["connections"]):
                Connection(self, crowd | {"first_line": number})

    def has_begun(self, seconds: float) -> bool:
        """Return whether the attack counts as begun, that long after its start."""
        if self.totals.answers < self.awaited_answers:
            return seconds > _SETTLED_SECONDS
        return seconds > _READY_SECONDS or (not self.wanting and seconds > _LEAST_SECONDS)

    def register(self, connection: Connection) -> None:
        assert connection.socket is not None
        number = connection.socket.fileno()
        self.connections[number] = connection
        self.epoll.register(number, select.EPOLLIN if connection.crowd["reads"] else 0)

    def unregister(self, connection: Connection) -> None:
        assert connection.socket is not None
        number = connection.socket.fileno()
        del self.connections[number]
        self.wanting.discard(number)
        self.epoll.unregister(number)

    def want(self, connection: Connection, wants: bool) -> None:
        """Be told when the connection can send again, or no more."""
        assert connection.socket is not None
        number = connection.socket.fileno()
        if wants != (number in self.wanting):
            (self.wanting.add if wants else self.wanting.discard)(number)
            reads = select.EPOLLIN if connection.crowd["reads"] else 0
            self.epoll.modify(number, reads | (select.EPOLLOUT if wants else 0))

    def later(self, seconds: float, what: Any) -> None:
        self.timer_count += 1
        heapq.heappush(self.timers, (time.monotonic() + seconds, self.timer_count, what))

    def _flood(self, now: float) -> float:
        """Send what is due to Redis, and wait for its answers; return when the next is due."""
        while now >= self.due:
            self.redis.sendall(self.command)
            lines = 0
            while lines < 2 * self.flood["at_once"]:  # the length of an entry ID, and the ID
                lines += self.redis.recv(_READ_BYTES).count(b"\n")
            self.totals.flooded += self.flood["at_once"]
            now = time.monotonic()
            self.due = max(self.due + self.flood["every"], now - 10 * self.flood["every"])
        return self.due

    def heard(self, word: bytes) -> None:
        """Begin to count, or end."""
        if word:
            self.totals = Totals()
            self.began, self.used = time.monotonic(), time.process_time()
        else:
            self.counting = False

    def figures(self) -> dict[str, Any]:
        """Return what was done since `heard`."""
        return {
            **vars(self.totals),
            "open": len(self.connections),
            "seconds": time.monotonic() - self.began,
            "cpu": time.process_time() - self.used,
        }

    def turn(self, until: float) -> None:
        """Do what is due, and wait for something to happen until then at most."""
        now = time.monotonic()
        if self.flood:
            until = min(until, self._flood(now))
        while self.timers and self.timers[0][0] <= now:
            heapq.heappop(self.timers)[2]()
        if self.timers:
            until = min(until, self.timers[0][0])
        for number, events in self.epoll.poll(max(0.0, until - time.monotonic()), 64):
            if number == 0:
                self.heard(os.read(0, 1))
                continue
            connection = self.connections.get(number)
            if connection is None:
                continue
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                if events & select.EPOLLIN or connection.crowd["reads"]:
                    connection.receive()
                else:
                    self.totals.closed += 1
                    connection.close()
            if events & select.EPOLLOUT and self.connections.get(number) is connection:
                connection.send()


def main() -> None:
    """Attack until standard input ends."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    with open(sys.argv[3], encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes longer to import than the rest
        specification = json.load(file)
    attack = Attack(sys.argv[1], sys.argv[2], specification)
    attack.epoll.register(0, select.EPOLLIN)
    began = time.monotonic()
    while not attack.has_begun(time.monotonic() - began):
        attack.turn(time.monotonic() + 0.05)
    print("ready", flush=True)
    while attack.counting:
        attack.turn(time.monotonic() + 60)
    print(json.dumps(attack.figures()), flush=True)
    os._exit(0)  # without closing thousands of connections one by one


if __name__ == "__main__":
    main()
