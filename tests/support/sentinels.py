"""A primary, its replicas and the sentinels that watch them, real servers on loopback, for tests.

https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/ has the terms. A test that kills or
cuts has some of its own; one that only needs the topology takes some with `down_after_ms` of many seconds, on
which a busy machine does not bring about an election.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.tls import Tls
from tests.support.certificates import Authority, tls_options
from tests.support.redis_cluster import replication_offset
from tests.support.servers import Server, binary_of, free_port
from tests.support.waiting import wait_until

#: What the sentinels call the primary.
NAME = "bus"
#: For what sentinels come to by themselves, on a busy machine.
SECONDS = 60
#: How often sentinels do what they do every second or ten (``SENTINEL DEBUG``), in milliseconds. One that a
#: busy machine held up trusts no clock (TILT) for half a minute. After four publish periods they make whoever
#: else says that it is the primary a replica; that one was promoted may be told to them only after 1.1 s.
HURRY = "info-period 200 publish-period 400 ask-period 200 ping-period 100 tilt-period 200"
HURRY += " min-link-reconnect-period 200 election-timeout 1000"


@attrs.define
class Sentinels:
    """Running servers with sentinels, which belong to the tests.

    Tests use them as they use a `Server`: `command` goes to the primary.

    Attributes:
        servers: The primary that was first, and its replicas.
        sentinels: Those that watch them.
        authority: Signed the certificates of all, if they speak TLS.
        password: What everybody logs in with at the servers, if that is asked for.
        sentinel_password: The same at the sentinels.
    """

    servers: list[Server]
    sentinels: list[Server]
    authority: Authority | None = None
    password: str | None = None
    sentinel_password: str | None = None

    # As one server

    def variables(self) -> dict[str, str]:
        """Return what a daemon is told of them, as variables of its environment."""
        nodes = ",".join(f"127.0.0.1:{one.tls_port or one.port}" for one in self.sentinels)
        told = {"REDSTREAMD_REDIS_TOPOLOGY": "sentinel", "REDIS_NODES": nodes}
        told["REDSTREAMD_REDIS_SENTINEL_PRIMARY"] = NAME
        if self.password is not None:
            told["REDIS_PASSWORD"] = self.password
        if self.sentinel_password is not None:
            told["REDSTREAMD_REDIS_SENTINEL_PASSWORD"] = self.sentinel_password
        if self.authority is not None:
            told |= {"REDSTREAMD_REDIS_TLS": "true", "REDSTREAMD_REDIS_CA_FILE": self.authority.certificate}
        return told

    def deployment(self, **login: Any) -> Deployment:
        """Return where they are and how to log in; `login` changes parts of how to log in at the servers."""
        tls = None if self.authority is None else Tls(ca_file=self.authority.certificate)
        return Deployment(
            Target(**{"password": self.password, "tls": tls} | login),
            TopologyKind.SENTINEL,
            tuple(("127.0.0.1", one.tls_port or one.port) for one in self.sentinels),
            primary_name=NAME,
            sentinel=Target(password=self.sentinel_password, tls=tls),
        )

    def command(self, *args: str | bytes | int) -> Any:
        """Send a command to the primary and return the raw reply (errors as values)."""
        return self.primary().command(*args)

    def commands(self, *batch: Sequence[str | bytes | int]) -> list[Any]:
        """Send several commands in order on one connection to the primary."""
        return self.primary().commands(*batch)

    def flush(self) -> None:
        """Empty them."""
        self.primary().flush()

    def signal(self, number: signal.Signals) -> None:
        """Send the primary a signal, such as SIGSTOP."""
        self.primary().signal(number)

    # Who is what

    def live(self) -> list[Server]:
        """Return the servers, not sentinels, that run."""
        return [one for one in self.servers if one.process is not None]

    def named_by(self, sentinel: Server) -> Server:
        """Return the server that a sentinel names as the primary."""
        _, port = sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        return next(one for one in self.servers if int(port) in (one.port, one.tls_port))

    def primary(self) -> Server:
        """Return the server that most sentinels name as the primary; it may be dead."""
        named = [self.named_by(one).port for one in self.sentinels if one.process is not None]
        return next(one for one in self.servers if one.port == max(named, key=named.count))

    def replicas(self) -> list[Server]:
        """Return the other servers that run."""
        primary = self.primary().port
        return [one for one in self.live() if one.port != primary]

    # What happens to them

    def failover(self) -> Server:
        """Have the sentinels promote a replica of a healthy primary; return it once all agree.

        What the primary was sent before is not lost.
        """
        former = self.primary().port
        written = replication_offset(self.primary(), "master_repl_offset")
        wait_until(
            lambda: all(replication_offset(one, "slave_repl_offset") >= written for one in self.replicas())
        )
        # They refuse for a while after a failover, and while they know of no replica that will do.
        wait_until(lambda: self.sentinels[0].command("SENTINEL", "FAILOVER", NAME) == b"OK")
        wait_until(lambda: self.primary().port != former, timeout_seconds=SECONDS)
        self.wait_ok()
        return self.primary()

    def kill_primary(self) -> Server:
        """End the primary as a crash would, and return it; nothing of its data is kept. See `wait_ok`."""
        primary = self.primary()
        primary.kill()
        return primary

    def restart(self, server: Server) -> None:
        """Start a server or sentinel that was killed; a server is first a primary without data of its own."""
        server.start()
        if server in self.sentinels:
            _hurry(server)

    @contextlib.contextmanager
    def cut(self, *servers: Server) -> Iterator[None]:
        """Stop servers or sentinels for the block (SIGSTOP): connections stay, and nothing is answered."""
        for one in servers:
            one.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for one in servers:
                one.signal(signal.SIGCONT)

    def wait_ok(self) -> None:
        """Return once all sentinels that run know each other and agree on a primary that runs and is one.

        And all other servers that run follow it.
        """
        wait_until(self._is_ok, timeout_seconds=SECONDS)

    def _is_ok(self) -> bool:
        watching = [one for one in self.sentinels if one.process is not None]
        named = {self.named_by(one).port for one in watching}
        primary = self.primary()
        if len(named) > 1 or primary.process is None or primary.command("ROLE")[0] != b"master":
            return False
        roles = [one.command("ROLE") for one in self.replicas()]
        following = all(
            role[0] == b"slave"
            and int(role[2]) in (primary.port, primary.tls_port)
            and role[3] == b"connected"
            for role in roles
        )
        return following and all(self._knows_all(one, len(roles)) for one in watching)

    def _knows_all(self, sentinel: Server, replicas: int) -> bool:
        found = sentinel.command("SENTINEL", "MASTER", NAME)
        told = dict(zip(found[::2], found[1::2], strict=True))
        lines = sentinel.command("SENTINEL", "REPLICAS", NAME)
        seen = [dict(zip(line[::2], line[1::2], strict=True)) for line in lines]
        # While it saw a replica last as a primary, it makes it a replica, even one that is just promoted.
        settled = [
            one
            for one in seen
            if (one[b"flags"], one[b"role-reported"], one[b"master-link-status"])
            == (b"slave", b"slave", b"ok")
        ]
        return (
            told[b"flags"] == b"master"
            and told[b"role-reported"] == b"master"
            and int(told[b"num-other-sentinels"]) == len(self.sentinels) - 1
            and len(settled) == replicas
        )


@contextlib.contextmanager
def running_sentinels(
    *options: str,
    replicas: int = 2,
    sentinels: int = 3,
    kind: str = "redis",
    down_after_ms: int = 400,
    failover_timeout_ms: int = 2_000,
    password: str | None = None,
    sentinel_password: str | None = None,
    tls: bool = False,
) -> Iterator[Sentinels]:
    """Run a primary, replicas and sentinels for the block; most of the sentinels must agree to an election.

    Args:
        options: Further options of the servers, such as ``--user`` with an ACL.
        replicas: How many there are.
        sentinels: How many there are.
        kind: Of the servers and sentinels; see `binary_of`.
        down_after_ms: After which a server that does not answer is down for a sentinel.
        failover_timeout_ms: After which a failover has failed; another one may begin after twice that.
        password: Of the default user of the servers.
        sentinel_password: Of the default user of the sentinels.
        tls: Whether all speak TLS with each other and with clients, for which only Debian's Redis is built;
            a plain port remains for what does not.
    """
    with contextlib.ExitStack() as stack:
        home = Path(tempfile.mkdtemp(prefix="rs-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        authority = Authority(home) if tls else None

        def start(name: str, login: str | None, lines: Sequence[str], *more: str) -> Server:
            directory = home / name
            directory.mkdir()
            port, tls_port = free_port(), free_port() if tls else None
            own = [*more, *(() if login is None else ("--requirepass", login))]
            if authority is not None and tls_port is not None:
                certificate = authority.issue(name, "127.0.0.1", "localhost")
                own += tls_options(tls_port, authority, certificate, clients="no")
                own += ["--tls-replication", "yes"]
            file = directory / "sentinel.conf"
            if lines:
                file.write_text("\n".join(lines) + "\n", "ascii")
            server = Server(
                binary_of(kind),
                directory,
                port,
                tuple(own),
                configuration=file if lines else None,
                tls_port=tls_port,
                login=() if login is None else (login,),
            )
            server.start()
            stack.callback(server.stop)
            return server

        common = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", *options]
        if password is not None:
            common += ["--masterauth", password]
        servers = [start("0", password, (), *common)]
        where = f"127.0.0.1 {servers[0].tls_port or servers[0].port}"
        following = (*common, "--replicaof", *where.split())
        servers += [start(str(number), password, (), *following) for number in range(1, replicas + 1)]
        watched = [
            f"sentinel monitor {NAME} {where} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {NAME} {down_after_ms}",
            f"sentinel failover-timeout {NAME} {failover_timeout_ms}",
            f"sentinel parallel-syncs {NAME} {replicas}",
        ]
        if password is not None:
            watched.append(f"sentinel auth-pass {NAME} {password}")
        if sentinel_password is not None:
            watched.append(f"sentinel sentinel-pass {sentinel_password}")
        running = Sentinels(servers, [], authority, password, sentinel_password)
        for number in range(sentinels):
            sentinel = start(f"sentinel-{number}", sentinel_password, watched, "--sentinel")
            _hurry(sentinel)
            running.sentinels.append(sentinel)
        running.wait_ok()
        yield running


def _hurry(sentinel: Server) -> None:
    reply = sentinel.command("SENTINEL", "DEBUG", *HURRY.split())
    assert reply == b"OK", reply
