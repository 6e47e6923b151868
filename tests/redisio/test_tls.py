from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from redstreamd.redisio.connection import Connection
from redstreamd.redisio.redis_errors import ProblemKind
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls
from tests.redisio.running import failure_of, running_connection, running_node
from tests.redisio.test_login import peer_that_says
from tests.support.certificates import Authority, Certificate, tls_options
from tests.support.proxy import proxy_to
from tests.support.servers import Server, free_port, start_redis
from tests.support.waiting import until

HOUR = dt.timedelta(hours=1)


@attrs.frozen
class Site:
    """A server with TLS, and the certificates there are."""

    server: Server
    port: int
    authority: Authority
    client: Certificate
    directory: Path

    def target(self, *, trusting: bool = True, **tls: Any) -> Target:
        return Target(
            host="127.0.0.1",
            port=self.port,
            tls=Tls(**{"ca_file": self.authority.certificate if trusting else None} | tls),
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


def content(path: str) -> str:
    return Path(path).read_text()


StartSite = Callable[..., contextlib.AbstractContextManager[Site]]


@pytest.fixture(scope="module")
def start_site(directory: Path, authority: Authority) -> StartSite:
    """Start a server with TLS whose certificate is for `names` and valid as told."""

    @contextlib.contextmanager
    def start(
        *names: str, clients: str = "no", options: tuple[str, ...] = (), **validity: dt.timedelta
    ) -> Iterator[Site]:
        port = free_port()
        certificate = authority.issue(f"server-{port}", *(names or ("127.0.0.1", "localhost")), **validity)
        client = authority.issue(f"client-{port}")
        with start_redis(*tls_options(port, authority, certificate, clients=clients), *options) as server:
            yield Site(server, port, authority, client, directory)

    return start


@pytest.fixture(scope="module")
def site(start_site: StartSite) -> Iterator[Site]:
    with start_site() as site:
        yield site


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_commands_travel_over_tls(site: Site, version: str) -> None:
    connection = Connection(site.target(minimum_version=version), role="test")
    async with running_connection(connection):
        assert await connection.execute("ECHO", "x" * 300_000) == b"x" * 300_000
        assert await connection.execute("SET", "over", "tls") == b"OK"
    assert site.server.command("GET", "over") == b"tls"


async def test_what_passes_on_the_wire_is_encrypted(site: Site) -> None:
    seen = bytearray()
    async with proxy_to(site.port) as proxy:
        proxy.to_server.tap = proxy.to_client.tap = seen.extend
        connection = Connection(attrs.evolve(site.target(), port=proxy.port), role="test")
        async with running_connection(connection):
            await connection.execute("ECHO", "not to be read on the way")
    assert len(seen) > 200
    assert b"not to be read" not in seen
    assert b"HELLO" not in seen


@pytest.mark.parametrize(
    ("names", "validity", "trusting", "cause", "next_step"),
    [
        (("elsewhere.example",), {}, True, "for another name than '127.0.0.1'", "redis.server_name"),
        (("localhost",), {}, True, "for another name than '127.0.0.1'", "REDIS_HOST"),
        (("127.0.0.1",), {"until": -HOUR}, True, "has expired", "tls-cert-file"),
        (("127.0.0.1",), {"since": HOUR}, True, "not valid yet", "clocks"),
        (("127.0.0.1",), {}, False, "not signed by a CA that is trusted here", "redis.ca_file"),
    ],
)
async def test_a_server_that_cannot_be_verified_is_not_used(
    start_site: StartSite,
    names: tuple[str, ...],
    validity: dict[str, Any],
    trusting: bool,
    cause: str,
    next_step: str,
) -> None:
    with start_site(*names, **validity) as site:
        failure = await failure_of(site.target(trusting=trusting))
        # Nothing was said to it.
        assert b"cmdstat_hello" not in site.server.command("INFO", "commandstats")
    assert failure.kind is ProblemKind.SETTINGS
    assert cause in failure.cause
    assert next_step in failure.next_step


async def test_the_name_to_verify_can_differ_from_the_address(start_site: StartSite) -> None:
    with start_site("redis.example") as site:
        connection = Connection(site.target(server_name="redis.example"), role="test")
        async with running_connection(connection):
            assert await connection.execute("ECHO", "verified") == b"verified"


async def test_another_ca_than_the_one_that_signed_is_named(site: Site, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    failure = await failure_of(site.target(ca_file=other.certificate))
    assert f"trusted: {other.certificate}" in failure.cause


@pytest.fixture(scope="module")
def strict_site(start_site: StartSite) -> Iterator[Site]:
    """A server that wants a certificate of its clients."""
    with start_site(clients="yes") as site:
        yield site


async def test_a_client_certificate_is_shown_when_there_is_one(strict_site: Site) -> None:
    target = strict_site.target(
        certificate_file=strict_site.client.certificate, key_file=strict_site.client.key
    )
    connection = Connection(target, role="test")
    async with running_connection(connection):
        assert await connection.execute("ECHO", "known") == b"known"


async def test_a_certificate_and_its_key_may_share_a_file(strict_site: Site, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(content(strict_site.client.certificate) + content(strict_site.client.key))
    connection = Connection(strict_site.target(certificate_file=str(both)), role="test")
    async with running_connection(connection):
        assert await connection.execute("ECHO", "known") == b"known"


@pytest.mark.parametrize("protocols", ["TLSv1.2", "TLSv1.2 TLSv1.3"])
async def test_a_missing_client_certificate_is_named(start_site: StartSite, protocols: str) -> None:
    with start_site(clients="yes", options=("--tls-protocols", protocols)) as site:
        # In TLS 1.3 the refusal races our first command, so more than once.
        failures = [await failure_of(site.target()) for _ in range(10)]
    for failure in failures:
        assert "certificate" in failure.cause
        assert "redis.certificate_file" in failure.next_step
        assert "tls-auth-clients" in failure.next_step


async def test_a_client_certificate_of_another_ca_is_named(strict_site: Site, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").issue("client")
    target = strict_site.target(certificate_file=stranger.certificate, key_file=stranger.key)
    failures = [await failure_of(target) for _ in range(10)]
    for failure in failures:
        assert "our certificate" in failure.cause
        assert "redis.certificate_file" in failure.next_step


async def test_a_version_that_the_server_does_not_speak_is_named(start_site: StartSite) -> None:
    with start_site(options=("--tls-protocols", "TLSv1.2")) as site:
        failure = await failure_of(site.target(minimum_version="1.3"))
    assert failure.kind is ProblemKind.SETTINGS
    assert "does not speak TLS 1.3" in failure.cause
    assert "redis.tls_min_version" in failure.next_step


async def test_tls_to_a_plain_port_says_so(site: Site) -> None:
    plain = attrs.evolve(site.target(), port=site.server.port, connect_timeout=0.3)
    failure = await failure_of(plain)
    assert "did not answer the TLS handshake" in failure.cause
    assert "set redis.tls in /etc/redstreamd/redstreamd.toml to false, or use redis://" in failure.next_step


async def test_tls_to_something_that_answers_in_clear_says_so(authority: Authority) -> None:
    async with peer_that_says(b"-ERR what?\r\n") as target:
        failure = await failure_of(attrs.evolve(target, tls=Tls(ca_file=authority.certificate)))
    assert failure.kind is ProblemKind.SETTINGS
    assert "not in TLS" in failure.cause


async def test_a_plain_connection_to_a_tls_port_says_so(site: Site) -> None:
    failures = [await failure_of(Target(host="127.0.0.1", port=site.port)) for _ in range(5)]
    async with peer_that_says(b"", b"\x15\x03\x01\x00\x02\x02\x0a") as target:
        failures.append(await failure_of(target))
    for failure in failures:
        assert "rediss://" in failure.next_step


@pytest.mark.parametrize("field", ["ca_file", "certificate_file", "key_file"])
async def test_a_file_that_is_missing_or_no_pem_is_named(site: Site, tmp_path: Path, field: str) -> None:
    good = {"certificate_file": site.client.certificate, "key_file": site.client.key}
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing of use")
    missing = await failure_of(site.target(**good | {field: "/nonexistent/file.pem"}))
    unusable = await failure_of(site.target(**good | {field: str(broken)}))
    assert missing.kind is unusable.kind is ProblemKind.SETTINGS
    assert "/nonexistent/file.pem cannot be used: No such file" in missing.cause
    assert str(broken) in unusable.cause
    assert "PEM" in unusable.cause
    assert f"redis.{field}" in missing.next_step


async def test_a_key_of_another_certificate_or_with_a_passphrase_is_named(site: Site, tmp_path: Path) -> None:
    other = site.authority.issue("other")
    locked = site.authority.issue("locked", passphrase=b"abc")
    mixed = await failure_of(site.target(certificate_file=site.client.certificate, key_file=other.key))
    closed = await failure_of(site.target(certificate_file=locked.certificate, key_file=locked.key))
    assert f"not the key of the certificate in {site.client.certificate}" in mixed.cause
    assert "passphrase" in closed.cause


async def test_a_renewed_ca_is_used_by_the_next_connection_without_a_restart(
    site: Site, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(content(Authority(tmp_path, "old").certificate))
    target = site.target(ca_file=str(trusted))
    assert "not signed by a CA" in (await failure_of(target)).cause
    trusted.write_text(content(site.authority.certificate))
    connection = Connection(target, role="test")
    async with running_connection(connection):
        assert await connection.execute("ECHO", "renewed") == b"renewed"


async def test_a_connection_over_tls_that_is_cut_is_replaced(site: Site) -> None:
    async with proxy_to(site.port) as proxy:
        target = attrs.evolve(site.target(), port=proxy.port)
        async with running_node(target, connect_grace=5.0) as node:
            for reset in (True, False):
                before = proxy.accepted
                proxy.cut(reset=reset)
                await until(lambda before=before: proxy.accepted > before)
                assert await node.execute("ECHO", "again") == b"again"


async def test_cancelling_at_any_moment_of_the_handshake_leaves_no_socket_behind(site: Site) -> None:
    opened = 0
    cancelled = 0
    async with proxy_to(site.port) as proxy:
        proxy.to_client.delay = lambda: 0.002
        target = attrs.evolve(site.target(), port=proxy.port)
        for step in itertools.count():
            # Both ends of the range are to be reached, or the steps prove nothing.
            if step >= 40 and opened > 2:
                break
            with trio.move_on_after(step * 0.001) as scope:
                async with running_connection(Connection(target, role="test")):
                    opened += 1
            cancelled += scope.cancelled_caught
        await until(lambda: not proxy._links)
    assert cancelled > 10


async def test_a_large_reply_in_odd_slices_arrives_whole(site: Site) -> None:
    site.server.command("SET", "large", b"0123456789" * 200_000)
    async with proxy_to(site.port) as proxy:
        proxy.to_client.slice_bytes = lambda: 7_001
        connection = Connection(attrs.evolve(site.target(), port=proxy.port), role="test")
        async with running_connection(connection):
            assert await connection.execute("GET", "large") == b"0123456789" * 200_000


async def test_a_damaged_record_ends_the_connection(site: Site) -> None:
    async with proxy_to(site.port) as proxy:
        connection = Connection(attrs.evolve(site.target(), port=proxy.port), role="test")
        async with running_connection(connection) as ran:
            proxy.to_client.flip_after(20)
            with contextlib.suppress(Exception):
                await connection.execute("ECHO", "damaged")
            await ran.ended.wait()
        assert ran.failure is not None
        assert "TLS failed" in ran.failure.cause


def test_the_label_and_repr_of_a_target_with_tls_show_its_address() -> None:
    target = Target(host="h", tls=Tls(ca_file="/ca.pem"))
    assert target.label == "h:6379"
    assert "/ca.pem" in repr(target)
