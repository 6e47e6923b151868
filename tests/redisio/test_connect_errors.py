"""What is said of an attempt to connect names what to change for the error that it met."""

from __future__ import annotations

import errno
import os

import pytest

from redstreamd.redisio.connect_errors import not_connected
from redstreamd.redisio.target import Target
from redstreamd.redisio.tls import Tls


def refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("target", "number", "words"),
    [
        (Target(path="/run/r.sock"), errno.ENOENT, "listen on /run/r.sock (`unixsocket` in redis.conf)"),
        (Target(path="/run/r.sock"), errno.EACCES, "`unixsocketperm`"),
        (Target(path="/run/r.sock"), errno.ECONNREFUSED, "Start Redis"),
        (Target(host="h"), errno.ECONNREFUSED, "Start Redis, or correct its address"),
        # How the kernel answers for IPAddressDeny= of the service, and for a firewall on this host.
        (Target(host="h"), errno.EPERM, "remote-redis.conf"),
    ],
)
def test_each_error_has_its_next_step(target: Target, number: int, words: str) -> None:
    failure = not_connected(target, refusal(number))
    assert failure.cause == os.strerror(number)
    assert words in failure.next_step


def test_a_name_that_can_be_none_is_told_from_the_one_in_certificates() -> None:
    error = UnicodeError("label empty or too long")
    named = not_connected(Target(host="a..b", tls=Tls(server_name="redis.internal")), error)
    assert named.cause == "'a..b' can be no name of a host"
    assert "redis.host" in named.next_step
    borne = not_connected(Target(host="redis.internal", tls=Tls(server_name="c..d")), error)
    assert borne.cause == "'c..d' can be no name of a host"
    assert "redis.server_name" in borne.next_step
