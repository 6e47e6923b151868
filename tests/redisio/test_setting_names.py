"""The servers that the settings of a topology mean, and which settings the texts about each of them name."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator

import attrs
import pytest

from redstreamd.redisio.configured_target import deployment_for
from redstreamd.redisio.connect_errors import not_connected, tls_problem
from redstreamd.redisio.connection import Connection
from redstreamd.redisio.credentials import CredentialsError, PasswordFile
from redstreamd.redisio.error_replies import reply_error
from redstreamd.redisio.login import refused
from redstreamd.redisio.redis_errors import ProblemKind
from redstreamd.redisio.target import Deployment, Target, TopologyKind
from redstreamd.redisio.tls import Tls
from redstreamd.settings import load
from tests.redisio.running import failure_of, over_tcp, running_connection
from tests.support.sentinels import Sentinels, running_sentinels

ENVIRON = {"CREDENTIALS_DIRECTORY": "/run/credentials/r"}


def deployment(*assignments: str) -> Deployment:
    return deployment_for(load(environ={}, assignments=assignments).settings.redis, environ=ENVIRON)


def test_sentinels_and_servers_have_logins_and_tls_of_their_own() -> None:
    found = deployment(
        "redis.url=rediss+sentinel://u:p@s1,[::1]:26380/bus/2?sentinel_username=watcher",
        "redis.ca_file=/ca.pem",
        "redis.certificate_file=/own.pem",
        "redis.sentinel_password_file=watch",
        "redis.sentinel_server_name=sentinels.example",
        "redis.node_addresses=10.0.0.1:6379=localhost:7001",
        "redis.connect_timeout_seconds=2",
    )
    assert (found.kind, found.primary_name) == (TopologyKind.SENTINEL, "bus")
    assert found.nodes == (("s1", 26379), ("::1", 26380))
    server = found.target_at("10.0.0.1", 6379)
    assert (server.label, server.username, server.password, server.database) == (
        "localhost:7001",
        "u",
        "p",
        2,
    )
    assert server.tls == Tls("/ca.pem", "/own.pem")
    sentinel = found.sentinel_at("s1", 26379)
    assert (sentinel.name, sentinel.username, sentinel.password) == (
        "The sentinel at s1:26379",
        "watcher",
        None,
    )
    assert (sentinel.database, sentinel.connect_timeout) == (0, 2)
    assert sentinel.tls == Tls("/ca.pem", "/own.pem", server_name="sentinels.example")
    assert isinstance(sentinel.credentials, PasswordFile)
    assert sentinel.credentials.path == "/run/credentials/r/watch"
    with pytest.raises(CredentialsError) as absent:
        sentinel.credentials.get_credentials()
    assert "redis.sentinel_password_file" in absent.value.next_step


def test_tls_of_sentinels_is_as_that_of_the_servers_unless_it_is_set() -> None:
    url = "redis.url=rediss+sentinel://s1"
    assert deployment(url).sentinel.tls == Tls()
    assert deployment(url, "redis.sentinel_tls=false").sentinel.tls is None
    plain = deployment(
        "redis.url=redis+sentinel://s1", "redis.sentinel_tls=true", "redis.sentinel_ca_file=/s"
    )
    assert (plain.target.tls, plain.sentinel.tls) == (None, Tls("/s"))


def test_a_cluster_has_one_login_for_all_nodes() -> None:
    found = deployment("redis.url=rediss+cluster://u:p@c1:7000,c2")
    assert (found.kind, found.nodes) == (TopologyKind.CLUSTER, (("c1", 7000), ("c2", 6379)))
    node = found.target_at("c9", 7009)
    assert (node.label, node.username, node.password, node.tls) == ("c9:7009", "u", "p", Tls())
    assert deployment("redis.host=h") == Deployment(Target("h"))


KINDS = {
    "standalone": (deployment("redis.host=h").target, "redis.host and redis.port", "redis."),
    "sentinel": (
        deployment("redis.url=redis+sentinel://s").sentinel_at("s", 1),
        "redis.nodes",
        "redis.sentinel_",
    ),
    "watched": (
        deployment("redis.url=redis+sentinel://s").target_at("h", 1),
        "redis.node_addresses",
        "redis.",
    ),
    "cluster": (deployment("redis.url=redis+cluster://c").target_at("h", 1), "redis.nodes", "redis."),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_changed_is_a_setting_that_applies(kind: str) -> None:
    target, address, prefix = KINDS[kind]
    for error in (
        OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    ):
        step = not_connected(target, error).next_step
        assert address in step
        assert ("redis.host" in step) is (kind == "standalone")
    reply = reply_error("WRONGPASS invalid username-password pair or user is disabled.")
    step = refused(target, "AUTH", reply, username="u").next_step
    assert f"{prefix}username" in step
    assert ("REDIS_SENTINEL_PASSWORD" in step) is (kind == "sentinel")
    step = refused(target, "HELLO", reply_error("NOAUTH Authentication required."), username=None).next_step
    assert f"{prefix}username" in step
    assert ("REDIS_SENTINEL_PASSWORD" in step) is (kind == "sentinel")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_changed_about_tls_is_a_setting_that_applies(kind: str) -> None:
    target, address, prefix = KINDS[kind]
    encrypted = attrs.evolve(target, tls=Tls())
    unverified = ssl.SSLCertVerificationError("certificate verify failed")
    unverified.verify_code, unverified.verify_message = 18, "self-signed certificate"
    problem = tls_problem(encrypted, unverified)
    assert problem is not None
    assert f"{prefix}ca_file" in problem.next_step
    unverified.verify_code = 62
    problem = tls_problem(encrypted, unverified)
    assert problem is not None
    assert f"{prefix}server_name" in problem.next_step
    assert address in problem.next_step


@pytest.fixture(scope="module", params=["redis", "valkey"])
def guarded(request: pytest.FixtureRequest) -> Iterator[Sentinels]:
    """Servers and a sentinel, each kind with a password of its own."""
    with running_sentinels(
        replicas=1,
        sentinels=1,
        kind=request.param,
        down_after_ms=60_000,
        password="of-servers",
        sentinel_password="of-sentinels",
    ) as sentinels:
        yield sentinels


async def test_a_sentinel_in_the_place_of_a_server_and_the_other_way_round_is_recognised(
    guarded: Sentinels,
) -> None:
    (sentinel,) = guarded.sentinels
    problem = await failure_of(over_tcp(sentinel, password="of-sentinels"))
    assert (problem.kind, problem.cause) == (
        ProblemKind.SETTINGS,
        "this is a sentinel, which keeps no streams",
    )
    assert "redis.topology and redis.nodes" in problem.next_step
    given = guarded.deployment()
    server = given.sentinel_at("127.0.0.1", guarded.primary().port)
    problem = await failure_of(attrs.evolve(server, password="of-servers"))
    assert (problem.kind, problem.cause) == (ProblemKind.SETTINGS, "this is no sentinel")
    assert "redis.nodes" in problem.next_step
    for target in (
        given.sentinel_at("127.0.0.1", sentinel.port),
        given.target_at("127.0.0.1", guarded.primary().port),
    ):
        async with running_connection(Connection(target, role="test")) as ran:
            assert ran.failure is None


async def test_a_login_that_a_sentinel_refuses_names_the_settings_of_sentinels(guarded: Sentinels) -> None:
    (sentinel,) = guarded.sentinels
    there = guarded.deployment().sentinel_at("127.0.0.1", sentinel.port)
    problem = await failure_of(attrs.evolve(there, password=None))
    assert "REDIS_SENTINEL_PASSWORD" in problem.next_step
    problem = await failure_of(attrs.evolve(there, password="of-servers"))
    assert "REDIS_SENTINEL_PASSWORD" in problem.next_step
    assert "redis.sentinel_username" in problem.next_step
    assert "redis.username" not in problem.next_step
