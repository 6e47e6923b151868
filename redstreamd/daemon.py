"""The composition root: which parts there are, who is given what, and in which order they run.

    systemd ──sockets, signals──▶ daemon
                                    └─ supervisor
           ┌──────────────┬────────────┴─┬──────────────┐
     embedded server    Redis manager   tail hub     listeners
     (if asked for)     (lanes, backoff) (wakes)     (a task per connection)

Children start from left to right and stop from right to left. Nothing else in the project builds
a part from another package.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack

import attrs
import trio
from mcp.server.lowlevel import Server

from redstreamd import __version__, paths
from redstreamd.banner import banner
from redstreamd.errors import SettingsError
from redstreamd.mcpio.acceptor import Acceptor, Door
from redstreamd.mcpio.connection import Connection
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.listeners import ListenError, open_tcp_listeners, open_unix_listener
from redstreamd.mcpio.stdio import open_stdio_stream
from redstreamd.policy import Principal
from redstreamd.records import record
from redstreamd.redisio.embedded import EmbeddedServer, StateDirectoryInUseError
from redstreamd.redisio.manager import Manager
from redstreamd.redisio.target import Target
from redstreamd.service.child import Child
from redstreamd.service.log import set_up_logging
from redstreamd.service.outcomes import (
    ChildHungError,
    StartFailedError,
    TakeTreeDown,
    TooManyFailuresError,
    unwrapped,
)
from redstreamd.service.restarts import Restart
from redstreamd.service.supervisor import Supervisor
from redstreamd.settings import Kind, ListenAddress, Loaded, Settings
from redstreamd.streams.bus import Bus
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.tools.catalog import INSTRUCTIONS, REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.server import build_server

_LOG = logging.getLogger("redstreamd")

# sysexits.h
_SOFTWARE, _TRY_LATER = 70, 75

_GAVE_UP = (StartFailedError, TooManyFailuresError, ChildHungError, TakeTreeDown)


def serve(loaded: Loaded) -> int:
    """Run the daemon until SIGTERM or SIGINT and return its exit status.

    Raises:
        SettingsError: The settings cannot work here.
    """
    return _run(_serve, loaded)


def stdio(loaded: Loaded) -> int:
    """Serve one client on standard input and output until it leaves, and return the exit status.

    Raises:
        SettingsError: The settings cannot work here.
    """
    return _run(_stdio, loaded)


def _run(main: Callable[[Loaded], Awaitable[None]], loaded: Loaded) -> int:
    set_up_logging(loaded.settings.daemon.log_level)
    try:
        trio.run(main, loaded)
    except Exception as ended:
        reason = unwrapped(ended)
        if isinstance(reason, ListenError | StateDirectoryInUseError):
            _LOG.critical("%s", reason)
            return _TRY_LATER
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
        bus: The domain.
        server: What MCP clients are served.
        children: What must run underneath, in start order.
        limits: The bounds of connections.
    """

    settings: Settings
    bus: Bus
    server: Server[Principal]
    children: tuple[Child, ...]
    limits: Limits


def _build(settings: Settings, resources: ExitStack | AsyncExitStack) -> _Parts:
    """Build the parts; what must be given back at the end is entered into `resources`."""
    embedded = None
    if settings.daemon.embedded:
        embedded = resources.enter_context(EmbeddedServer(settings.daemon.state_directory))
    manager = Manager(
        _target(settings, embedded),
        command_timeout=settings.redis.command_timeout_seconds,
        on_event=record,
    )
    bus = Bus.over(manager, settings, _lease_key(settings))
    children = [Child("redis", manager.run), Child("tail hub", bus.hub.run)]
    if embedded is not None:
        children.insert(0, Child("embedded server", embedded.run, start_timeout_seconds=600.0))
    return _Parts(
        settings=settings,
        bus=bus,
        server=build_server(
            REGISTRY,
            [Profile(name) for name in settings.tools.profile],
            bus,
            version=__version__,
            instructions=INSTRUCTIONS,
        ),
        children=tuple(children),
        limits=Limits(
            max_message_bytes=settings.limits.max_message_bytes,
            max_nesting=settings.limits.max_nesting,
            max_requests_in_flight=settings.limits.max_requests_in_flight,
            max_connections=settings.limits.max_connections,
        ),
    )


