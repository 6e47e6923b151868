"""The composition root: which parts there are, who is given what, and in which order they run.

    systemd ──sockets, signals, watchdog──▶ daemon
                                              └─ supervisor
      ┌────────┬───────────────┬───────────────┬──────┴──────┬──────────┬──────────┐
     log   watchdog     embedded server   Redis manager   tail hub   updates   listeners
   journal               (if asked for)  (roles, backoff)  (wakes)   (tell)   (a task per connection)

Children start from left to right and stop from right to left. Nothing else in the project builds
a part from another package.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import attrs
import trio
from mcp.server.lowlevel import Server

from redstreamd import __version__
from redstreamd.daemon.banner import banner
from redstreamd.daemon.readiness import wait_ready
from redstreamd.daemon.sockets import OpenListener, adopted, open_listeners
from redstreamd.daemon.status_line import StatusLine
from redstreamd.errors import NotNowError
from redstreamd.event_log.event_log import EventLog
from redstreamd.event_log.texts import record
from redstreamd.mcp_server.server import build_server
from redstreamd.mcp_server.tool_server import Toolbox
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import ListenError
from redstreamd.mcpio.standard_streams import open_stdio_stream
from redstreamd.policy import Principal
from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.redisio.configured_target import target_for
from redstreamd.redisio.connection_manager import Manager
from redstreamd.redisio.target import Target
from redstreamd.resources.catalog import LIBRARY
from redstreamd.service.child import Child
from redstreamd.service.crash_dump import install_crash_dump
from redstreamd.service.embedded.embedded_server import (
    START_TIMEOUT_SECONDS,
    EmbeddedServer,
    StateDirectoryInUseError,
)
from redstreamd.service.exceptions import (
    ChildHungError,
    StartFailedError,
    TakeTreeDown,
    TooManyFailuresError,
    unwrapped,
)
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.installation import installation
from redstreamd.service.log_output import LogOutput, set_up_logging
from redstreamd.service.notify import Notifier
from redstreamd.service.process_stats import process_stats
from redstreamd.service.restart_policy import Restart
from redstreamd.service.socket_activation import adopt_sockets, adopt_standard_input
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.watchdog import Watchdog, watchdog_interval
from redstreamd.settings import Loaded, Settings
from redstreamd.startup.state_directory import state_in
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.subscriptions.topics import Sources
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.tools.catalog import INSTRUCTIONS, REGISTRY
from redstreamd.tools.definition import Profile

_LOG = logging.getLogger("redstreamd")

# sysexits.h
_SOFTWARE = 70

# The hub shows progress at every sweep (30 s) and every command of its own (5 s at most each).
_HUB_PATIENCE = 120.0
# How much more time to stop is asked for at once, in seconds, and again at half of it.
_EXTENSION = 4.0

_GAVE_UP = (StartFailedError, TooManyFailuresError, ChildHungError, TakeTreeDown)


def serve(loaded: Loaded, *, on_ready: Callable[[], None] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT and return its exit status.

    Args:
        loaded: The settings.
        on_ready: Called once clients are served.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: They cannot work now, because an address or the state directory is in use; it is logged.
    """
    return _run(partial(_serve, on_ready=on_ready), loaded)


def stdio(loaded: Loaded) -> int:
    """Serve one client on standard input and output until it leaves, and return the exit status.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: They cannot work now, because the state directory is in use; it is logged.
    """
    return _run(_stdio, loaded)


def _run(main: Callable[[Loaded, LogOutput], Awaitable[None]], loaded: Loaded) -> int:
    settings = loaded.settings
    log = set_up_logging(settings.daemon.log_level, secrets=filter(None, [settings.redis.password]))
    install_crash_dump()
    # What the imports made stays for good. Looking through it again at each full collection would
    # stall the loop for tenths of a second (97 ms measured, 7.5 ms without it).
    gc.collect()
    gc.freeze()
    try:
        trio.run(main, loaded, log)
    except Exception as ended:
        reason = unwrapped(ended)
        if isinstance(reason, ListenError | StateDirectoryInUseError):
            _LOG.critical("%s", reason)
            raise NotNowError(str(reason)) from ended
        if isinstance(reason, _GAVE_UP):
            # The supervisor's events have said why.
            return _SOFTWARE
        raise reason from ended
    return 0


