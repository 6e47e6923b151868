"""A Redis Cluster of real servers for tests, on loopback, formed by the commands that the nodes exchange.

https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ has the terms. A test that kills or
moves has a cluster of its own; one that only needs slots takes one with `node_timeout_ms` of many seconds, on
which a busy machine does not bring about an election.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import hiredis

from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.tls import Tls
from tests.support.certificates import Authority, tls_options
from tests.support.servers import Server, binary_of, free_port
from tests.support.waiting import wait_until

SLOTS = 16_384
#: For what a cluster comes to by itself, on a busy machine.
SECONDS = 60


@attrs.frozen
class Row:
    """A line of CLUSTER NODES: what one node knows of another, or of itself."""

    id: str
    addresses: frozenset[str]
    flags: frozenset[str]
    primary: str
    epoch: int
    slots: tuple[range, ...]

    @classmethod
    def parse(cls, line: str) -> Row:
        """Read a line; slots that are half moved are the source's."""
        node, address, flags, primary, _, _, epoch, _, *slots = line.split()
        where, _, names = address.partition(",")
        port = where.partition("@")[0].rpartition(":")[2]
        hosts = {where.partition("@")[0].rpartition(":")[0], names.partition(",")[0]} - {""}
        bounds = [one.partition("-") for one in slots if not one.startswith("[")]
        return cls(
            node,
            frozenset(f"{host}:{port}" for host in hosts),
            frozenset(flags.split(",")),
            primary,
            int(epoch),
            tuple(range(int(first), int(last or first) + 1) for first, _, last in bounds),
        )


