"""The daemon that the stories play on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.encryption.opened import sealed_with
from tests.encryption.rings import KeyDirectory
from tests.support.counts import LONG
from tests.support.daemon import Daemon, running_daemon
from tests.support.http_daemon import HttpDaemon, running_http_daemon
from tests.support.servers import Server


@pytest.fixture(params=["clear", "encrypted"])
def daemon(request: pytest.FixtureRequest, redis: Server, tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on an empty Redis, for operators, that gives up on work and on consumers soon.

    Each story is also told where all is encrypted: nobody in it notices. Some are told over HTTP.
    """
    options: tuple[str, ...] = ()
    if request.param == "encrypted":
        settings = tmp_path / "redstreamd.toml"
        settings.write_text(KeyDirectory(tmp_path / "keys", "k1").section("k1", "* are encrypted with names"))
        options = ("--config", str(settings))
    run = running_http_daemon if request.param == "http" else running_daemon
    with run(
        redis,
        *options,
        REDSTREAMD_TOOLS_PROFILE="operator",
        REDSTREAMD_LEASES_MAX_DELIVERIES="3",
        REDSTREAMD_LEASES_FOREIGN_IDLE_SECONDS="1",
    ) as running:
        yield running.daemon if isinstance(running, HttpDaemon) else running
    streams = [key for key in redis.command("KEYS", "*") if redis.command("TYPE", key) == b"stream"]
    entries = [flat for key in streams for _, flat in redis.command("XRANGE", key, "-", "+")]
    assert entries
    assert {sealed_with(flat) for flat in entries} == {"k1" if request.param == "encrypted" else None}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what is told in the older era, and encrypted, to the soak: neither knows of the other."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if (parameters.get("daemon"), parameters.get("era")) == ("encrypted", "handshake"):
            for mark in LONG:
                item.add_marker(mark)
