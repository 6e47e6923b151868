"""The figures of a page: what each part of the daemon says, under the names of the definitions.

Owns which figure of which part is which metric, and how many labels there may be. How a page is written is
known elsewhere.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Accounts, Held
from redstreamd.histogram import Histogram
from redstreamd.mcpio.acceptor import AcceptorStatistics
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.metrics.page_size import MAX_PAGE_BYTES, heads_bytes, rows_bytes
from redstreamd.redisio.client import Redis
from redstreamd.redisio.server_health import State
from redstreamd.redisio.target import TopologyKind
from redstreamd.service.collector import Collector
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.process_stats import ProcessStats
from redstreamd.streams.diagnosis.stream_survey import StreamSurvey
from redstreamd.streams.diagnosis.survey_figures import GroupFigures, StreamFigures, SurveyFigures
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.streams.tail_hub import TailHub

Labels = tuple[str, ...]
Row = tuple[Labels, float | Histogram]
"""The values of a metric's labels, in their order, and its value."""

#: Principals with a line of their own; with peer_uids there may be one for each user.
_MAX_PRINCIPALS: Final = 20
#: Nodes of a cluster with a line of their own.
_MAX_NODES: Final = 50
#: The principal of all others.
_OTHERS: Final = "_other"
#: For the lines about the survey.
_SURVEY_BYTES: Final = 1024
#: Streams or groups that are added in one turn: half a millisecond.
_AT_ONCE: Final = 16


class HttpFigures(msgspec.Struct, frozen=True):
    """Figures of the HTTP listeners.

    Attributes:
        connections: Open connections.
        sessions: Sessions of revisions that have them.
        event_streams: Responses of events that are open.
        responses: Responses begun so far, by the class of their status, such as ``2xx``.
    """

    connections: int
    sessions: int
    event_streams: int
    responses: Mapping[str, int]


class Sources(msgspec.Struct, frozen=True):
    """The parts that have figures.

    Attributes:
        version: Of redstreamd.
        process: Returns the process's figures.
        max_descriptors: Returns how many descriptors it may have.
        lag: Measures the event loop.
        collector: Python's collector of cycles.
        dropped_records: Returns how many log records were dropped.
        clients: Returns the figures of the connections.
        accounts: Who has them.
        hub: Knows who waits.
        updates: Knows who is subscribed.
        calls: Counts the calls.
        redis: The connections to Redis.
        survey: Takes the figures of streams.
        http: Returns the figures of HTTP; None if there is no listener for it.
        instance: The name of this process where several share sockets, else empty.
    """

    version: str
    process: Callable[[], ProcessStats]
    max_descriptors: Callable[[], int]
    lag: LoopLag
    collector: Collector
    dropped_records: Callable[[], int]
    clients: Callable[[], AcceptorStatistics]
    accounts: Accounts
    hub: TailHub
    updates: Updates
    calls: CallCounts
    redis: Redis
    survey: StreamSurvey
    http: Callable[[], HttpFigures] | None = None
    instance: str = ""


