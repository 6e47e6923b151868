"""The whole surface in the test's own process: a bus on a real server, and connections on socket pairs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from redstreamd.admission.claims import SUBSCRIPTIONS, SharedLimit
from redstreamd.mcp_server.handlers import Handlers
from redstreamd.mcp_server.server import build_server
from redstreamd.mcp_server.subscription_server import MAX_URIS
from redstreamd.mcpio.client_connection import ClientConnection
from redstreamd.mcpio.connection_state import ConnectionState
from redstreamd.mcpio.protocol_eras import Kernels
from redstreamd.policy import Principal
from redstreamd.presentation.daemon_health import DaemonHealth
from redstreamd.presentation.views import Views
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.resources.catalog import RESOURCES
from redstreamd.streams.bus import Bus
from redstreamd.streams.subscriptions.feeds import Feeds
from redstreamd.streams.subscriptions.updates import Updates
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile
from redstreamd.tools.toolbox import toolbox_over
from tests.support.buses import running_bus
from tests.support.servers import Server
from tests.support.waiting import until

PRINCIPAL = Principal("tester", "unix")


@attrs.define
class Surface:
    """Everything that a daemon serves, without its listeners."""

    bus: Bus
    updates: Updates
    server: Handlers
    nursery: trio.Nursery

    async def serve(
        self, stream: trio.SocketStream, state: ConnectionState | None = None
    ) -> ClientConnection:
        """Serve one end of a connection."""
        connection = ClientConnection(stream, Kernels(self.server), principal=PRINCIPAL, state=state)
        await self.nursery.start(connection.run)
        return connection

    def drain(self) -> None:
        """End waits and subscriptions, as a daemon that stops does."""
        self.bus.hub.drain()
        self.updates.drain()

    async def settled(self, topics: int) -> None:
        """Return once so many topics are followed and each has a version."""
        await until(lambda: len(self.updates.versions()) == topics and all(self.updates.versions()))


@asynccontextmanager
async def running_surface(
    server: Server, *, max_subscriptions: int = 10_000, max_uris: int = MAX_URIS, **how: Any
) -> AsyncIterator[Surface]:
    """Run a surface on `server` for the block, with the given options of its feeds."""
    async with running_bus(server) as bus, trio.open_nursery() as nursery:
        updates = Updates(Feeds(bus, **how), SharedLimit(SUBSCRIPTIONS, max_subscriptions))
        await nursery.start(updates.run)
        daemon_health = DaemonHealth(bus.redis, bus.hub, updates, version="1")
        built = build_server(
            toolbox_over(bus, REGISTRY, [Profile.WORKER, Profile.RED_STREAM]),
            RESOURCES,
            PROMPTS,
            Views(bus, daemon_health),
            updates,
            version="1",
            instructions=lambda _: "",
            max_uris=max_uris,
        )
        yield Surface(bus, updates, built, nursery)
        nursery.cancel_scope.cancel()