@attrs.define
class Cluster:
    """A running cluster that belongs to the tests.

    Tests use it as they use a `Server`: `command` goes where the key is.

    Attributes:
        nodes: The servers; first those that were made primaries, then their replicas in the same order.
        ids: Node IDs by port.
        authority: Signed the nodes' certificates, if they speak TLS.
        password: What everybody logs in with as the default user, if that is asked for.
    """

    nodes: list[Server]
    ids: dict[int, str] = attrs.field(factory=dict)
    authority: Authority | None = None
    password: str | None = None
    _recent: Server | None = None

    # As one server

    def variables(self) -> dict[str, str]:
        """Return what a daemon is told of it, as variables of its environment."""
        told = {"REDSTREAMD_REDIS_TOPOLOGY": "cluster"}
        told["REDIS_NODES"] = ",".join(map(self.address, self.nodes))
        if self.password is not None:
            told["REDIS_PASSWORD"] = self.password
        if self.authority is not None:
            told |= {"REDSTREAMD_REDIS_TLS": "true", "REDSTREAMD_REDIS_CA_FILE": self.authority.certificate}
        return told

    def deployment(self, **login: Any) -> Deployment:
        """Return where it is and how to log in; `login` changes parts of that."""
        tls = None if self.authority is None else Tls(ca_file=self.authority.certificate)
        target = Target(**{"password": self.password, "tls": tls} | login)
        nodes = tuple(("127.0.0.1", node.tls_port or node.port) for node in self.nodes)
        return Deployment(target, TopologyKind.CLUSTER, nodes)

    def command(self, *args: str | bytes | int) -> Any:
        """Send a command where its key is, as the nodes say, and return the raw reply (errors as values).

        KEYS is asked of all primaries; another command without a key goes to any node.
        """
        if args[0] == "KEYS":
            return [key for node in self.primaries() for key in node.command(*args)]
        node, asking = self._recent or self.live()[0], False
        if node.process is None:
            node = self.live()[0]
        deadline = time.monotonic() + SECONDS
        while True:
            reply = node.commands(*([("ASKING",)] if asking else []), args)[-1]
            words = str(reply).split() if isinstance(reply, hiredis.ReplyError) else ["OK"]
            if words[0] in ("MOVED", "ASK"):
                node, asking = self.named(words[2], node), words[0] == "ASK"
            elif words[0] not in ("TRYAGAIN", "CLUSTERDOWN") or time.monotonic() > deadline:
                self._recent = node
                return reply
            else:
                time.sleep(0.02)

    def commands(self, *batch: Sequence[str | bytes | int]) -> list[Any]:
        """Send several commands in order, each where its key is."""
        return [self.command(*args) for args in batch]

    def flush(self) -> None:
        """Empty it."""
        for node in self.primaries():
            node.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP, to all nodes that run."""
        for node in self.live():
            node.signal(number)

    # Who serves what

    def live(self) -> list[Server]:
        """Return the nodes that run."""
        return [node for node in self.nodes if node.process is not None]

    def view(self, node: Server) -> dict[str, Row]:
        """Return what a node knows of all that it knows, by node ID."""
        lines = node.command("CLUSTER", "NODES").decode().splitlines()
        return {row.id: row for row in map(Row.parse, lines)}

    def row(self, node: Server) -> Row:
        """Return what a node says of itself."""
        return self.view(node)[self.ids[node.port]]

    def primaries(self) -> list[Server]:
        """Return the nodes that run and say that they are primaries with slots."""
        rows = [(node, self.row(node)) for node in self.live()]
        return [node for node, row in rows if "master" in row.flags and row.slots]

    def replicas_of(self, primary: Server) -> list[Server]:
        """Return the nodes that run and say that they are replicas of a node."""
        return [node for node in self.live() if self.row(node).primary == self.ids[primary.port]]

    def replica_of(self, primary: Server) -> Server:
        """Return the first of its replicas."""
        return self.replicas_of(primary)[0]

    def slot(self, key: str | bytes) -> int:
        """Return the slot of a key."""
        return int(self.live()[0].command("CLUSTER", "KEYSLOT", key))

    def owner(self, slot: int) -> Server:
        """Return the primary that says it has a slot; the youngest configuration, where two say so."""
        rows = [(self.row(node), node) for node in self.primaries()]
        return max(
            ((row.epoch, node) for row, node in rows if any(slot in each for each in row.slots)),
            key=lambda one: one[0],
        )[1]

    def node_of(self, key: str | bytes) -> Server:
        """Return the primary that says it has the slot of a key."""
        return self.owner(self.slot(key))

    def keys_on_each(self, stem: str = "key") -> list[str]:
        """Return a key for each of the primaries, in their order; each with a hash tag of its own."""
        found: dict[int, str] = {}
        primaries = self.primaries()
        for number in range(SLOTS):
            found.setdefault(self.node_of(f"{{{stem}-{number}}}").port, f"{{{stem}-{number}}}")
            if len(found) == len(primaries):
                break
        return [found[node.port] for node in primaries]

    def named(self, address: str, by: Server) -> Server:
        """Return the node that an error reply of another one names; without a host, it means itself's."""
        if address.startswith(":"):
            address = f"127.0.0.1{address}"
        view = self.view(by)
        (named,) = (row.id for row in view.values() if address in row.addresses)
        return next(node for node in self.nodes if self.ids[node.port] == named)

    def address(self, node: Server) -> str:
        """Return where a node takes connections: by TLS, if it speaks that."""
        return f"127.0.0.1:{node.tls_port or node.port}"

    # What happens to it

    def kill(self, node: Server) -> None:
        """End a node as a crash would; nothing of its data is kept."""
        node.kill()

    def restart(self, node: Server) -> None:
        """Start a node that was killed: without data, but with what it knew of the cluster."""
        node.start()

    def failover(self, replica: Server) -> None:
        """Have a replica take over from its primary without loss, and return once the primary follows it.

        As CLUSTER FAILOVER does, but without an election: in twice the node timeout, nodes vote once for the
        replicas of a primary.
        """
        primary = next(node for node in self.live() if self.ids[node.port] == self.row(replica).primary)
        wait_until(lambda: self._is_synchronised(replica))
        _ok(primary.command("CLIENT", "PAUSE", 60_000, "WRITE"))
        try:
            written = replication_offset(primary, "master_repl_offset")
            wait_until(lambda: replication_offset(replica, "slave_repl_offset") >= written)
            _ok(replica.command("CLUSTER", "FAILOVER", "TAKEOVER"))
            wait_until(lambda: self._is_synchronised(primary))
        finally:
            _ok(primary.command("CLIENT", "UNPAUSE"))

    def begin_move(self, slot: int, to: Server) -> None:
        """Begin to move a slot: its owner redirects (ASK) for keys that it does not hold any more."""
        source = self.owner(slot)
        _ok(to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source.port]))
        _ok(source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[to.port]))

    def move_keys(self, slot: int, to: Server, *keys: str | bytes) -> None:
        """Move some keys of a slot whose move has begun; all that there are, if none is named."""
        source = self.owner(slot)
        host, _, port = self.address(to).rpartition(":")
        login = () if self.password is None else ("AUTH", self.password)
        while chosen := keys or source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            _ok(source.command("MIGRATE", host, port, "", 0, 20_000, *login, "KEYS", *chosen), b"NOKEY")
            if keys:
                return

    def end_move(self, slot: int, to: Server) -> None:
        """Give a slot whose keys have moved to its new owner; the others learn of it at once."""
        self.wait_epochs()
        # The new owner first: a source that gave the slot away would name one that does not know of it.
        source = self.owner(slot)
        for node in (to, source, *(one for one in self.primaries() if one not in (to, source))):
            _ok(node.command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[to.port]))

    def move_slot(self, slot: int, to: Server) -> None:
        """Move a slot with its keys."""
        self.begin_move(slot, to)
        self.move_keys(slot, to)
        self.end_move(slot, to)

    def take_slots(self, source: Server, to: Server) -> None:
        """Give all slots of a node, which holds no key, to another; then it is as if it had just joined."""
        # So that what the source has just told of them counts for nothing.
        self.wait_epochs()
        to.command("CLUSTER", "BUMPEPOCH")
        slots = [slot for some in self.row(source).slots for slot in some]
        commands = [("CLUSTER", "SETSLOT", slot, "NODE", self.ids[to.port]) for slot in slots]
        for node in (to, source, *(one for one in self.live() if one not in (to, source))):
            assert set(node.commands(*commands)) == {b"OK"}
        self.wait_ok()

    def occupied_slots(self) -> list[int]:
        """Return the slots that hold keys."""
        return sorted({self.slot(key) for key in self.command("KEYS", "*")})

    def reshard(self, moves: int) -> None:
        """Move slots that hold keys, so many times, each to the next primary; in a thread, under load."""
        slots = self.occupied_slots()
        primaries = self.primaries()
        for turn in range(moves):
            slot = slots[turn % len(slots)]
            self.move_slot(slot, primaries[(primaries.index(self.owner(slot)) + 1) % len(primaries)])

    def wait_ok(self) -> None:
        """Return once all nodes that run agree who has which slot, all are served, and replicas follow."""
        wait_until(self._is_ok, timeout_seconds=SECONDS)

    def wait_epochs(self) -> None:
        """Return once the primaries know each other's epochs, of which no two are equal.

        A node gets a new epoch with a slot only if it has heard of a higher one than its own. If it has not
        heard of the source's yet, what the source said before it gave the slot away counts for more when it
        arrives: then each of the two names the other for ever.
        """
        wait_until(self._are_epochs_known, timeout_seconds=SECONDS)

    def _are_epochs_known(self) -> bool:
        primaries = self.primaries()
        ids = [self.ids[node.port] for node in primaries]
        views = [self.view(node) for node in primaries]
        own = [view[id_].epoch for view, id_ in zip(views, ids, strict=True)]
        return len(set(own)) == len(own) and all([view[id_].epoch for id_ in ids] == own for view in views)

    def _is_ok(self) -> bool:
        live = self.live()
        views = [self.view(node) for node in live]
        running = {self.ids[node.port] for node in live}
        served = [
            sorted((slot.start, slot.stop, row.id) for row in view.values() for slot in row.slots)
            for view in views
        ]
        return (
            all(one == served[0] for one in served)
            and {owner for _, _, owner in served[0]} <= running
            and sum(stop - start for start, stop, _ in served[0]) == SLOTS
            and all(b"cluster_state:ok" in node.command("CLUSTER", "INFO") for node in live)
            and all(
                "master" in view[self.ids[node.port]].flags or self._is_synchronised(node)
                for node, view in zip(live, views, strict=True)
            )
        )

    def _is_synchronised(self, replica: Server) -> bool:
        return b"master_link_status:up" in replica.command("INFO", "replication")


