"""Every metric: name, type, unit, labels and meaning.

The page, docs/metrics.md and the Grafana dashboard in contrib follow from this table. It knows no figures.
Names follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from redstreamd.redisio.traffic import ROUND_TRIP_SECONDS


class MetricType(enum.StrEnum):
    """How the figure behaves, by the names of OpenMetrics."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Subject(enum.StrEnum):
    """What a metric is about: a section of the reference and a row of the dashboard."""

    PROCESS = "The process"
    CLIENTS = "Clients"
    TOOLS = "Calls of tools"
    REDIS = "Redis"
    SURVEY = "The survey of streams"
    STREAMS = "Streams"
    GROUPS = "Consumer groups"


class Metric(msgspec.Struct, frozen=True):
    """One metric.

    Attributes:
        name: As it is queried; of a histogram without ``_bucket``, ``_count`` and ``_sum``.
        type: How it behaves.
        subject: What it is about.
        help: What it says, as one sentence without its full stop.
        unit: The base unit in the name, such as "seconds" and "bytes"; empty for a plain number.
        labels: The names of its labels.
        buckets: The upper bounds of a histogram's buckets, without infinity.
    """

    name: str
    type: MetricType
    subject: Subject
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def family(self) -> str:
        """The name of its family: that of a counter has no ``_total``."""
        return self.name.removesuffix("_total") if self.type is MetricType.COUNTER else self.name


#: Upper bounds in seconds. Calls that wait take up to tools.max_wait_seconds.
CALL_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0)

_BUCKETS: Final[Mapping[str, tuple[float, ...]]] = {
    "tool_call_duration_seconds": CALL_SECONDS,
    "redis_round_trip_seconds": ROUND_TRIP_SECONDS,
}


def _of(subject: Subject, labels: tuple[str, ...], *rows: tuple[str, str, str]) -> tuple[Metric, ...]:
    """Return the metrics of (kind, name without the common prefix, help); the unit follows from the name."""
    made = []
    for kind, name, text in rows:
        base = name.removesuffix("_total")
        unit = next((unit for unit in ("seconds", "bytes") if base.endswith(f"_{unit}")), "")
        buckets = _BUCKETS.get(name, ())
        made.append(Metric(f"redstreamd_{name}", MetricType(kind), subject, text, unit, labels, buckets))
    return tuple(made)


_GAUGE, _COUNTER, _HISTOGRAM = "gauge", "counter", "histogram"