@attrs.frozen
class _Parts:
    """The parts that every form of the daemon has.

    Attributes:
        settings: What they were built from.
        manager: The connections to Redis.
        bus: The domain.
        updates: Tells subscribers of changes.
        daemon_health: Reports how all of them are.
        server: What MCP clients are served.
        limits: The bounds of connections.
        embedded: The server of our own, if there is one.
        journal: Told of what happens to connections of clients and to the supervisor.
    """

    settings: Settings
    manager: Manager
    bus: Bus
    updates: Updates
    daemon_health: DaemonHealth
    server: Server[Principal]
    limits: Limits
    embedded: EmbeddedServer | None
    journal: EventLog

    def end_waits(self) -> None:
        """Let every wait and subscription end at once, with its cursor: the daemon is stopping."""
        self.bus.hub.drain()
        self.updates.drain()

    def children(self, heartbeats: Heartbeats) -> list[Child]:
        """Return what must run underneath the clients, in start order."""

        async def run_hub(*, task_status: trio.TaskStatus[None]) -> None:
            with heartbeats.register("tail hub", max_age_seconds=_HUB_PATIENCE) as heartbeat:
                await self.bus.hub.run(on_progress=heartbeat.beat, task_status=task_status)

        children = [
            Child("journal", self.journal.run),
            Child("redis", self.manager.run),
            Child("tail hub", run_hub),
            Child("sampler", self.bus.sampler.run),
            Child("updates", self.updates.run),
        ]
        if self.embedded is not None:
            run = self.embedded.run
            children.insert(0, Child("embedded server", run, start_timeout_seconds=START_TIMEOUT_SECONDS))
        return children


def _build(settings: Settings, resources: AsyncExitStack) -> _Parts:
    """Build the parts; what must be given back at the end is entered into `resources`."""
    embedded = None
    if settings.daemon.embedded:
        with state_in(settings.daemon.state_directory):
            embedded = resources.enter_context(EmbeddedServer(settings.daemon.state_directory))
    journal = EventLog()
    manager = Manager(
        _target(settings, embedded),
        command_timeout=settings.redis.command_timeout_seconds,
        on_event=record,
    )
    bus = Bus.over(manager, settings, _lease_key(settings))
    sources = Sources(bus.commands, bus.lister, bus.records)
    updates = Updates(bus.hub, sources, max_subscriptions=settings.limits.max_waits)
    daemon_health = DaemonHealth(manager, bus.commands, bus.hub, updates, version=__version__)
    daemon_health.include("process", process_stats)
    daemon_health.include("installation", installation)
    server = build_server(
        Toolbox(
            REGISTRY,
            [Profile(name) for name in settings.tools.profile],
            bus,
            timeout_seconds=settings.tools.call_timeout_seconds,
            default_wait_seconds=settings.tools.default_wait_seconds,
            max_nesting=settings.limits.max_nesting,
        ),
        LIBRARY,
        PROMPTS,
        Views(bus, daemon_health),
        updates,
        version=__version__,
        instructions=INSTRUCTIONS,
    )
    limits = Limits(
        max_message_bytes=settings.limits.max_message_bytes,
        # Room for four of the longest messages, in either direction; see Limits.
        max_bytes_in_flight=4 * settings.limits.max_message_bytes,
        max_outbox_bytes=4 * settings.limits.max_message_bytes,
        max_nesting=settings.limits.max_nesting,
        max_requests_in_flight=settings.limits.max_requests_in_flight,
        max_connections=settings.limits.max_connections,
    )
    return _Parts(settings, manager, bus, updates, daemon_health, server, limits, embedded, journal)


async def _serve(loaded: Loaded, log: LogOutput, *, on_ready: Callable[[], None] | None) -> None:
    activated = adopt_sockets()
    async with AsyncExitStack() as resources:
        parts = _build(loaded.settings, resources)
        listeners = await open_listeners(parts.settings.daemon.listen, activated)
        await _serve_listeners(parts, listeners, log, on_ready=on_ready)


