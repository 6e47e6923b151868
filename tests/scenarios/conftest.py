"""The daemon that the stories play on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.servers import Server


@pytest.fixture
def daemon(redis: Server) -> Iterator[Daemon]:
    """A daemon on an empty Redis, for operators, that gives up on work and on consumers soon."""
    with running_daemon(
        redis,
        REDSTREAMD_TOOLS_PROFILE="operator",
        REDSTREAMD_LEASES_MAX_DELIVERIES="3",
        REDSTREAMD_LEASES_FOREIGN_IDLE_SECONDS="1",
    ) as running:
        yield running
