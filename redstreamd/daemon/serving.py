"""The composition root: which parts run, and in which order.

    systemd ── sockets, signals, watchdog ──▶ daemon
       └─ supervisor
            ├─ log               records to the journal
            ├─ watchdog          pings and status line
            ├─ embedded server   if configured: a Valkey of the daemon's own
            ├─ event log         repeated events as one record
            ├─ audit, access log calls as records
            ├─ collector         cycles of references, when there is time for it
            ├─ freed memory      goes back to the system after a peak
            ├─ memory pressure   caches are given up and waits refused when memory is short
            ├─ redis             topology: its nodes, one connection per role, backoff
            ├─ tail hub          key tracking; wakes waits
            ├─ sampler, updates  figures; notifications to subscribers
            ├─ ranking           the streams with most to do, while somebody asks
            ├─ HTTP              who may call; sessions; if there is a listener for it
            ├─ listeners         a task per client connection
            ├─ metrics           if there is a socket for them
            ├─ history, group watch, figures for the journal
            └─ reload            reads the settings again at SIGHUP, and has the parts take them

Children start from top to bottom and stop from bottom to top. `parts` builds them, `process` sets up the
process, `shutdown` drains on a signal. Beside the children, `sdk_kernels` is imported, and with it the SDK.
Until then plain calls of tools are served, and other requests wait. So nothing that this module imports may
import the SDK. Then all is built that the first request to need it would build, on the event loop; after that
the daemon is ready.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from redstreamd import __version__
from redstreamd.admission.accounts import Accounts
from redstreamd.admission.memory import Memory
from redstreamd.daemon.background_import import import_on_thread
from redstreamd.daemon.banner import banner
from redstreamd.daemon.figures_for_people import figures_for_people
from redstreamd.daemon.keys_in_force import load_ciphers
from redstreamd.daemon.metrics_listeners import MetricsListener, metrics_address
from redstreamd.daemon.metrics_parts import MetricsChild, MetricsPages, sources_of
from redstreamd.daemon.parts import Parts, build_parts, free_spare
from redstreamd.daemon.readiness import extended_start_timeout, wait_ready
from redstreamd.daemon.reload_signal import Hangups
from redstreamd.daemon.reload_table import Running
from redstreamd.daemon.reloader import Reloader
from redstreamd.daemon.shared_sockets import SharedSockets
from redstreamd.daemon.shutdown import STOP_SIGNALS, extended_stop_timeout, run_until_signal
from redstreamd.daemon.sockets import OpenListener, report_credentials
from redstreamd.daemon.status_line import StatusLine
from redstreamd.event_log.daemon_events import Listening
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.connection_events import EventHook, FewDescriptors, UsersHidden
from redstreamd.mcpio.jsonrpc import Request
from redstreamd.mcpio.kernels import Kernels
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.peers import users_are_hidden
from redstreamd.mcpio.served_listener import ServedListener
from redstreamd.presentation.uris import HEALTH
from redstreamd.redisio.error_replies import load_parser
from redstreamd.service.child import Child
from redstreamd.service.embedded.embedded_server import START_TIMEOUT_SECONDS
from redstreamd.service.freed_memory import give_back_freed
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.loop_lag import LoopLag
from redstreamd.service.notify import Notifier
from redstreamd.service.restart_policy import Restart
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.watchdog import Watchdog, watchdog_interval
from redstreamd.settings import Kind, Loaded, Settings
from redstreamd.startup.descriptors import descriptor_limit, max_newcomers, needed_for, room

if TYPE_CHECKING:
    from redstreamd.daemon.http_parts import HttpParts

# The hub beats at every sweep (30 s) and at every command of its own (at most 5 s each).
_HUB_MAX_SILENCE_SECONDS = 120.0

# How long the import of the SDK waits for Redis, and then for the answers of what waited for Redis.
_FIRST_CONNECTION_SECONDS = 0.25
_FIRST_ANSWERS_SECONDS = 0.01


async def serve_listeners(
    settings: Settings,
    listeners: Sequence[OpenListener],
    log: ProcessLog,
    *,
    metrics: Sequence[MetricsListener] = (),
    load: Callable[[], Loaded],
    hangups: Hangups | None,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve the clients of `listeners` until a signal.

    Args:
        settings: What the daemon is built from.
        listeners: The caller's; a signal closes them.
        log: Run beside.
        metrics: The caller's listeners for metrics.
        load: Reads the settings again.
        hangups: Says when; None for never.
        on_ready: Called once all requests of clients are served.

    Raises:
        ImportFailedError: The SDK cannot be imported.
        SettingsError: The state directory cannot be used.
        StateDirectoryInUseError: Another daemon's embedded server uses it.
    """
    async with AsyncExitStack() as resources:
        parts = build_parts(settings, resources, log)
        sockets = SharedSockets(settings.daemon, listeners)
        resources.callback(sockets.close)
        listeners = sockets.listeners
        addresses = [*(each.address for each in listeners), *map(metrics_address, metrics)]
        accounts = Accounts()
        memory = Memory(accounts, parts.limits.max_memory_bytes)
        http = _http_parts(settings, parts, listeners, accounts, memory, lambda accept: pages.page(accept))
        acceptor = Acceptor(
            _served(settings, listeners, parts.event_log, http),
            parts.kernels,
            direct_path=parts.direct_path,
            accounts=accounts,
            memory=memory,
            limits=_acceptors(parts.limits),
            room=room,
            quotas=parts.bus.quotas,
            is_status_request=_asks_for_health,
            on_event=parts.event_log,
            on_connections=sockets.note,
        )
        _tell_few_descriptors(parts)
        parts.daemon_health.include("sharing", sockets.figures)
        parts.daemon_health.include("clients", acceptor.statistics)
        parts.daemon_health.include("work", acceptor.usage)
        if http is not None:
            parts.daemon_health.include("http", http.figures)
        notifier, heartbeats = Notifier.from_environment(), Heartbeats()

        def apply_limits(limits: Limits) -> None:
            parts.limits.become(limits)
            acceptor.reconfigure(_acceptors(limits))
            _tell_few_descriptors(parts)

        status, lag = StatusLine(parts.bus, acceptor, settings.daemon.instance), LoopLag()
        figures = figures_for_people(parts, acceptor, lag)
        reloader = Reloader(
            settings,
            load,
            Running(parts, log, figures, apply_limits, http),
            notifier,
            status=status,
            tell_clients=parts.tell_clients,
            report=parts.event_log,
        )
        parts.daemon_health.include("reload", reloader.statistics)
        status.notices += reloader.notice, parts.memory_pressure.notice
        watchdog = Watchdog(
            notifier,
            heartbeats,
            interval_seconds=watchdog_interval(),
            status=status,
            lag=lag,
            on_event=parts.event_log,
        )

        announcing, complete, ready = trio.CancelScope(), trio.Event(), trio.Event()

        async def announce(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            with announcing:
                await announce_once_ready()

        async def announce_once_ready() -> None:
            async with extended_start_timeout(notifier, parts.embedded):
                await complete.wait()
                if on_ready is not None:
                    on_ready()
                parts.event_log(Listening(__version__, tuple(map(str, addresses))))
                if not notifier.is_enabled:
                    # Without a service manager, a person started it.
                    print(banner(settings, addresses), flush=True)
                # The listeners accept already; only the embedded server may still load its data.
                await wait_ready(parts.embedded, parts.bus.redis)
            notifier.ready(status())
            ready.set()

        async def drain() -> None:
            # Whoever stops is not ready any more.
            announcing.cancel()
            sockets.close()
            reloader.stop()
            async with extended_stop_timeout(notifier):
                parts.end_waits()
                if http is not None:
                    http.drain()
                await acceptor.drain(parts.bus.settings.daemon.drain_seconds)

        pages = MetricsPages(
            sources_of(
                parts,
                acceptor,
                accounts,
                http=None if http is None else http.figures,
                lag=lag,
                log=log.output,
                instance=settings.daemon.instance,
            )
        )
        serve_metrics = MetricsChild(
            metrics,
            pages,
            loaded=complete,
            on_event=parts.event_log,
        )
        children = [
            Child("log", log.output.run),
            Child("watchdog", watchdog.run),
            *bus_children(parts, heartbeats),
            *(() if http is None else http.children),
            Child("listeners", acceptor.run),
            *([Child("metrics", serve_metrics.run)] if metrics else []),
            *figures.children,
            Child("announcement", announce, restart=Restart.TEMPORARY),
        ]
        if hangups is not None:
            reload = partial(reloader.run, hangups, ready)
            children.append(Child("reload", reload, restart=Restart.TEMPORARY))
        supervisor = Supervisor("redstreamd", children, on_event=parts.event_log)
        load_more = serve_metrics.load if metrics else None
        await run_parts(parts, supervisor, drain, complete, STOP_SIGNALS, load_more)


def _http_parts(
    settings: Settings,
    parts: Parts,
    listeners: Sequence[OpenListener],
    accounts: Accounts,
    memory: Memory,
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
) -> HttpParts | None:
    """Return what serves the listeners for HTTP; None if there is none."""
    if all(each.address.kind is not Kind.HTTP for each in listeners):
        return None
    from redstreamd.daemon.http_parts import HttpParts

    return HttpParts(settings, parts, listeners, accounts, memory, metrics)


def _served(
    settings: Settings, listeners: Sequence[OpenListener], on_event: EventHook, http: HttpParts | None
) -> list[ServedListener]:
    """Return the listeners with what they demand, who their clients are, and what they speak."""
    report_credentials(listeners, on_event)
    tells_users = settings.listeners.peer_uids
    if tells_users and users_are_hidden():
        on_event(UsersHidden())
    return [
        ServedListener(
            each.listener,
            each.principal,
            str(each.address),
            each.is_inherited,
            tells_users=tells_users and each.address.kind is Kind.UNIX,
            protection=each.protection,
            opens=http.transport if http is not None and each.address.kind is Kind.HTTP else None,
        )
        for each in listeners
    ]


def _acceptors(limits: Limits) -> Limits:
    """Return limits for a process that has so many descriptors as this one."""
    return msgspec.structs.replace(limits, max_newcomers=max_newcomers(descriptor_limit()))


def _tell_few_descriptors(parts: Parts) -> None:
    """Record it if there are too few descriptors for as many connections as may be."""
    wanted = parts.limits.max_connections
    if (connections := room()) < wanted:
        parts.event_log(FewDescriptors(descriptor_limit(), needed_for(wanted), connections, wanted))


def _asks_for_health(request: Request) -> bool:
    """Return whether a request is the one that ``redstreamd status`` sends."""
    return request.method == "resources/read" and (request.params or {}).get("uri") == HEALTH


async def run_parts(
    parts: Parts,
    supervisor: Supervisor,
    drain: Callable[[], Awaitable[None]],
    complete: trio.Event,
    signals: Sequence[signal.Signals],
    load_more: Callable[[], None] | None = None,
) -> None:
    """Run `supervisor` until it ends or a signal stops it, and import the SDK beside it.

    Args:
        parts: What is served.
        supervisor: Serves.
        drain: Called when a signal arrives.
        complete: Set once everything is imported and built.
        signals: Stop it.
        load_more: Imports what is needed last, on a thread.

    Raises:
        ImportFailedError: That is not possible; the children were stopped.
    """

    async def provide_kernels() -> None:
        await _first_answers(parts)
        if parts.bus.encryption.opens:
            await import_on_thread(load_ciphers)
        parts.kernels.provide(await import_on_thread(partial(_sdk_kernels, parts)))
        # After that, because the first handshake needs little of it.
        await import_on_thread(partial(_build_rest, parts))
        if load_more is not None:
            await import_on_thread(load_more)
        parts.collector.settle()
        complete.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(provide_kernels)
        await run_until_signal(supervisor, drain, signals, on_event=parts.event_log)
        # A daemon that has stopped imports nothing more; what is under way ends first.
        nursery.cancel_scope.cancel()


async def _first_answers(parts: Parts) -> None:
    """Return when the clients that waited for the daemon can have had their first answers.

    Beside an import the event loop is several times as slow, and may be held up for some 20 ms at a time.
    """
    with trio.move_on_after(_FIRST_CONNECTION_SECONDS):
        await parts.bus.redis.wait_connected()
        await trio.sleep(_FIRST_ANSWERS_SECONDS)


def _sdk_kernels(parts: Parts) -> Kernels:
    from redstreamd.daemon.sdk_models import models_built_later

    with models_built_later():
        from redstreamd.daemon.sdk_kernels import build_kernels
    return build_kernels(parts)


def _build_rest(parts: Parts) -> None:
    """Build what would otherwise be built by the first request that needs it, on the event loop."""
    import redstreamd.redisio.command_builders  # noqa: F401 - for the first call that is no plain one
    from redstreamd.daemon.sdk_models import build_models

    load_parser()
    parts.toolbox.compile()
    build_models()


def bus_children(parts: Parts, heartbeats: Heartbeats) -> list[Child]:
    """Return the children that clients need whatever they come through, in start order."""

    async def run_hub(*, task_status: trio.TaskStatus[None]) -> None:
        with heartbeats.register("tail hub", max_age_seconds=_HUB_MAX_SILENCE_SECONDS) as heartbeat:
            await parts.bus.hub.run(on_progress=heartbeat.beat, task_status=task_status)

    spare = partial(free_spare, parts.bus, parts.toolbox, parts.collector)
    children = [
        Child("event log", parts.event_log.run),
        Child("audit", parts.call_log.audit.run),
        Child("access log", parts.call_log.access.run),
        Child("collector", parts.collector.run),
        Child("freed memory", partial(give_back_freed, spare)),
        Child("memory pressure", parts.memory_pressure.run, restart=Restart.TRANSIENT),
        Child("redis", parts.topology.run),
        Child("tail hub", run_hub),
        Child("sampler", parts.bus.sampler.run),
        Child("updates", parts.updates.run),
        Child("ranking", parts.ranking.run),
    ]
    if parts.embedded is not None:
        run = parts.embedded.run
        children.insert(0, Child("embedded server", run, start_timeout_seconds=START_TIMEOUT_SECONDS))
    return children
