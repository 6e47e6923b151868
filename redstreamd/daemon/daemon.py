"""The order in which the daemon starts: sockets, then the modules that serve, then the service, then the SDK.

Sockets listen a few hundredths of a second after the settings are checked. Clients that connect then wait
in the backlog while ``serving`` is imported: Redis, the domain and the tools. What keeps a daemon from
listening is known before that. The SDK of MCP, which takes longer still, is imported while plain calls are
served (see `serving`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import trio

from redstreamd.daemon.background_import import import_on_thread
from redstreamd.daemon.metrics_listeners import NAME as METRICS
from redstreamd.daemon.metrics_listeners import open_metrics_listeners
from redstreamd.daemon.process import run_process
from redstreamd.daemon.reload_signal import open_hangups
from redstreamd.daemon.shutdown import unless_stopped
from redstreamd.daemon.sockets import inherited_listener, open_listeners, protected
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.service.socket_activation import adopt_sockets, adopt_standard_input
from redstreamd.settings import Kind, Loaded, Settings
from redstreamd.startup.lazy_packages import make_lazy

# Of these packages the daemon uses single modules, and of the first nothing before the SDK. What the packages
# import, clients and HTTP servers, takes a third of the time and 16 MiB.
_LAZY_PACKAGES: Final = (
    "importlib.metadata",
    "mcp",
    "mcp.server",
    "prometheus_client",
    "redis",
    "redis._parsers",
    "redis.asyncio",
    "redis.commands",
)


def serve(loaded: Loaded, *, load: Callable[[], Loaded], on_ready: Callable[[], None] | None = None) -> int:
    """Run the daemon until SIGTERM or SIGINT and return its exit status.

    Args:
        loaded: The settings.
        load: Reads them again, from the same sources, when SIGHUP arrives.
        on_ready: Called once all requests of clients are served.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: An address or the state directory is in use; the error is logged.
    """
    make_lazy(_LAZY_PACKAGES)
    return run_process(partial(_serve, load=load, on_ready=on_ready), loaded)


def stdio(loaded: Loaded, *, load: Callable[[], Loaded]) -> int:
    """Serve one client on standard input and output until it disconnects; return the exit status.

    Args:
        loaded: The settings.
        load: See `serve`; for standard input that is a listening socket.

    Raises:
        SettingsError: The settings cannot work here.
        NotNowError: The state directory is in use; the error is logged.
    """
    make_lazy(_LAZY_PACKAGES)
    return run_process(partial(_stdio, load=load), loaded)


async def _serve(
    loaded: Loaded, log: ProcessLog, *, load: Callable[[], Loaded], on_ready: Callable[[], None] | None
) -> None:
    activated = adopt_sockets()
    async with AsyncExitStack() as resources:
        hangups = resources.enter_context(open_hangups())
        listeners = await open_listeners(loaded.settings, activated)
        for each in listeners:
            resources.push_async_callback(each.listener.aclose)
        metrics = await open_metrics_listeners(loaded.settings, activated.named(METRICS))
        for listener in metrics:
            resources.push_async_callback(listener.aclose)
        http = any(each.address.kind is Kind.HTTP for each in listeners)
        needed = partial(_serve_listeners, loaded.settings, http=http)
        serve_listeners = await unless_stopped(partial(import_on_thread, needed))
        if serve_listeners is not None:
            await serve_listeners(
                loaded.settings,
                listeners,
                log,
                metrics=metrics,
                load=load,
                hangups=hangups,
                on_ready=on_ready,
            )


async def _stdio(loaded: Loaded, log: ProcessLog, *, load: Callable[[], Loaded]) -> None:
    inherited = adopt_standard_input()
    if isinstance(inherited, trio.SocketListener):
        # As the original server's units do: standard input is the listening socket.
        with open_hangups() as hangups:
            async with inherited:
                listeners = protected([inherited_listener("stdin", inherited)], loaded.settings)
                serve_listeners = await import_on_thread(partial(_serve_listeners, loaded.settings))
                await serve_listeners(loaded.settings, listeners, log, load=load, hangups=hangups)
    else:
        serve_stream = await import_on_thread(partial(_serve_stream, loaded.settings))
        await serve_stream(loaded.settings, inherited, log)


def _serve_listeners(settings: Settings, *, http: bool = False) -> Callable[..., Awaitable[None]]:
    from redstreamd.daemon.serving import serve_listeners

    _load_topology(settings)
    if http:
        import redstreamd.daemon.http_parts  # noqa: F401 - it takes long, and would be imported on the loop

    return serve_listeners


def _serve_stream(settings: Settings) -> Callable[..., Awaitable[None]]:
    from redstreamd.daemon.serving_stream import serve_stream

    _load_topology(settings)
    return serve_stream


def _load_topology(settings: Settings) -> None:
    from redstreamd.redisio import topologies
    from redstreamd.redisio.target import TopologyKind

    topologies.load(TopologyKind(settings.redis.topology))
