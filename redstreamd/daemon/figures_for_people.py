"""The parts that show figures to people: for `redstreamd status`, redstream://health, and the journal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import msgspec

from redstreamd.daemon.parts import Parts
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.metrics.group_attention import Attention, attention
from redstreamd.metrics.group_watch import GroupWatch
from redstreamd.metrics.history import SAMPLE_SECONDS, History, calls_probe, gauges_probe
from redstreamd.metrics.journal_figures import DaemonFigures, JournalFigures
from redstreamd.metrics.recent_calls import RecentCalls
from redstreamd.redisio import Role
from redstreamd.service.child import Child
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.process_stats import descriptor_count, resident_bytes
from redstreamd.settings.metrics_settings import MetricsSettings
from redstreamd.startup.descriptors import descriptor_limit
from redstreamd.tools.catalog import REGISTRY


class Use(msgspec.Struct, frozen=True):
    """How much of a limit is used."""

    used: int
    limit: int


class LimitsInUse(msgspec.Struct, frozen=True):
    """How much of each limit of all clients together is used.

    Attributes:
        connections: Open connections; the limit is lower if there are too few descriptors.
        memory_bytes: What clients make the daemon hold.
        descriptors: File descriptors of the process.
        waits: Calls that wait.
        subscriptions: Subscriptions to resources.
    """

    connections: Use
    memory_bytes: Use
    descriptors: Use
    waits: Use
    subscriptions: Use


class FiguresForPeople(msgspec.Struct, frozen=True):
    """What has to run for them.

    Attributes:
        children: To be supervised, in this order.
        watch: Reports groups that need attention.
        journal: Reports figures from time to time.
    """

    children: Sequence[Child]
    watch: GroupWatch
    journal: JournalFigures

    def reconfigure(self, settings: MetricsSettings) -> None:
        """Take other settings, from now on."""
        self.watch.reconfigure(seconds=settings.check_seconds, many_pending=settings.warn_pending)
        self.journal.reconfigure(seconds=settings.journal_seconds)


def figures_for_people(parts: Parts, acceptor: Acceptor, lag: LoopLag) -> FiguresForPeople:
    """Build them, and add their sections to the report on the daemon."""
    settings = parts.bus.settings.metrics
    waiting = {tool.name for tool in REGISTRY if "timeout_seconds" in attrs.fields_dict(tool.arguments)}
    recent = partial(RecentCalls, parts.calls, waiting)
    # Streams are not sampled for those who see no rates.
    survey = partial(parts.survey.figures, rates=False)
    longest = lag.reader()
    history = History(
        [
            calls_probe(recent()),
            gauges_probe(
                {
                    "memory_bytes": resident_bytes,
                    "ping_seconds": partial(_ping_seconds, parts),
                    "loop_lag_seconds": longest.take,
                    "connections": lambda: acceptor.statistics().connections,
                }
            ),
        ],
        seconds=SAMPLE_SECONDS,
    )
    watch = GroupWatch(
        survey,
        parts.event_log,
        seconds=settings.check_seconds,
        many_pending=settings.warn_pending,
    )
    longest_of_record = lag.reader()

    def daemon_figures() -> DaemonFigures:
        clients = acceptor.statistics()
        return DaemonFigures(
            clients.connections, clients.accepted, resident_bytes(), longest_of_record.take()
        )

    journal = JournalFigures(
        recent(),
        daemon_figures,
        survey,
        parts.event_log,
        seconds=settings.journal_seconds,
    )

    async def needing_attention() -> Attention | None:
        figures = await survey()
        return (
            None
            if figures is None
            else attention(figures, many_pending=parts.bus.settings.metrics.warn_pending)
        )

    parts.daemon_health.include("limits", partial(_limits_in_use, parts, acceptor))
    parts.daemon_health.include("history", history.figures)
    parts.daemon_health.include_asked("attention", needing_attention)
    children = [
        Child("history", history.run),
        Child("group watch", watch.run),
        Child("figures for the journal", journal.run),
    ]
    return FiguresForPeople(children, watch, journal)


def _ping_seconds(parts: Parts) -> float | None:
    """Return how long the last PING over the connection for commands took; None while there is none."""
    statistics = parts.bus.redis.status().statistics(Role.COMMAND)
    return None if statistics is None else statistics.round_trip_seconds


def _limits_in_use(parts: Parts, acceptor: Acceptor) -> LimitsInUse:
    # As they are in force: a reload changes them.
    clients, limits = acceptor.statistics(), parts.bus.settings.limits
    return LimitsInUse(
        connections=Use(clients.connections, clients.limit),
        memory_bytes=Use(clients.held_bytes, clients.max_held_bytes),
        descriptors=Use(descriptor_count(), descriptor_limit()),
        waits=Use(parts.bus.hub.waits.total, limits.max_waits),
        subscriptions=Use(parts.updates.limit.total, limits.max_subscriptions or limits.max_waits),
    )