METRICS: Final[tuple[Metric, ...]] = (
    *_of(
        Subject.PROCESS,
        ("version", "process"),
        (
            _GAUGE,
            "build_info",
            "1, with the version of redstreamd, and the name of the process",
        ),
    ),
    *_of(
        Subject.PROCESS,
        (),
        (_GAUGE, "start_time_seconds", "When the daemon started, in seconds since the epoch"),
        (_GAUGE, "resident_memory_bytes", "Resident memory of the daemon"),
        (_COUNTER, "cpu_seconds_total", "CPU time of the daemon, user and system"),
        (_GAUGE, "open_descriptors", "Open file descriptors"),
        (_GAUGE, "max_descriptors", "File descriptors that the daemon may have"),
        (_GAUGE, "loop_lag_seconds", "The longest pass of the event loop in the last two minutes"),
        (_GAUGE, "loop_lag_worst_seconds", "The longest pass of the event loop since the start"),
        (
            _COUNTER,
            "gc_collections_total",
            "Collections of reference cycles since the start was over",
        ),
        (_COUNTER, "gc_pause_seconds_total", "Time in which Python's collector held up everything"),
        (_GAUGE, "gc_longest_pause_seconds", "The longest such pause in the last five minutes"),
        (_COUNTER, "log_records_dropped_total", "Log records that nobody read in time"),
    ),
    *_of(
        Subject.CLIENTS,
        ("principal",),
        (_GAUGE, "connections", "Open connections; of all but the largest principals together as _other"),
    ),
    *_of(
        Subject.CLIENTS,
        (),
        (_GAUGE, "connections_limit", "How many connections may be open"),
        (_COUNTER, "connections_accepted_total", "Connections accepted"),
        (_COUNTER, "connections_rejected_total", "Connections rejected because as many were open as may be"),
        (_COUNTER, "connections_crashed_total", "Connections ended by a defect of the daemon"),
        (_GAUGE, "requests_in_flight", "Requests of clients that are not answered yet"),
        (_GAUGE, "client_memory_bytes", "What clients make the daemon hold: requests, waits, unread answers"),
        (_GAUGE, "client_memory_limit_bytes", "The most that they may make it hold"),
        (_GAUGE, "waits", "Calls that wait for entries, and watches of tasks"),
        (_GAUGE, "watched_keys", "Keys that they watch"),
        (_GAUGE, "subscriptions", "Subscriptions to resources"),
        (_GAUGE, "subscribed_resources", "Resources with a subscription"),
        (_GAUGE, "http_connections", "Open connections of HTTP, which are among all"),
        (_GAUGE, "http_sessions", "Sessions over HTTP of clients of revisions before 2026-07-28"),
        (_GAUGE, "http_event_streams", "Responses over HTTP that are open for events"),
    ),
    *_of(
        Subject.CLIENTS,
        ("status",),
        (_COUNTER, "http_responses_total", "Responses over HTTP, by the class of their status, such as 2xx"),
    ),
    *_of(
        Subject.TOOLS,
        ("tool", "outcome"),
        (
            _HISTOGRAM,
            "tool_call_duration_seconds",
            "How long calls took, waits included; the outcome is ok, cancelled or the code of the error",
        ),
    ),
    *_of(
        Subject.TOOLS,
        ("tool",),
        (_COUNTER, "tool_answer_bytes_total", "Content of the answers"),
    ),
    *_of(
        Subject.REDIS,
        (),
        (_GAUGE, "redis_usable", "1 if Redis serves all that is wanted of it, else 0"),
        (_GAUGE, "redis_nodes", "Servers that hold streams; 0 while none is known"),
    ),
    *_of(
        Subject.REDIS,
        ("node",),
        (
            _GAUGE,
            "redis_node_usable",
            "The same of each node, not of a single server; of many nodes, of those first that are not",
        ),
    ),
    *_of(
        Subject.REDIS,
        ("role",),
        (_GAUGE, "redis_connected", "1 if the connection of this role is there, else 0"),
        (_COUNTER, "redis_connections_total", "Connections made; all but the first are reconnects"),
        (
            _HISTOGRAM,
            "redis_round_trip_seconds",
            "From sending a command until its reply is read, of the first reply of each packet",
        ),
        (_COUNTER, "redis_commands_total", "Commands sent"),
        (_COUNTER, "redis_sent_bytes_total", "Bytes of commands sent"),
        (_COUNTER, "redis_received_bytes_total", "Bytes of replies received"),
        (_GAUGE, "redis_commands_in_flight", "Commands sent and not answered yet"),
        (_GAUGE, "redis_commands_queued", "Commands not sent yet"),
    ),
    *_of(
        Subject.SURVEY,
        (),
        (_GAUGE, "streams", "Streams found on the server"),
        (_GAUGE, "streams_omitted", "Streams without figures here, beyond the bounds of settings and page"),
        (_GAUGE, "groups_omitted", "Groups of the other streams without figures here, likewise"),
        (_GAUGE, "survey_age_seconds", "How old the figures of streams are"),
        (_GAUGE, "ranking_age_seconds", "How old the choice of streams is"),
        (_GAUGE, "ranking_duration_seconds", "How long it took to look at all streams"),
        (_COUNTER, "survey_failures_total", "Surveys that failed, mostly because Redis did not answer"),
    ),
    *_of(
        Subject.STREAMS,
        ("stream",),
        (_GAUGE, "stream_entries", "Entries in the stream"),
        (_COUNTER, "stream_entries_added_total", "Entries ever added; from Redis 7.0 on"),
        (_GAUGE, "stream_growth_per_second", "Entries by which it grew per second of late, after trimming"),
        (_GAUGE, "stream_memory_bytes", "Memory of the stream with its groups, as the server estimates it"),
        (_GAUGE, "stream_last_entry_age_seconds", "How long ago the last entry was added, by its ID"),
        (
            _GAUGE,
            "stream_processing_seconds",
            "How long entries were pending of late, in the mean",
        ),
        (_GAUGE, "stream_groups", "Consumer groups of the stream"),
    ),
    *_of(
        Subject.GROUPS,
        ("stream", "group"),
        (_GAUGE, "group_consumers", "Consumers of the group"),
        (_GAUGE, "group_active_consumers", "Consumers that got or claimed an entry of late"),
        (_GAUGE, "group_pending", "Entries delivered and not acknowledged"),
        (
            _GAUGE,
            "group_oldest_pending_age_seconds",
            "How long ago the oldest pending entry was added",
        ),
        (
            _GAUGE,
            "group_lag",
            "Entries not delivered yet; estimated where the server lost count",
        ),
        (_GAUGE, "group_acknowledged_per_second", "Entries finished per second of late"),
        (_GAUGE, "group_processing_seconds", "How long entries were pending of late, in the mean"),
        (_GAUGE, "group_dead_letters", "Dead letters of the group"),
    ),
)
"""All metrics, in the order of the page."""

BY_NAME: Final[Mapping[str, Metric]] = {metric.name: metric for metric in METRICS}
