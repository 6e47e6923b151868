"""Serves one client over a stream that is there already: standard input and output, or a connection."""

from __future__ import annotations

from contextlib import AsyncExitStack

import trio

from redstreamd.daemon.parts import build_parts
from redstreamd.daemon.serving import bus_children, run_parts
from redstreamd.daemon.shutdown import with_hangup
from redstreamd.daemon.sockets import check_connection
from redstreamd.event_log.process_log import ProcessLog
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.peers import peer_of, user_principal
from redstreamd.mcpio.standard_streams import open_stdio_stream
from redstreamd.policy import Principal
from redstreamd.service.child import Child
from redstreamd.service.heartbeats import Heartbeats
from redstreamd.service.restart_policy import Restart
from redstreamd.service.supervisor import Supervisor
from redstreamd.settings import Settings


async def serve_stream(settings: Settings, inherited: trio.abc.Stream | None, log: ProcessLog) -> None:
    """Serve one client until it disconnects or a signal arrives.

    Args:
        settings: What the daemon is built from.
        inherited: The connection; None for standard input and output as two streams.
        log: Run beside.

    Raises:
        ImportFailedError: The SDK cannot be imported.
        SettingsError: The state directory cannot be used, or the connection comes over TCP and cannot be
            asked for what the settings demand.
        StateDirectoryInUseError: Another daemon's embedded server uses it.
    """
    async with AsyncExitStack() as resources:
        parts = build_parts(settings, resources, log)
        stream: trio.abc.Stream
        stream = await resources.enter_async_context(open_stdio_stream()) if inherited is None else inherited
        principal, peer = Principal("stdio", "stdio"), None
        if isinstance(stream, trio.SocketStream):
            check_connection(stream, settings)
            peer = peer_of(stream)
            if settings.listeners.peer_uids and stream.socket.family == trio.socket.AF_UNIX:
                principal = user_principal(principal, peer)
        connection = ClientConnection(
            stream,
            parts.kernels,
            direct_path=parts.direct_path,
            principal=principal,
            peer=peer,
            limits=parts.limits,
            on_event=parts.event_log,
        )

        async def drain() -> None:
            parts.end_waits()
            await connection.drain(settings.daemon.drain_seconds)

        async def serve_client(*, task_status: trio.TaskStatus[None]) -> None:
            await connection.run(task_status=task_status)
            supervisor.request_stop()

        children = [
            Child("log", log.output.run),
            *bus_children(parts, Heartbeats()),
            Child("client", serve_client, restart=Restart.TEMPORARY),
        ]
        supervisor = Supervisor("redstreamd", children, on_event=parts.event_log)
        # One client, whose settings are those that it was started with.
        await run_parts(parts, supervisor, drain, trio.Event(), with_hangup())
