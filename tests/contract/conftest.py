"""The oldest and the newest server that are supported, for the tests of what must hold on all of them.

Every other test runs on Redis 7.0, most on Valkey as well. The modules here collect the tests of
the domain once more; only the fixture `server` is another one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import Server


@pytest.fixture(params=["redis62", "redis8"])
def server(request: pytest.FixtureRequest) -> Server:
    """An empty real server; the test runs once on Redis 6.2 and once on Redis 8.10."""
    chosen: Server = request.getfixturevalue(f"{request.param}_server")
    chosen.flush()
    return chosen


#: Tests that ask 6.2 for what it does not have; test_redis62 shows what happens there instead.
NOT_ON_62 = {
    "test_a_stream_is_described",  # XINFO STREAM counts no additions
    "test_groups_and_consumers_are_described",  # XINFO GROUPS knows no lag
    "test_where_tracking_is_refused_the_hub_polls_and_says_so",  # ACLs forbid no single subcommand
}


#: Without one of these a test asks neither server, and shows what it shows where it comes from.
SERVERS = {"server", "redis62_server", "redis8_server"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of `NOT_ON_62` there, and those that would only run once more."""
    here = Path(__file__).parent
    left_out = {
        item
        for item in items
        if isinstance(item, pytest.Function) and item.path.parent == here
        if (item.name.endswith("[redis62]") and item.name.removesuffix("[redis62]") in NOT_ON_62)
        or SERVERS.isdisjoint(item.fixturenames)
    }
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
