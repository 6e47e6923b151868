"""Streamable HTTP over a `Surface`, and its client: another way beside those of `two_ways`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio

from redstreamd.admission.accounts import Accounts, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.connection_events import Event
from redstreamd.mcpio.limits import Limits
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_access import HttpAccess
from redstreamd.streamable_http.http_connection import HttpConnection
from redstreamd.streamable_http.http_limits import HttpLimits
from redstreamd.streamable_http.http_messages import Site, Surroundings
from redstreamd.streamable_http.http_site import HttpSite
from redstreamd.tools.catalog import REGISTRY
from tests.mcpio.serving import socket_pair
from tests.support.calls import ME
from tests.support.streamable_client import Reply, StreamableClient, meant
from tests.support.two_ways import Surface

#: A gigabyte, which nothing here comes near to.
_MEMORY = 1 << 30
_HEAD = 1 << 20


@attrs.define
class HttpWay:
    """The client of a revision.

    Attributes:
        client: The client.
        altered: Changes the headers of a message before it is sent.
        events: What its connections reported.
    """

    client: StreamableClient
    altered: Callable[[dict[str, str]], None]
    events: list[Event]

    async def talk(self, line: bytes) -> Reply:
        """Send a message, with the headers that fit it, and return what is answered."""
        headers = self.client.headers(meant(line))
        self.altered(headers)
        return await self.client.post(line, headers)


@asynccontextmanager
async def running_http_way(
    surface: Surface,
    *,
    revision: str,
    principal: Principal = ME,
    limits: Limits | None = None,
    site: Callable[[HttpSite], Site] = lambda site: site,
    altered: Callable[[dict[str, str]], None] = lambda _: None,
) -> AsyncIterator[HttpWay]:
    """Serve a client for the block, who has begun a session if the revision has such.

    Args:
        surface: What it is served.
        revision: What it speaks.
        principal: Whose requests they are.
        limits: Of messages.
        site: Returns what is served in the place of a site.
        altered: See `HttpWay`.
    """
    events: list[Event] = []
    accounts = Accounts()
    # Headers repeat names, however long these are.
    bounds = HttpLimits(max_head_bytes=_HEAD)
    memory = Memory(accounts, _MEMORY)
    around = Surroundings(limits or Limits(), bounds, accounts, memory, events.append)
    access = HttpAccess(
        hosts=["localhost"], origins=(), tokens=None, oauth=None, metadata_url=None, report=events.append
    )
    headers = surface.path.toolbox.headers_of
    served = HttpSite(around, surface.kernels, surface.path, access, tool_headers=headers)
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.SocketStream:
            ours, theirs = socket_pair()
            connection = HttpConnection(ours, site(served), around, principal=principal, peer=Peer())
            await nursery.start(connection.run)
            return theirs

        nursery.start_soon(served.sessions.run)
        client = StreamableClient(connect, revision)
        try:
            await client.initialize()
            # It is as over other transports to everything but the endpoint, and so is the listing.
            client.params = {
                tool.name: {(argument,): header for argument, header in headers(tool.name).items()}
                for tool in REGISTRY
            }
            yield HttpWay(client, altered, events)
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()
        nursery.cancel_scope.cancel()
