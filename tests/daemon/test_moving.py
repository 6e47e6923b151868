"""docs/scaling.md: the commands of each move are run in their order, while clients add and finish work."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from redis.crc import key_slot

from tests.support.counts import long
from tests.support.daemon import (
    PROGRAM,
    RETRYABLE,
    Daemon,
    call,
    clean_environment,
    home,
    read_resource,
    running_daemon,
)
from tests.support.servers import Server, free_port, redis_binary
from tests.support.waiting import wait_until

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text("utf-8")

LIVE = "live:jobs"
WORK = {"group": "workers", "consumer": "one"}
#: Slots that move in the test; the page moves two thirds of all, which takes a minute.
FEW = 300


@attrs.define
class Step:
    """A part of the page below one heading: its commands in order, and blocks by their language."""

    heading: str
    lines: list[str] = attrs.field(factory=list)

    def block(self, number: int = 0) -> str:
        """Return the text of a fenced block."""
        return re.findall(r"```\w+\n(.*?)```", "\n".join(self.lines), re.DOTALL)[number]

    def commands(self) -> list[str]:
        """Return the indented lines outside of blocks."""
        return [line.strip() for line in self.lines if line.startswith("    ")]


def steps(section: str) -> list[Step]:
    """Return what is below each heading of a section of the page."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    found = [Step(section)]
    for line in text.splitlines():
        if line.startswith("### "):
            found.append(Step(line.removeprefix("### ")))
        else:
            found[-1].lines.append(line)
    return found


@attrs.define
class Clients:
    """One that adds entries and one that takes and finishes them, each call repeated until it is answered."""

    path: str
    added: list[str] = attrs.field(factory=list)
    finished: list[str] = attrs.field(factory=list)
    codes: set[str] = attrs.field(factory=set)
    failures: list[BaseException] = attrs.field(factory=list)
    stopped: threading.Event = attrs.field(factory=threading.Event)

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the content of an answer, however often it has to be asked for."""
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                answer = call(self.path, tool, arguments)
                content: dict[str, Any] = answer["structuredContent"]
                if not answer.get("isError"):
                    return content
                code = content.get("code") or content["error"]["code"]
                self.codes.add(code)
                assert code in RETRYABLE, answer
            assert time.monotonic() < deadline, f"{tool} was not answered for a minute: {self.codes}"
            time.sleep(0.05)

    def add(self) -> None:
        """Add entries until told to stop."""
        number = 0
        while not self.stopped.is_set():
            number += 1
            entry = {"stream": LIVE, "entries": [{"number": number}], "idempotency_key": f"add-{number}"}
            self.added += self.call("stream_add", **entry)["ids"]
            time.sleep(0.01)

    def work(self) -> None:
        """Finish entries until all are finished that were added before the stop."""
        number = 0
        while not (self.stopped.is_set() and len(self.finished) >= len(self.added)):
            number += 1
            key = {"idempotency_key": f"take-{number}", "lease_seconds": 600}
            taken = self.call("work_take", stream=LIVE, count=10, timeout_seconds=0.2, **WORK, **key)
            if "lease" in taken:
                told = self.call("work_done", lease=taken["lease"])
                assert not told["lost"]
                self.finished += [*told["done"], *told["already_done"]]

    def _noting(self, run: Any) -> threading.Thread:
        def noted() -> None:
            try:
                run()
            except BaseException as failure:  # noqa: BLE001 - the test raises it
                self.failures.append(failure)
                self.stopped.set()

        thread = threading.Thread(target=noted)
        thread.start()
        return thread

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run both for the block; at its end everything that was added is finished."""
        threads = [self._noting(self.add), self._noting(self.work)]
        try:
            yield
        finally:
            self.stopped.set()
            for thread in threads:
                thread.join(timeout=120)
        assert not self.failures, self.failures

    def wait_traffic(self) -> None:
        """Return once both had some more calls answered."""
        added, finished = len(self.added), len(self.finished)
        wait_until(
            lambda: self.failures or len(self.added) >= added + 3 <= len(self.finished) - finished + added
        )
        assert not self.failures, self.failures


@attrs.define
class Held:
    """What a stream holds that nobody touches while it moves."""

    stream: str
    lease: str
    leased: list[str]
    cursor: str
    rest: list[str]


