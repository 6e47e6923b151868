"""What has figures, over a real server, without a daemon around it; and prometheus_client's own parsers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from mcp.server.lowlevel import Server as McpServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from redstreamd.admission.accounts import Accounts
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.metrics.exposition import written
from redstreamd.metrics.page_figures import Sources, page_of
from redstreamd.service.collector import Collector
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.process_stats import process_stats
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis.ranking import Ranking
from redstreamd.streams.diagnosis.stream_survey import StreamSurvey
from redstreamd.streams.subscriptions.feeds import Feeds
from redstreamd.streams.subscriptions.updates import Updates

Figures = dict[str, float]
"""The value of each line, by its name and labels as they stand there."""


@asynccontextmanager
async def collecting(bus: Bus, *, max_streams: int = 50, max_groups: int = 100) -> AsyncIterator[Sources]:
    """Run what takes the figures of streams, for the block."""
    ranking = Ranking(bus.redis, bus.lister, count=max_streams)
    sources = Sources(
        version="test",
        process=process_stats,
        max_descriptors=lambda: 1024,
        lag=LoopLag(),
        collector=Collector(),
        dropped_records=lambda: 0,
        clients=Acceptor([], Kernels(McpServer("test"))).statistics,
        accounts=Accounts(),
        hub=bus.hub,
        updates=Updates(Feeds(bus)),
        calls=CallCounts(),
        redis=bus.redis,
        survey=StreamSurvey(bus.redis, ranking, bus.sampler, max_groups=max_groups),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(ranking.run)
        await nursery.start(bus.sampler.run)
        yield sources
        nursery.cancel_scope.cancel()


async def page_text(sources: Sources, *, is_openmetrics: bool = True) -> str:
    """Return a page as text."""
    return (await written(await page_of(sources), is_openmetrics=is_openmetrics)).decode()


def parsed(text: str) -> Figures:
    """Return the figures of a page; both parsers take it, OpenMetrics' strict one if it is meant for that."""
    families = parse_openmetrics(text) if text.endswith("# EOF\n") else parse_text(text)
    figures: Figures = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in figures, key
            figures[key] = sample.value
    return figures
