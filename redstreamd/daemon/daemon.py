"""The composition root: which parts run, and in which order.

    systemd ── sockets, signals, watchdog ──▶ daemon
       └─ supervisor
            ├─ log               standard error to the journal
            ├─ watchdog          pings and status line
            ├─ embedded server   if configured: a Valkey of the daemon's own
            ├─ event log         repeated events as one record
            ├─ redis             connection manager: one connection per role, backoff
            ├─ tail hub          key tracking; wakes waits
            ├─ sampler, updates  figures; notifications to subscribers
            └─ listeners         a task per client connection

Children start from top to bottom and stop from bottom to top. `parts` builds them, `process` sets up the
process, `shutdown` drains on a signal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import trio

from redstreamd import __version__
from redstreamd.daemon.banner import banner
from redstreamd.daemon.parts import Parts, build_parts
from redstreamd.daemon.process import run_process
from redstreamd.daemon.readiness import wait_ready
from redstreamd.daemon.shutdown import extended_stop_timeout, run_until_signal
from redstreamd.daemon.sockets import OpenListener, inherited_listener, open_listeners
from redstreamd.daemon.status_line import StatusLine
from redstreamd.mcpio.acceptor import Acceptor
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.standard_streams import open_stdio_stream
from redstreamd.policy import Principal
from redstreamd.service.child import Child
from redstreamd.service.embedded.embedded_server import START_TIMEOUT_SECONDS
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.log_output import LogOutput
from redstreamd.service.notify import Notifier
from redstreamd.service.restart_policy import Restart
from redstreamd.service.socket_activation import adopt_sockets, adopt_standard_input
from redstreamd.service.supervisor import Supervisor
from redstreamd.service.watchdog import Watchdog, watchdog_interval
from redstreamd.settings import Loaded

_LOG = logging.getLogger("redstreamd")

# The hub beats at every sweep (30 s) and at every command of its own (at most 5 s each).
_HUB_MAX_SILENCE_SECONDS = 120.0


def serve(loaded: Loaded, *, on_ready: Callable[[], None] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT and return its exit status.

    Args:
        loaded: The settings.
        on_ready: Called once clients are served.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: An address or the state directory is in use; the error is logged.
    """
    return run_process(partial(_serve, on_ready=on_ready), loaded)


def stdio(loaded: Loaded) -> int:
    """Serve one client on standard input and output until it disconnects; return the exit status.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: The state directory is in use; the error is logged.
    """
    return run_process(_stdio, loaded)


async def _serve(loaded: Loaded, log: LogOutput, *, on_ready: Callable[[], None] | None) -> None:
    activated = adopt_sockets()
    async with AsyncExitStack() as resources:
        parts = build_parts(loaded.settings, resources)
        listeners = await open_listeners(parts.settings.daemon.listen, activated)
        await _serve_listeners(parts, listeners, log, on_ready=on_ready)


async def _serve_listeners(
    parts: Parts,
    listeners: Sequence[OpenListener],
    log: LogOutput,
    *,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve the clients of `listeners` until a signal; then close the listeners."""
    async with AsyncExitStack() as resources:
        for each in listeners:
            resources.push_async_callback(each.served.listener.aclose)
        addresses = [each.address for each in listeners]
        acceptor = Acceptor(
            [each.served for each in listeners],
            parts.kernels,
            direct_path=parts.direct_path,
            limits=parts.limits,
            on_event=parts.event_log,
        )
        parts.daemon_health.include("clients", acceptor.statistics)
        notifier, heartbeats = Notifier.from_environment(), Heartbeats()
        status = StatusLine(parts.bus, acceptor)
        watchdog = Watchdog(notifier, heartbeats, interval_seconds=watchdog_interval(), status=status)

        async def announce(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            if on_ready is not None:
                on_ready()
            _LOG.info("redstreamd %s listens on %s", __version__, ", ".join(map(str, addresses)))
            if not notifier.is_enabled:
                # Without a service manager, a person started it.
                print(banner(parts.settings, addresses), flush=True)
            # The listeners accept already; only the embedded server may still load its data.
            await wait_ready(notifier, parts.embedded, parts.bus.redis)
            notifier.ready(status())

        async def drain() -> None:
            async with extended_stop_timeout(notifier):
                parts.end_waits()
                await acceptor.drain(parts.settings.daemon.drain_seconds)

        children = [
            Child("log", log.run),
            Child("watchdog", watchdog.run),
            *_bus_children(parts, heartbeats),
            Child("listeners", acceptor.run),
            Child("announcement", announce, restart=Restart.TEMPORARY),
        ]
        await run_until_signal(Supervisor("redstreamd", children, on_event=parts.event_log), drain)


async def _stdio(loaded: Loaded, log: LogOutput) -> None:
    inherited = adopt_standard_input()
    async with AsyncExitStack() as resources:
        parts = build_parts(loaded.settings, resources)
        if isinstance(inherited, trio.SocketListener):
            # As the original server's units do: standard input is the listening socket.
            await _serve_listeners(parts, [inherited_listener("stdin", inherited)], log)
            return
        stream: trio.abc.Stream
        stream = await resources.enter_async_context(open_stdio_stream()) if inherited is None else inherited
        connection = ClientConnection(
            stream,
            parts.kernels,
            direct_path=parts.direct_path,
            principal=Principal("stdio", "stdio"),
            limits=parts.limits,
            on_event=parts.event_log,
        )

        async def drain() -> None:
            parts.end_waits()
            await connection.drain(parts.settings.daemon.drain_seconds)

        async def serve_client(*, task_status: trio.TaskStatus[None]) -> None:
            await connection.run(task_status=task_status)
            supervisor.request_stop()

        children = [
            Child("log", log.run),
            *_bus_children(parts, Heartbeats()),
            Child("client", serve_client, restart=Restart.TEMPORARY),
        ]
        supervisor = Supervisor("redstreamd", children, on_event=parts.event_log)
        await run_until_signal(supervisor, drain)


def _bus_children(parts: Parts, heartbeats: Heartbeats) -> list[Child]:
    """Return the children that the clients need, in start order."""

    async def run_hub(*, task_status: trio.TaskStatus[None]) -> None:
        with heartbeats.register("tail hub", max_age_seconds=_HUB_MAX_SILENCE_SECONDS) as heartbeat:
            await parts.bus.hub.run(on_progress=heartbeat.beat, task_status=task_status)

    children = [
        Child("event log", parts.event_log.run),
        Child("redis", parts.manager.run),
        Child("tail hub", run_hub),
        Child("sampler", parts.bus.sampler.run),
        Child("updates", parts.updates.run),
    ]
    if parts.embedded is not None:
        run = parts.embedded.run
        children.insert(0, Child("embedded server", run, start_timeout_seconds=START_TIMEOUT_SECONDS))
    return children