def fill(clients: Clients, stream: str) -> Held:
    """Give a stream a lease, a retry, a dead letter and a remembered key, and read a part of it."""
    ids = clients.call("stream_add", stream=stream, entries=[{"n": n} for n in range(6)], idempotency_key="k")
    taken = clients.call("work_take", stream=stream, count=2, lease_seconds=3_600, **WORK)
    retried = clients.call("work_take", stream=stream, count=1, lease_seconds=3_600, **WORK)
    clients.call("work_fail", lease=retried["lease"], delay_seconds=3_600)
    dead = clients.call("work_take", stream=stream, count=1, lease_seconds=3_600, **WORK)
    clients.call("work_fail", lease=dead["lease"], action="dead_letter", reason="for the test")
    page = clients.call("stream_read", stream=stream, count=2)
    leased = [entry["id"] for entry in taken["entries"]]
    return Held(stream, taken["lease"], leased, page["next_cursor"], ids["ids"][2:])


def check_held(clients: Clients, held: Held) -> None:
    """What a client held before is worth the same."""
    again = clients.call(
        "stream_add", stream=held.stream, entries=[{"n": n} for n in range(6)], idempotency_key="k"
    )
    assert again["duplicate"]
    page = clients.call("stream_read", stream=held.stream, cursor=held.cursor, count=100)
    assert [entry["id"] for entry in page["entries"]] == held.rest
    pending = clients.call("pending_list", stream=held.stream, group="workers")["entries"]
    assert [entry["id"] for entry in pending] == [*held.leased, held.rest[0]]
    assert clients.call("work_done", lease=held.lease)["done"] == held.leased


def dumped(servers: list[Server]) -> dict[bytes, bytes]:
    """Return everything beside the stream that is used meanwhile, as Redis would write it to disk.

    Without the records of calls, which expire after minutes.
    """
    found: dict[bytes, bytes] = {}
    for server in servers:
        for key in server.command("KEYS", "*"):
            if LIVE.encode() not in key and b":rs:call:" not in key:
                found[key] = server.command("DUMP", key)
    return found


@attrs.define
class Site:
    """The servers and the daemon of the page, and what stands for its commands.

    Attributes:
        servers: By the last number of their addresses on the page.
        daemon: The one that runs.
    """

    directory: Path
    servers: dict[int, Server]
    stack: contextlib.ExitStack
    daemon: Daemon | None = None
    bus_ports: dict[int, int] = attrs.field(factory=dict)
    sentinel_ports: dict[int, int] = attrs.field(factory=dict)
    prepared: tuple[int, int] = attrs.field(factory=lambda: (free_port(), free_port()))
    _running: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    def address(self, text: str) -> str:
        """Return a text of the page with the addresses of this site."""
        text = re.sub(
            r"-h 192\.0\.2\.(\d) -p 26379",
            lambda found: f"-h 127.0.0.1 -p {self.sentinel_ports[int(found[1])]}",
            text,
        )
        text = re.sub(
            r"192\.0\.2\.(\d):26379", lambda found: f"127.0.0.1:{self.sentinel_ports[int(found[1])]}", text
        )
        text = re.sub(
            r"192\.0\.2\.(\d)[: ]6379",
            lambda found: f"127.0.0.1{found[0][-5]}{self.servers[int(found[1])].port}",
            text,
        )
        return re.sub(
            r"-h 192\.0\.2\.(\d)", lambda found: f"-h 127.0.0.1 -p {self.servers[int(found[1])].port}", text
        )

    def settings(self, text: str) -> None:
        """Write the daemon's settings."""
        (self.directory / "redstreamd.toml").write_text(self.address(text), "utf-8")

    def start_daemon(self) -> None:
        """Start it with its settings, or again."""
        self._running.close()
        file = str(self.directory / "redstreamd.toml")
        self.daemon = self._running.enter_context(
            running_daemon("absent", "--config", file, directory=self.directory)
        )

    def close(self) -> None:
        """Stop the daemon."""
        self._running.close()

    def run(self, command: str) -> str:
        """Run a command of the page, and return what it prints; repeated while nodes do not agree yet."""
        if command == "sudo systemctl restart redis-server.service":
            self.servers[1].stop()
            self.servers[1].start()
            return ""
        if command == "sudo systemctl restart redstreamd.service":
            self.start_daemon()
            return ""
        if command == "sudo systemctl reload redstreamd.service":
            assert self.daemon is not None
            path = self.daemon.path
            self.daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: read_resource(path, "redstream://health")["reload"]["reloads"] == 1)
            return ""
        if command.startswith("sudo redstreamd "):
            return self._redstreamd(command.split()[2:])
        command = command.replace("sudo -u redis redis-server", redis_binary())
        command = command.replace("7001", str(self.prepared[0])).replace("1" + str(self.prepared[0]), "17001")
        command = command.replace("17001", str(self.prepared[1]))
        command = command.replace("/var/lib/redis", str(self.servers[1].directory))
        command = self.address(command)
        assert command.split()[0] in ("redis-cli", redis_binary()), command
        deadline = time.monotonic() + 60
        while True:
            ran = subprocess.run(
                ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
            )
            failed = ran.returncode or re.search(
                r"^(\(error\)|.*\[ERR\]|.*Please fix|\w*ERR )", ran.stdout, re.MULTILINE
            )
            if not failed:
                return ran.stdout
            assert time.monotonic() < deadline, (command, ran.stdout[-2_000:], ran.stderr)
            time.sleep(0.2)

    def _redstreamd(self, words: list[str]) -> str:
        file = str(self.directory / "redstreamd.toml")
        ran = subprocess.run(
            [PROGRAM, *words, *(["--no-service"] if words[0] == "doctor" else []), "--config", file],
            env=clean_environment(self.directory),
            capture_output=True,
            text=True,
            timeout=120,
        )
        # Warnings say that the test's servers have no append-only file, and the like.
        assert ran.returncode <= (1 if words[0] == "doctor" else 0), ran.stdout + ran.stderr
        return ran.stdout


