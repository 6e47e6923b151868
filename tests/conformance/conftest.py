"""One daemon for all that the specification asks; no test here changes what another one sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.daemon import HASTY, Daemon, running_daemon
from tests.support.mcp_client import RawClient, raw_client
from tests.support.node import conformance_suite
from tests.support.servers import Server

__all__ = ["conformance_suite"]  # a fixture, found here by whoever names it


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    """A daemon as it is installed, on a Redis with one stream."""
    redis_server.flush()
    redis_server.command("XADD", "shop:orders:paid", "*", "order", "1")
    with running_daemon(redis_server) as running:
        yield running


@pytest.fixture
def hasty(redis_server: Server) -> Iterator[Daemon]:
    """A daemon on the same Redis that reports progress soon."""
    with running_daemon(redis_server, program=HASTY) as running:
        yield running


@pytest.fixture
async def handshake(daemon: Daemon) -> AsyncIterator[RawClient]:
    """A connection that has begun with `initialize`."""
    async with raw_client(daemon.path, initialize=True) as raw:
        yield raw


@pytest.fixture
async def modern(daemon: Daemon) -> AsyncIterator[RawClient]:
    """A connection of which every request carries the envelope of revision 2026-07-28."""
    async with raw_client(daemon.path, era="modern") as raw:
        yield raw


@pytest.fixture(params=["handshake", "modern"])
async def client(request: pytest.FixtureRequest, daemon: Daemon) -> AsyncIterator[RawClient]:
    """Either of them."""
    async with raw_client(daemon.path, era=request.param, initialize=request.param == "handshake") as raw:
        yield raw
