"""Which topology a deployment has."""

from __future__ import annotations

from typing import Any, Final

from redstreamd.redisio.cluster import Cluster
from redstreamd.redisio.standalone import Standalone
from redstreamd.redisio.target import Deployment, TopologyKind
from redstreamd.redisio.topology import Topology

_KINDS: Final[dict[TopologyKind, type[Topology]]] = {
    TopologyKind.STANDALONE: Standalone,
    TopologyKind.CLUSTER: Cluster,
}


def topology_for(deployment: Deployment, **options: Any) -> Topology:
    """Return the topology of `deployment`; the options are those of `Topology`."""
    return _KINDS[deployment.kind](deployment, **options)