@contextlib.contextmanager
def site(count: int, *options: str) -> Iterator[Site]:
    """The first server and a daemon on it run; the other servers do not yet."""
    with home() as directory, contextlib.ExitStack() as stack:
        servers = {}
        for number in range(1, count + 1):
            place = directory / f"redis-{number}"
            place.mkdir()
            servers[number] = Server(redis_binary(), place, free_port(), options)
            stack.callback(servers[number].stop)
        servers[1].start()
        running = Site(directory, servers, stack)
        running.settings(f'[redis]\nhost = "127.0.0.1"\nport = {servers[1].port}\n')
        stack.callback(running.close)
        running.start_daemon()
        yield running


def options_of(block: str, site: Site, number: int) -> tuple[str, ...]:
    """Return settings of a server that the page shows, as options."""
    words = [word for line in block.splitlines() for word in (f"--{line.split()[0]}", *line.split()[1:])]
    if "--cluster-enabled" in words:
        words += ["--cluster-port", str(site.bus_ports.setdefault(number, free_port()))]
    return tuple(words)


def are_three(told: str) -> bool:
    """Whether each of the three primaries knows the others, and says that the cluster serves."""
    return told.count("cluster_known_nodes:3") == 3 and told.count("cluster_state:ok") == 3


@long  # a daemon starts twice, is examined twice, and six servers form a cluster
def test_one_redis_becomes_a_cluster_and_no_entry_lease_or_position_is_lost() -> None:
    begin, prepare, restart, tell, add, move, replicas, *_ = steps("From one Redis to a cluster")
    assert "Prepare" in prepare.heading
    assert "replicas" in replicas.heading
    streams = [f"held:{n}" for n in range(6_000)]
    moving = [name for name in streams if key_slot(name.encode()) < FEW][:3]
    staying = [name for name in streams if key_slot(name.encode()) > 2 * FEW][:3]
    assert not begin.commands()
    with site(6) as here:
        assert here.daemon is not None
        clients = Clients(here.daemon.path)
        held = [fill(clients, stream) for stream in (*moving, *staying)]
        before = dumped([here.servers[1]])
        assert len(before) > len(held) * 3, before.keys()
        with clients.running():
            clients.wait_traffic()
            keyspace, append, persistence, *slots = prepare.commands()
            assert "db0:" in here.run(keyspace)
            here.run(append)
            wait_until(lambda: "aof_rewrite_in_progress:0" in here.run(persistence))
            for command in slots[:1]:
                here.run(command)
            wait_until(lambda: "PONG" in here.run(f"redis-cli -p {here.prepared[0]} PING"))
            for command in slots[1:]:
                here.run(command)
            here.servers[1].options += options_of(prepare.block(), here, 1)
            clients.wait_traffic()

            command, info = restart.commands()
            here.run(command)
            wait_until(lambda: "cluster_state:ok" in here.run(info))
            clients.wait_traffic()

            here.settings(tell.block())
            for command in tell.commands():
                here.run(command)
            clients.wait_traffic()
            for number in range(2, 7):
                here.servers[number].options += options_of(prepare.block(), here, number)
                here.servers[number].start()
            *adding, known = add.commands()
            for command in adding:
                here.run(command)
            wait_until(lambda: are_three(here.run(known)))
            clients.wait_traffic()

            rebalance, check = move.commands()
            ids = [here.servers[number].command("CLUSTER", "MYID").decode() for number in (1, 2, 3)]
            few = " ".join(f"{id_}={weight}" for id_, weight in zip(ids, (98, 1, 1), strict=True))
            here.run(f"{rebalance} --cluster-weight {few}")
            assert "All 16384 slots covered" in here.run(check)
            clients.wait_traffic()

            for command in replicas.commands()[:3]:
                here.run(command)
            here.settings(replicas.block())
            clients.wait_traffic()
            nodes = [here.servers[number] for number in range(1, 7)]
            wait_until(
                lambda: all(b"cluster_slots_ok:16384" in one.command("CLUSTER", "INFO") for one in nodes)
            )
            for command in replicas.commands()[3:]:
                here.run(command)
            clients.wait_traffic()
        primaries = [here.servers[number] for number in (1, 2, 3)]
        for one in primaries:
            wait_until(lambda one=one: b"connected_slaves:1" in one.command("INFO", "replication"))  # type: ignore[misc]
        assert dumped(primaries) == before
        assert any(stream.encode() in dumped(primaries[1:]) for stream in moving)
        check_clients(clients, primaries)
        for each in held:
            check_held(clients, each)


