"""What the suites of the single server run on besides it: primaries with sentinels, and clusters.

Both are used as a `Server` is. A kind is named by its topology and, unless that is Redis 7.0, its servers:
"cluster", "sentinel-valkey".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from redstreamd.redisio.target import Deployment, Target
from tests.support.counts import LONG
from tests.support.redis_cluster import Cluster, running_cluster
from tests.support.sentinels import Sentinels, running_sentinels
from tests.support.servers import Server

Deployed = Server | Sentinels | Cluster

#: On Redis 7.0.
KINDS = ("sentinel", "cluster")
#: On others, which only `make soak` runs.
OTHERS = tuple(f"{kind}-{program}" for kind in KINDS for program in ("valkey", "redis8"))
#: A server that does not answer for so long is missed; no test of these suites lets one be.
_PATIENCE_MS = 60_000


def deployment_of(deployed: Deployed) -> Deployment:
    """Return where it is and how to log in."""
    return Deployment(Target(path=deployed.path)) if isinstance(deployed, Server) else deployed.deployment()


@contextlib.contextmanager
def running_deployment(kind: str) -> Iterator[Deployed]:
    """Run one of a kind for the block, on which nothing happens by itself."""
    topology, _, program = kind.partition("-")
    if topology == "cluster":
        with running_cluster(kind=program or "redis", node_timeout_ms=_PATIENCE_MS) as cluster:
            yield cluster
    else:
        with running_sentinels(kind=program or "redis", replicas=1, down_after_ms=_PATIENCE_MS) as sentinels:
            yield sentinels


def on_topologies(quick: int, *, ci: int, full: int) -> list[Any]:
    """Return values of the parameters "server" and "examples": what `counts` returns, on each kind."""
    return [
        *(pytest.param(kind, quick) for kind in KINDS),
        *(pytest.param(kind, ci, marks=pytest.mark.soak_ci) for kind in KINDS),
        *(pytest.param(kind, full, marks=pytest.mark.soak) for kind in (*KINDS, *OTHERS)),
    ]


def scenario_marks(kind: str, daemon: str | None, era: str | None) -> list[Any] | None:
    """Return the marks of a story told on a kind; None if it is not told there.

    `make test` has the plainest form of each on a cluster; what stands before it does not know of it.
    """
    differences = (daemon not in (None, "clear")) + (era not in (None, "modern"))
    if differences == 0:
        return {"cluster": [], "sentinel": LONG}.get(kind, [pytest.mark.soak])
    if kind not in KINDS:
        return None
    return [pytest.mark.soak] if differences > 1 or daemon == "http" else LONG
