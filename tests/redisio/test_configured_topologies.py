"""From a URL and a CA to streams behind sentinels and on a cluster: real servers with TLS and passwords."""

from __future__ import annotations

import pytest
import trio

from redstreamd.redisio.client import Redis
from redstreamd.redisio.configured_target import deployment_for
from redstreamd.redisio.topologies import topology_for
from redstreamd.settings import load
from tests.support.redis_cluster import running_cluster
from tests.support.sentinels import NAME, running_sentinels


async def _adds(keys: list[str], *assignments: str) -> list[int]:
    """Add an entry to each stream, over what the settings mean, and return their lengths."""
    loaded = load(environ={"HOME": "/h"}, assignments=assignments)
    topology = topology_for(deployment_for(loaded.settings.redis, environ={}))
    redis, lengths = Redis(topology), []
    async with trio.open_nursery() as nursery:
        await nursery.start(topology.run)
        for key in keys:
            await redis.execute("XADD", key, "*", "f", "v", key=key)
            lengths.append(await redis.execute("XLEN", key, key=key))
        nursery.cancel_scope.cancel()
    return lengths


@pytest.mark.limit(60)
async def test_a_cluster_with_tls_and_a_password_is_reached_by_one_url() -> None:
    with running_cluster(replicas=0, node_timeout_ms=60_000, password="p@ss", tls=True) as cluster:
        assert cluster.authority is not None
        node = cluster.nodes[0]
        url = f"redis.url=rediss+cluster://:p%40ss@127.0.0.1:{node.tls_port}"
        keys = cluster.keys_on_each()
        assert await _adds(keys, url, f"redis.ca_file={cluster.authority.certificate}") == [1] * len(keys)


@pytest.mark.limit(60)
async def test_sentinels_and_servers_with_tls_and_passwords_are_reached_by_one_url() -> None:
    with running_sentinels(
        replicas=1,
        sentinels=1,
        down_after_ms=60_000,
        password="servers",
        sentinel_password="sentinels",
        tls=True,
    ) as sentinels:
        assert sentinels.authority is not None
        (sentinel,) = sentinels.sentinels
        url = f"rediss+sentinel://:servers@127.0.0.1:{sentinel.tls_port}/{NAME}/0"
        assert await _adds(
            ["s"],
            f"redis.url={url}?sentinel_password=sentinels",
            f"redis.ca_file={sentinels.authority.certificate}",
        ) == [1]