def _ok(reply: Any, *others: bytes) -> None:
    assert reply == b"OK" or reply in others, reply


def replication_offset(node: Server, name: str) -> int:
    lines = node.command("INFO", "replication").decode().splitlines()
    return next(int(line.partition(":")[2]) for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def running_cluster(
    primaries: int = 3,
    replicas: int = 1,
    *options: str,
    kind: str = "redis",
    node_timeout_ms: int = 1_000,
    password: str | None = None,
    tls: bool = False,
    options_of: Callable[[int], Sequence[str]] = lambda port: (),
) -> Iterator[Cluster]:
    """Run a cluster for the block.

    Args:
        primaries: How many there are.
        replicas: How many each of them has.
        options: Further options of all nodes, such as ``--user`` with an ACL.
        kind: Of the servers; see `binary_of`.
        node_timeout_ms: After which a node that does not answer is failing.
        password: Of the default user.
        tls: Whether clients, replicas and nodes speak TLS, for which only Debian's Redis is built; a plain
            port remains for what does not.
        options_of: Further options of one node, by its port, such as what it announces.
    """
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="rc-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        authority = Authority(home) if tls else None
        common = [*options, "--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms)]
        common += ["--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"]
        common += ["--appendonly", "no", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        if password is not None:
            common += ["--requirepass", password, "--masterauth", password]
        nodes: list[Server] = []
        bus_ports: dict[int, int] = {}
        for number in range(primaries * (1 + replicas)):
            directory = home / str(number)
            directory.mkdir()
            port, tls_port = free_port(), free_port() if tls else None
            bus_ports[port] = free_port()
            own = [*common, "--cluster-port", str(bus_ports[port]), *options_of(port)]
            if authority is not None and tls_port is not None:
                certificate = authority.issue(f"node-{number}", "127.0.0.1", "localhost")
                own += tls_options(tls_port, authority, certificate, clients="no")
                own += ["--tls-cluster", "yes", "--tls-replication", "yes"]
            login = () if password is None else (password,)
            server = Server(binary_of(kind), directory, port, tuple(own), tls_port=tls_port, login=login)
            server.start()
            stack.callback(server.stop)
            nodes.append(server)
        cluster = Cluster(nodes, authority=authority, password=password)
        _form(cluster, primaries, bus_ports)
        yield cluster


def _form(cluster: Cluster, primaries: int, bus_ports: dict[int, int]) -> None:
    nodes = cluster.nodes
    for number, node in enumerate(nodes):
        cluster.ids[node.port] = node.command("CLUSTER", "MYID").decode()
        _ok(node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1))
        if number < primaries:
            first, end = (SLOTS * each // primaries for each in (number, number + 1))
            _ok(node.command("CLUSTER", "ADDSLOTSRANGE", first, end - 1))
        # Everybody meets everybody: what goes from mouth to mouth takes seconds.
        for other in nodes[:number]:
            host, _, port = cluster.address(other).rpartition(":")
            _ok(node.command("CLUSTER", "MEET", host, port, bus_ports[other.port]))
    everybody = set(cluster.ids.values())
    for number, node in enumerate(nodes[primaries:]):
        primary = cluster.ids[nodes[number % primaries].port]
        wait_until(lambda node=node: cluster.view(node).keys() == everybody)  # type: ignore[misc]
        wait_until(lambda node=node, of=primary: node.command("CLUSTER", "REPLICATE", of) == b"OK")  # type: ignore[misc]
    cluster.wait_ok()
