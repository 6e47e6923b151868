"""What holds on one server holds on a primary with sentinels and on a cluster, and nobody notices.

The modules here collect the scenarios once more and run the models; the fixtures `server` and `redis` are one
of these topologies, and nothing else is different.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scenarios.conftest import daemon as daemon
from tests.support.topologies import KINDS, OTHERS, Deployed, running_deployment, scenario_marks


@pytest.fixture(scope="session")
def deployed() -> Iterator[Callable[[str], Deployed]]:
    """Return a function that returns one of a kind, empty; started once in the whole run."""
    running: dict[str, Deployed] = {}
    with contextlib.ExitStack() as stack:

        def emptied(kind: str) -> Deployed:
            if kind not in running:
                running[kind] = stack.enter_context(running_deployment(kind))
            running[kind].flush()
            return running[kind]

        yield emptied


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, deployed: Callable[[str], Deployed]) -> Deployed:
    """For models, which say on which kind they run."""
    return deployed(request.param)


@pytest.fixture(params=[*KINDS, *OTHERS])
def redis(request: pytest.FixtureRequest, deployed: Callable[[str], Deployed]) -> Deployed:
    """For scenarios."""
    return deployed(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say which stories are told where, and when."""
    left_out = set()
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent != Path(__file__).parent or "redis" not in parameters:
            continue
        marks = scenario_marks(parameters["redis"], parameters.get("daemon"), parameters.get("era"))
        for mark in marks or ():
            item.add_marker(mark)
        if marks is None:
            left_out.add(item)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
