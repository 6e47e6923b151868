"""The newest Redis, beside the servers that all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import Server, start_redis8


@pytest.fixture(scope="session")
def redis8_server() -> Iterator[Server]:
    """Redis 8.10, shared by the whole run."""
    with start_redis8() as server:
        yield server
