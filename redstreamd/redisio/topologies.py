"""Which topology a deployment has.

Each kind is imported when it is needed: most daemons have one server.
"""

from __future__ import annotations

from typing import Any

from redstreamd.redisio.target import Deployment, TopologyKind
from redstreamd.redisio.topology import Topology


def topology_for(deployment: Deployment, **options: Any) -> Topology:
    """Return the topology of `deployment`; the options are those of `Topology`."""
    return _kind(deployment.kind)(deployment, **options)


def _kind(kind: TopologyKind) -> type[Topology]:
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