async def _serve_listeners(
    parts: _Parts,
    listeners: Sequence[OpenListener],
    log: LogOutput,
    *,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve everyone who comes through `listeners`, until a signal; closes them."""
    async with AsyncExitStack() as resources:
        for each in listeners:
            resources.push_async_callback(each.served.listener.aclose)
        notifier, heartbeats = Notifier.from_environment(), Heartbeats()
        acceptor = Acceptor(
            [each.served for each in listeners], parts.server, limits=parts.limits, on_event=parts.journal
        )
        parts.daemon_health.include("clients", acceptor.statistics)
        status = StatusLine(parts.manager, parts.bus, acceptor)
        watchdog = Watchdog(notifier, heartbeats, interval_seconds=watchdog_interval(), status=status)
        addresses = [each.address for each in listeners]

        async def announce(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            if on_ready is not None:
                on_ready()
            _LOG.info("redstreamd %s listens on %s", __version__, ", ".join(map(str, addresses)))
            if not notifier.is_enabled:
                # No service manager: a person started it, and wants to know what to do next.
                print(banner(parts.settings, addresses), flush=True)
            # The sockets accept, the signals are handled and the settings are valid: that is ready, unless
            # the data of the embedded server has yet to be loaded.
            await wait_ready(notifier, parts.embedded, parts.manager)
            notifier.ready(status())

        async def drain() -> None:
            notifier.stopping("answering what is in flight")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(extend_timeout)
                # Waits end at once, with their cursor; what is in flight is answered.
                parts.end_waits()
                await acceptor.drain(parts.settings.daemon.drain_seconds)
                nursery.cancel_scope.cancel()

        async def extend_timeout() -> None:
            while True:
                notifier.extend_timeout(_EXTENSION)
                await trio.sleep(_EXTENSION / 2)

        children = [
            Child("log", log.run),
            Child("watchdog", watchdog.run),
            *parts.children(heartbeats),
            Child("listeners", acceptor.run),
            Child("announcement", announce, restart=Restart.TEMPORARY),
        ]
        await _supervise(Supervisor("redstreamd", children, on_event=parts.journal), drain)


async def _stdio(loaded: Loaded, log: LogOutput) -> None:
    given = adopt_standard_input()
    async with AsyncExitStack() as resources:
        parts = _build(loaded.settings, resources)
        if isinstance(given, trio.SocketListener):
            # The original's own form: the unit's listening socket is standard input.
            await _serve_listeners(parts, [adopted("stdin", given)], log)
            return
        stream: trio.abc.Stream
        stream = await resources.enter_async_context(open_stdio_stream()) if given is None else given
        connection = ClientConnection(
            stream,
            parts.server,
            principal=Principal("stdio", "stdio"),
            limits=parts.limits,
            on_event=parts.journal,
        )

        async def drain() -> None:
            parts.end_waits()
            await connection.drain(parts.settings.daemon.drain_seconds)

        async def serve_client(*, task_status: trio.TaskStatus[None]) -> None:
            await connection.run(task_status=task_status)
            supervisor.request_stop()

        children = [
            Child("log", log.run),
            *parts.children(Heartbeats()),
            Child("client", serve_client, restart=Restart.TEMPORARY),
        ]
        supervisor = Supervisor("redstreamd", children, on_event=parts.journal)
        await _supervise(supervisor, drain)


async def _supervise(supervisor: Supervisor, drain: Callable[[], Awaitable[None]]) -> None:
    """Run `supervisor` until it ends or a signal stops it.

    The first signal drains, then stops. A second one stops at once.
    """

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_stop_signals()) as signals:
            task_status.started()
            await anext(signals)
            async with trio.open_nursery() as stopping:
                stopping.start_soon(drain_then_stop)
                await anext(signals)
                _LOG.warning("stopping at once")
                supervisor.request_stop()

    async def drain_then_stop() -> None:
        _LOG.info("stopping: answering what is in flight")
        await drain()
        supervisor.request_stop()

    async with trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal)
        await supervisor.run()
        nursery.cancel_scope.cancel()


def _stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that stop the daemon; a closed terminal is one, unless nohup(1) said otherwise."""
    usual = (signal.SIGTERM, signal.SIGINT)
    return usual if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*usual, signal.SIGHUP)


def _target(settings: Settings, embedded: EmbeddedServer | None) -> Target:
    if embedded is None:
        return target_for(settings.redis)
    return embedded.target(connect_timeout=settings.redis.connect_timeout_seconds)


def _lease_key(settings: Settings) -> LeaseKey:
    with state_in(settings.daemon.state_directory):
        return LeaseKey.from_file(settings.daemon.state_directory / "lease.key")
