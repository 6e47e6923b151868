"""Which topology a deployment has.

Each kind is imported when it is needed, since most daemons have one server: by `load`, on a thread.
"""

from __future__ import annotations

from typing import Any

from redstreamd.redisio.target import Deployment, TopologyKind
from redstreamd.redisio.topology import Topology


def topology_for(deployment: Deployment, **options: Any) -> Topology:
    """Return the topology of `deployment`; the options are those of `Topology`."""
    return load(deployment.kind)(deployment, **options)


def load(kind: TopologyKind) -> type[Topology]:
    """Return the class of a kind, imported at the first call."""
    match kind:
        case TopologyKind.STANDALONE:
            from redstreamd.redisio.standalone import Standalone

            return Standalone
        case TopologyKind.SENTINEL:
            from redstreamd.redisio.sentinel import Sentinel

            return Sentinel
        case TopologyKind.CLUSTER:
            from redstreamd.redisio.cluster import Cluster

            return Cluster