class Page:
    """The rows of one page.

    Attributes:
        rows: By the name of the metric.
        bytes: How large its text is at most.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.rows: dict[str, list[Row]] = {}
        self.bytes = heads_bytes()

    def add(self, values: Mapping[str, float | Histogram | None], *labels: str) -> None:
        """Add a row to each of several metrics, given without their common prefix, all with the same labels.

        What is not known is left out.
        """
        rows = _known(values)
        self._add(rows, labels, rows_bytes(rows, labels))

    def add_within(self, most: int, values: Mapping[str, float | None], *labels: str) -> bool:
        """Add rows as `add` does, if the page is no larger than `most` then; return whether it was done."""
        rows = _known(values)
        size = rows_bytes(rows, labels)
        fits = self.bytes + size <= most
        if fits:
            self._add(rows, labels, size)
        return fits

    def _add(self, rows: Mapping[str, float | Histogram], labels: Labels, size: int) -> None:
        for name, value in rows.items():
            self.rows.setdefault(name, []).append((labels, value))
        self.bytes += size


def _known(values: Mapping[str, float | Histogram | None]) -> dict[str, float | Histogram]:
    return {f"redstreamd_{name}": value for name, value in values.items() if value is not None}


async def page_of(sources: Sources) -> Page:
    """Return the figures as of now; those of streams are a second old at most.

    Takes a few milliseconds of the loop, in turns, and as long as Redis needs, five seconds at most.
    """
    figures = await sources.survey.figures()
    page = Page()
    _add_process(page, sources)
    _add_clients(page, sources)
    if sources.http is not None:
        _add_http(page, sources.http())
    for (tool, outcome), calls in sources.calls.pairs.items():
        page.add({"tool_call_duration_seconds": calls}, tool, outcome)
    for tool, size in _summed((tool, calls.answer_bytes) for (tool, _), calls in sources.calls.pairs.items()):
        page.add({"tool_answer_bytes_total": size}, tool)
    _add_redis(page, sources.redis)
    page.add({"survey_failures_total": sources.survey.failures})
    await trio.lowlevel.checkpoint()
    if figures is not None:
        await _add_survey(page, figures)
    return page


def _add_process(page: Page, sources: Sources) -> None:
    process, collector = sources.process(), sources.collector.statistics()
    page.add({"build_info": 1}, sources.version, sources.instance)
    page.add(
        {
            "start_time_seconds": round(time.time() - process.uptime_seconds, 1),
            "resident_memory_bytes": process.memory_bytes,
            "cpu_seconds_total": process.cpu_seconds,
            "open_descriptors": process.descriptors,
            "max_descriptors": sources.max_descriptors(),
            "loop_lag_seconds": sources.lag.recent_seconds,
            "loop_lag_worst_seconds": sources.lag.worst_seconds,
            "gc_collections_total": collector.collections,
            "gc_pause_seconds_total": collector.seconds,
            "gc_longest_pause_seconds": collector.recent_longest_seconds,
            "log_records_dropped_total": sources.dropped_records(),
        }
    )


def _add_clients(page: Page, sources: Sources) -> None:
    held = {name: account.held[Held.CONNECTIONS] for name, account in sources.accounts.all.members.items()}
    largest = heapq.nlargest(_MAX_PRINCIPALS, held.items(), key=lambda each: each[1])
    for principal, connections in largest:
        page.add({"connections": connections}, principal)
    if others := sum(held.values()) - sum(connections for _, connections in largest):
        page.add({"connections": others}, _OTHERS)
    clients, hub, updates = sources.clients(), sources.hub.statistics(), sources.updates.statistics()
    page.add(
        {
            "connections_limit": clients.limit,
            "connections_accepted_total": clients.accepted,
            "connections_rejected_total": clients.refused,
            "connections_crashed_total": clients.crashed,
            "requests_in_flight": clients.requests_in_flight,
            "client_memory_bytes": clients.held_bytes,
            "client_memory_limit_bytes": clients.max_held_bytes,
            "waits": hub.watches,
            "watched_keys": hub.keys,
            "subscriptions": updates.subscriptions,
            "subscribed_resources": updates.topics,
        }
    )


def _add_http(page: Page, figures: HttpFigures) -> None:
    page.add(
        {
            "http_connections": figures.connections,
            "http_sessions": figures.sessions,
            "http_event_streams": figures.event_streams,
        }
    )
    for status, count in figures.responses.items():
        page.add({"http_responses_total": count}, status)


def _add_redis(page: Page, redis: Redis) -> None:
    status = redis.status()
    page.add({"redis_usable": status.state is State.USABLE, "redis_nodes": len(status.nodes)})
    if status.kind is not TopologyKind.STANDALONE:
        for node in sorted(status.nodes, key=lambda node: node.state is State.USABLE)[:_MAX_NODES]:
            page.add({"redis_node_usable": node.state is State.USABLE}, node.label)
    for role, traffic in redis.traffic().items():
        state = status.roles.get(role)
        if state is None or not state.wanted:
            continue
        page.add(
            {
                "redis_connected": state.connected,
                "redis_connections_total": traffic.connections,
                "redis_round_trip_seconds": traffic.round_trips,
                "redis_commands_total": traffic.commands,
                "redis_sent_bytes_total": traffic.sent_bytes,
                "redis_received_bytes_total": traffic.received_bytes,
                "redis_commands_in_flight": state.statistics.in_flight if state.statistics else 0,
                "redis_commands_queued": state.statistics.queued if state.statistics else 0,
            },
            role.value,
        )


async def _add_survey(page: Page, figures: SurveyFigures) -> None:
    """Add the figures of streams and groups, those with most to do first, as far as there is room."""
    # For what is said of the survey itself, and half of the rest for streams.
    most = MAX_PAGE_BYTES - _SURVEY_BYTES
    most_with_streams = (page.bytes + most) // 2
    streams = groups = 0
    for number, stream in enumerate(figures.streams):
        streams += page.add_within(most_with_streams, _of_stream(stream), stream.stream)
        if number % _AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    for number, group in enumerate(figures.groups):
        groups += page.add_within(most, _of_group(group), group.stream, group.group)
        if number % _AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
    page.add(
        {
            "streams": figures.total,
            "streams_omitted": figures.streams_omitted + len(figures.streams) - streams,
            "groups_omitted": figures.groups_omitted + len(figures.groups) - groups,
            "survey_age_seconds": trio.current_time() - figures.taken_at,
            "ranking_age_seconds": figures.ranking_age_seconds,
            "ranking_duration_seconds": figures.ranking_seconds,
        }
    )


def _of_stream(figures: StreamFigures) -> dict[str, float | None]:
    return {
        "stream_entries": figures.entries,
        "stream_entries_added_total": figures.added,
        "stream_growth_per_second": figures.growth_per_second,
        "stream_memory_bytes": figures.memory_bytes,
        "stream_last_entry_age_seconds": figures.last_entry_seconds,
        "stream_processing_seconds": figures.processing_seconds,
        "stream_groups": figures.groups,
    }


def _of_group(figures: GroupFigures) -> dict[str, float | None]:
    return {
        "group_consumers": figures.consumers,
        "group_active_consumers": figures.active_consumers,
        "group_pending": figures.pending,
        "group_oldest_pending_age_seconds": figures.oldest_pending_seconds,
        "group_lag": figures.lag,
        "group_acknowledged_per_second": figures.acknowledged_per_second,
        "group_processing_seconds": figures.processing_seconds,
        "group_dead_letters": figures.dead_letters,
    }


def _summed(pairs: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    sums: dict[str, int] = {}
    for name, amount in pairs:
        sums[name] = sums.get(name, 0) + amount
    return sums.items()