@long  # a daemon starts twice, six servers and a failover
def test_one_redis_gets_replicas_and_sentinels_and_a_failover_loses_nothing_that_was_replicated() -> None:
    _, replicas, sentinels, tell, failover = steps("From one Redis to Sentinel")
    with site(3) as here:
        assert here.daemon is not None
        clients = Clients(here.daemon.path)
        held = fill(clients, "held")
        before = dumped([here.servers[1]])
        with clients.running():
            clients.wait_traffic()
            for number in (2, 3):
                here.servers[number].start()
            *following, replication = replicas.commands()
            for command in following:
                here.run(command)
            wait_until(lambda: here.run(replication).count("state=online") == 2)

            watched = here.address(sentinels.block())
            for number in (1, 2, 3):
                place = here.directory / f"sentinel-{number}"
                place.mkdir()
                file = place / "sentinel.conf"
                file.write_text(watched, "ascii")
                one = Server(redis_binary(), place, free_port(), ("--sentinel",), configuration=file)
                one.start()
                here.stack.callback(one.stop)
                here.sentinel_ports[number] = one.port
            (quorum,) = sentinels.commands()
            wait_until(lambda: here.run(quorum).startswith("OK 3 usable Sentinels"))
            clients.wait_traffic()

            here.settings(tell.block())
            for command in tell.commands():
                here.run(command)
            clients.wait_traffic()

            # Sentinels learn of replicas every ten seconds, and refuse before.
            pause, begin, named = failover.commands()
            wait_until(lambda: (here.run(pause), here.run(begin))[1].strip() == "OK")
            first = str(here.servers[1].port)
            wait_until(lambda: first not in here.run(named))
            clients.wait_traffic()
        primary = next(one for one in here.servers.values() if str(one.port) in here.run(named))
        assert dumped([primary]) == before
        check_clients(clients, [primary])
        check_held(clients, held)


def check_clients(clients: Clients, servers: list[Server]) -> None:
    """Every entry that was acknowledged is there once, and was finished once."""
    (entries,) = [
        found
        for server in servers
        if isinstance(found := server.command("XRANGE", LIVE, "-", "+"), list) and found
    ]
    there = [id_.decode() for id_, _ in entries]
    assert there == clients.added
    assert sorted(clients.finished) == sorted(there)
    numbers = [
        json.loads(dict(zip(fields[::2], fields[1::2], strict=True))[b"number"]) for _, fields in entries
    ]
    assert numbers == list(range(1, len(numbers) + 1))
