"""Builds the parts of the daemon from the settings, and passes each what it needs of the others.

All but the SDK's server, which `sdk_kernels` builds of them while the daemon serves already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

import redstreamd.event_log.kinds  # noqa: F401 - declares what the parts report
from redstreamd import __version__
from redstreamd.admission.claims import SUBSCRIPTIONS, SharedLimit
from redstreamd.admission.rates import Rates
from redstreamd.audit.call_log import CallLog
from redstreamd.daemon.call_logging import call_log_of
from redstreamd.daemon.call_rates import rate_rules
from redstreamd.daemon.connection_limits import connection_limits
from redstreamd.daemon.ended_calls import EndedCalls
from redstreamd.daemon.keys_in_force import KeysInForce
from redstreamd.daemon.policy_settings import policy_of
from redstreamd.event_log.event_log import EventLog
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.mcp_server.direct_calls import DirectPath
from redstreamd.mcp_server.server_info import discovery, greeting, implementation
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.pending_kernels import PendingKernels
from redstreamd.metrics.call_counts import CallCounts
from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.redisio.client import Redis
from redstreamd.redisio.configured_target import deployment_for
from redstreamd.redisio.target import Deployment
from redstreamd.redisio.topologies import topology_for
from redstreamd.redisio.topology import Topology
from redstreamd.service.collector import Collector
from redstreamd.service.embedded.embedded_server import EmbeddedServer
from redstreamd.service.freed_memory import trim
from redstreamd.service.installation import installation
from redstreamd.service.memory_pressure import MemoryPressure, from_environment
from redstreamd.service.process_stats import process_stats
from redstreamd.settings import Settings
from redstreamd.settings.configured_lease_key import read_lease_key
from redstreamd.startup.state_directory import state_in
from redstreamd.startup.state_keys import lease_key_in
from redstreamd.streams.bus import Bus
from redstreamd.streams.diagnosis.ranking import Ranking
from redstreamd.streams.diagnosis.stream_survey import StreamSurvey
from redstreamd.streams.entry_ids import forget_times
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.subscriptions.feeds import Feeds
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import Toolbox, toolbox_over


class Parts(msgspec.Struct, frozen=True):
    """The parts of the daemon, without its listeners.

    Attributes:
        topology: The connections to Redis; a supervised child runs them.
        bus: The domain.
        updates: Notifies subscribers of changes.
        daemon_health: Reports the health of all parts.
        toolbox: The tools.
        rates: How often principals may call them.
        views: The current values for resources, prompts and completion.
        kernels: Serve MCP to clients, once they are provided.
        direct_path: Serves plain calls of tools, from the beginning.
        limits: The limits of client connections.
        embedded: The embedded Redis server, if configured.
        event_log: The hook for the events of all parts.
        collector: Python's collector of cycles.
        memory_pressure: Gives memory back when it is short.
        call_log: The audit and the access log.
        calls: Counts the calls of tools.
        ended_calls: Tells both of calls that ended.
        ranking: Finds the streams with most to do; a supervised child runs it.
        survey: Takes their figures.
        keys: The keys and the rules of encryption.
        on_listings_changed: Called when other tools are offered or another policy applies; each tells some of
            the clients.
    """

    topology: Topology
    bus: Bus
    updates: Updates
    daemon_health: DaemonHealth
    toolbox: Toolbox[Any]
    rates: Rates
    views: Views
    kernels: PendingKernels
    direct_path: DirectPath
    limits: Limits
    embedded: EmbeddedServer | None
    event_log: EventLog
    collector: Collector
    memory_pressure: MemoryPressure
    call_log: CallLog
    calls: CallCounts
    ended_calls: EndedCalls
    ranking: Ranking
    survey: StreamSurvey
    keys: KeysInForce
    on_listings_changed: list[Callable[[], Awaitable[None]]] = msgspec.field(default_factory=list)

    async def tell_clients(self) -> None:
        """Tell clients that other tools are offered to them, or that they may see other streams."""
        for tell in self.on_listings_changed:
            await tell()

    def end_waits(self) -> None:
        """Make every wait and subscription return at once, with its cursor."""
        self.bus.hub.drain()
        self.updates.drain()


def build_parts(settings: Settings, resources: AsyncExitStack, log: ProcessLog) -> Parts:
    """Build the parts; what has to be released at the end is entered into `resources`.

    Raises:
        SettingsError: The state directory, the key of leases or the keys of encryption cannot be used.
        StateDirectoryInUseError: Another daemon's embedded server uses it.
        NotNowError: Another daemon chains its audit records in it.
    """
    event_log = log.events
    embedded = None
    if settings.daemon.embedded:
        with state_in(settings.daemon.state_directory):
            embedded = resources.enter_context(
                EmbeddedServer(settings.daemon.state_directory, on_event=event_log)
            )
    topology = topology_for(
        redis_deployment(settings, embedded),
        command_timeout=settings.redis.command_timeout_seconds,
        on_event=event_log,
    )
    keys = KeysInForce(settings, event_log)
    bus = Bus.over(Redis(topology), settings, _lease_key(settings), encryption=keys.encryption)
    subscriptions = SharedLimit(
        SUBSCRIPTIONS,
        settings.limits.max_subscriptions or settings.limits.max_waits,
        bus.quotas,
    )
    updates = Updates(Feeds(bus), subscriptions)
    daemon_health = DaemonHealth(bus.redis, bus.hub, updates, version=__version__)
    daemon_health.include("process", process_stats)
    collector = Collector()
    daemon_health.include("collector", collector.statistics)
    daemon_health.include("installation", installation)
    daemon_health.include("encryption", keys.statistics)
    profiles = [Profile(name) for name in settings.tools.profile]
    policy = policy_of(settings)
    rates = Rates(rate_rules(settings))
    call_log = call_log_of(settings, resources, log)
    calls = CallCounts()
    daemon_health.include("calls", calls.statistics)
    ended = EndedCalls(call_log, calls)
    resources.callback(ended.tell)
    toolbox = toolbox_over(
        bus,
        REGISTRY,
        profiles,
        policy=policy,
        check_rate=rates.check if rates.limit_anything else None,
        on_ended=ended.add,
        untold=ended.untold,
    )
    ranking = Ranking(bus.redis, bus.lister, count=settings.metrics.max_streams)
    direct_path = DirectPath(toolbox, bus.redis, implementation(__version__))
    memory_pressure = _memory_pressure(bus, toolbox, collector, event_log)
    daemon_health.include("memory_pressure", memory_pressure.statistics)
    return Parts(
        topology,
        bus,
        updates,
        daemon_health,
        toolbox,
        rates,
        Views(bus, daemon_health, policy),
        PendingKernels(greeting(__version__), discovery(__version__), toolbox.instructions),
        direct_path,
        connection_limits(settings),
        embedded,
        event_log,
        collector,
        memory_pressure,
        call_log,
        calls,
        ended,
        ranking,
        StreamSurvey(bus.redis, ranking, bus.sampler, max_groups=settings.metrics.max_groups),
        keys,
    )


def free_spare(bus: Bus, toolbox: Toolbox[Any], collector: Collector) -> None:
    """Free what is kept to save microseconds of a call, and what the interpreter keeps for new objects.

    Made during a peak, one of these verdicts and texts keeps an area of a megabyte.
    """
    forget_times()
    bus.forget_names()
    toolbox.forget_verdicts()
    toolbox.policy.forget()
    collector.collect()


def _memory_pressure(
    bus: Bus, toolbox: Toolbox[Any], collector: Collector, event_log: EventLog
) -> MemoryPressure:
    """Return what gives memory back when the service manager says that it is short."""

    async def give_back() -> None:
        bus.forget()
        free_spare(bus, toolbox, collector)
        await trim()

    def shed(is_shedding: bool) -> None:
        bus.hub.waits.is_shedding = is_shedding

    path, written = from_environment()
    return MemoryPressure(path, written, give_back=give_back, shed=shed, report=event_log)


def redis_deployment(settings: Settings, embedded: EmbeddedServer | None) -> Deployment:
    """Return the servers that the settings mean: the daemon's own, if it has one.

    Raises:
        SettingsError: See `deployment_for`.
    """
    if embedded is None:
        return deployment_for(settings.redis)
    return Deployment(embedded.target(connect_timeout=settings.redis.connect_timeout_seconds))


def _lease_key(settings: Settings) -> LeaseKey:
    if (given := read_lease_key(settings.daemon)) is not None:
        return LeaseKey(given)
    with state_in(settings.daemon.state_directory):
        return LeaseKey(lease_key_in(settings.daemon.state_directory))
