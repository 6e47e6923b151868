"""Imports the test modules of a parallel run, so that each is compiled by one of its processes only.

Each process of pytest-xdist collects all tests. They begin at the same time, and to compile the assertions
of all modules takes longer than the rest of the collection. Here each process imports its own share first;
what it compiled is in the cache when the others come to it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def shares_in_turn(paths: Sequence[Path], process: int, processes: int) -> list[Path]:
    """Return all paths: first the share of `process`, then those of the processes after it, in a circle."""
    order = [(process + after) % processes for after in range(processes)]
    return [path for share in order for path in paths[share::processes]]


def import_shares(config: pytest.Config) -> None:
    """Import what a process of a parallel run is going to collect; does nothing in a run of one process."""
    own: dict[str, object] | None = getattr(config, "workerinput", None)
    if own is None:
        return
    places = [(config.invocation_params.dir / word.split("::")[0]).resolve() for word in config.args]
    paths = sorted({path for place in places for path in place.rglob("test_*.py")})
    wanted = [
        path for path in paths if not config.hook.pytest_ignore_collect(collection_path=path, config=config)
    ]
    process = int(str(own["workerid"]).removeprefix("gw"))
    for path in shares_in_turn(wanted, process, int(str(own["workercount"]))):
        name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        # What fails here fails once more when it is collected, where pytest reports it.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(name)
