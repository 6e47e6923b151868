"""Every server that is supported: what an earlier release wrote is read and finished on each."""

from __future__ import annotations

import pytest

from tests.support.servers import Server


@pytest.fixture(params=["redis", "valkey", "redis62", "redis8"])
def server(request: pytest.FixtureRequest) -> Server:
    """An empty real server: Redis 7.0, Valkey, Redis 6.2 and Redis 8.10."""
    chosen: Server = request.getfixturevalue(f"{request.param}_server")
    chosen.flush()
    return chosen