async def _serve(loaded: Loaded) -> None:
    async with AsyncExitStack() as resources:
        parts = _build(loaded.settings, resources)
        addresses = parts.settings.daemon.listen or (_default_address(),)
        doors = [door for address in addresses for door in await _doors(address)]
        for door in doors:
            resources.push_async_callback(door.listener.aclose)
        acceptor = Acceptor(doors, parts.server, limits=parts.limits, on_event=record)

        async def drain() -> None:
            # Waits end at once, with their cursor; what is in flight is answered.
            parts.bus.hub.drain()
            await acceptor.drain(parts.settings.daemon.drain_seconds)

        async def announce(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            _LOG.info("redstreamd %s listens on %s", __version__, ", ".join(map(str, addresses)))
            if "NOTIFY_SOCKET" not in os.environ:
                # No service manager: a person started it, and wants to know what to do next.
                print(banner(parts.settings, addresses), flush=True)

        children = (
            *parts.children,
            Child("listeners", acceptor.run),
            Child("announcement", announce, restart=Restart.TEMPORARY),
        )
        await _supervise(Supervisor("redstreamd", children, on_event=record), drain)


async def _stdio(loaded: Loaded) -> None:
    async with AsyncExitStack() as resources:
        parts = _build(loaded.settings, resources)
        stream = await resources.enter_async_context(open_stdio_stream())
        connection = Connection(
            stream, parts.server, principal=Principal("stdio", "stdio"), limits=parts.limits, on_event=record
        )

        async def drain() -> None:
            parts.bus.hub.drain()
            await connection.drain(parts.settings.daemon.drain_seconds)

        async def serve_client(*, task_status: trio.TaskStatus[None]) -> None:
            await connection.run(task_status=task_status)
            supervisor.request_stop()

        client = Child("client", serve_client, restart=Restart.TEMPORARY)
        supervisor = Supervisor("redstreamd", (*parts.children, client), on_event=record)
        await _supervise(supervisor, drain)


async def _supervise(supervisor: Supervisor, drain: Callable[[], Awaitable[None]]) -> None:
    """Run `supervisor` until it ends or a signal stops it.

    The first signal drains, then stops. A second one stops at once.
    """

    async def stop_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
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


def _target(settings: Settings, embedded: EmbeddedServer | None) -> Target:
    redis = settings.redis
    if embedded is not None:
        return Target(path=embedded.path, connect_timeout=redis.connect_timeout_seconds)
    return Target(
        host=redis.host,
        port=redis.port,
        path=None if redis.path is None else str(redis.path),
        username=redis.username,
        password=redis.password,
        database=redis.database,
        connect_timeout=redis.connect_timeout_seconds,
    )


def _lease_key(settings: Settings) -> LeaseKey:
    path = settings.daemon.state_directory / "lease.key"
    try:
        return LeaseKey.from_file(path)
    except OSError as error:
        raise SettingsError(
            "daemon.state_directory",
            value=str(settings.daemon.state_directory),
            source=f"{path}: {error.strerror or error}",
            allowed="a directory that redstreamd may create files in",
        ) from error


def _default_address() -> ListenAddress:
    path = paths.default_socket()
    try:
        paths.make_socket_directory(path)
    except OSError as error:
        raise ListenError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from error
    return ListenAddress(Kind.UNIX, path=path)


async def _doors(address: ListenAddress) -> list[Door]:
    if address.kind is Kind.UNIX:
        return [Door(await open_unix_listener(address.path), Principal("unix", "unix"))]
    listeners = await open_tcp_listeners(address.host, address.port)
    return [Door(listener, Principal("tcp", "tcp")) for listener in listeners]
