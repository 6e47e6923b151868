"""How MCP clients subscribe to resources, in both eras.

Owns ``subscriptions/listen`` (2026-07-28), ``resources/subscribe`` and ``resources/unsubscribe`` (before),
and what is sent because of them. What changed is found by `streams.updates`; how lines reach the peer is
the connection's business.

In both eras an update is sent only when the peer has read what was sent before, and says once what
changed any number of times meanwhile. So a subscriber that does not read costs its subscriptions and nothing
more.

A list-changed notification goes to a listen that asked for it, and in the handshake era to a connection
that has listed resources since the last one: who never listed has nothing that could be out of date.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import mcp_types
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.errors import BusError, Code
from redstreamd.mcp_server.mcp_errors import refused, refused_read, resource_not_found
from redstreamd.policy import Principal
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import Found, Library
from redstreamd.streams.subscriptions.topics import ListTopic, Topic
from redstreamd.streams.subscriptions.updates import Subscriber, Updates

Context = ServerRequestContext[Principal]

#: Addresses that one connection may subscribe to, in all its listens together.
MAX_URIS: Final = 256
#: Names the list of resources among addresses, none of which looks like it.
_LIST: Final = "resources/list"


class ConnectionHandle(Protocol):
    """What is needed of a connection, for what outlives a request; `mcpio` provides it."""

    connection_id: str
    subscriptions: dict[str, str]

    def start_soon(self, task: Any) -> bool:
        """Run a task for as long as the connection lives; False if it is about to end."""
        ...

    def flushed(self) -> Awaitable[None]:
        """Return once the peer has read what was sent to it."""
        ...


class Subscriptions:
    """Answers what has to do with subscribing, and sends the notifications."""

    def __init__(self, library: Library, facts: Views, updates: Updates) -> None:
        """Subscribe to resources of `library`, told by `updates`."""
        self._library = library
        self._facts = facts
        self._updates = updates
        # Connections of the handshake era that are to be told of anything.
        self._sessions: dict[str, Subscriber] = {}
        # To how many addresses each connection listens, if to any.
        self._listening: Counter[str] = Counter()

    async def listen(
        self, ctx: Context, params: mcp_types.SubscriptionsListenRequestParams
    ) -> mcp_types.SubscriptionsListenResult:
        """Serve one listen until the client cancels it or the daemon stops.

        Acknowledges first what it will tell of: resources that exist or may come to exist, and the list.
        Tools and prompts do not change while the daemon runs, so they are left out. A listen that
        was taken over from another process was acknowledged there, and goes on from its cursors.
        """
        request_id = ctx.request_id
        if request_id is None:
            raise MCPError(mcp_types.INVALID_REQUEST, "subscriptions/listen requires a request id")
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: request_id}
        cursors: dict[str, str] = {} if ctx.request is None else ctx.request.cursors
        taken_over = bool(cursors)
        with self._updates.subscriber() as subscriber, self._topics(ctx, params.notifications) as topics:
            try:
                versions = {
                    name: await subscriber.add(name, topic, told=cursors.get(name))
                    for name, topic in topics.items()
                }
            except BusError as error:
                raise refused(error) from error
            # In the same step as the acknowledgement: a successor finds both or neither.
            cursors.update(versions)
            if not taken_over:
                honored = mcp_types.SubscriptionFilter(
                    resources_list_changed=True if _LIST in topics else None,
                    resource_subscriptions=[name for name in topics if name != _LIST] or None,
                )
                await ctx.session.send_notification(
                    mcp_types.SubscriptionsAcknowledgedNotification(
                        params=mcp_types.SubscriptionsAcknowledgedNotificationParams(
                            notifications=honored, _meta=meta
                        )
                    ),
                    related_request_id=request_id,
                )
            while changes := await subscriber.next_changes():
                for name, version in changes.items():
                    await ctx.session.send_notification(_changed(name, meta), related_request_id=request_id)
                    cursors[name] = version
                if (peer := _peer(ctx)) is not None:
                    await peer.flushed()
        return mcp_types.SubscriptionsListenResult(_meta=meta)

    async def subscribe(
        self, ctx: Context, params: mcp_types.SubscribeRequestParams
    ) -> mcp_types.EmptyResult:
        """Subscribe a connection of the handshake era to one resource."""
        uri, peer = params.uri, _peer(ctx)
        found = self._library.find(uri)
        if found is None:
            raise resource_not_found(uri, ctx.protocol_version, "resources/templates/list says which exist.")
        topic = self._topic(found, uri, ctx.protocol_version)
        if topic is None or peer is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This resource cannot be subscribed to.", {"uri": uri})
        if uri not in peer.subscriptions and len(peer.subscriptions) >= MAX_URIS:
            raise refused(_too_many())
        told = ctx.request.cursors.get(uri) if ctx.request is not None else None
        peer.subscriptions.setdefault(uri, "")
        try:
            version = await self._session(ctx, peer).add(uri, topic, told=told)
        except BusError as error:
            peer.subscriptions.pop(uri, None)
            raise refused(error) from error
        if uri in peer.subscriptions:
            peer.subscriptions[uri] = version
        return mcp_types.EmptyResult()

    async def unsubscribe(
        self, ctx: Context, params: mcp_types.UnsubscribeRequestParams
    ) -> mcp_types.EmptyResult:
        """End a subscription; one that there is not is no error."""
        if (peer := _peer(ctx)) is not None:
            peer.subscriptions.pop(params.uri, None)
            if (session := self._sessions.get(peer.connection_id)) is not None:
                session.remove(params.uri)
        return mcp_types.EmptyResult()

    async def has_listed(self, ctx: Context, names: Sequence[str]) -> None:
        """Note that a client is given these streams as all there are, and wants to know when that changes."""
        topic, version = ListTopic(), ListTopic.version_of(names)
        # If a stream that is new among them goes before the next look, that is a change, too.
        self._updates.seen(topic, version)
        peer = _peer(ctx)
        if peer is not None and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            # With too many subscriptions the list is still worth reading.
            with contextlib.suppress(BusError):
                await self._session(ctx, peer).add(_LIST, topic, told=version)

    @contextlib.contextmanager
    def _topics(self, ctx: Context, wanted: mcp_types.SubscriptionFilter) -> Iterator[dict[str, Topic]]:
        """Give what a filter asks for and can be told of, as far as its connection has room for the block."""
        peer = _peer(ctx)
        connection = "" if peer is None else peer.connection_id
        topics = self._found(wanted, MAX_URIS - self._listening[connection])
        taken = len(topics.keys() - {_LIST})
        self._listening[connection] += taken
        try:
            yield topics
        finally:
            self._listening[connection] -= taken
            if not self._listening[connection]:
                del self._listening[connection]

    def _found(self, wanted: mcp_types.SubscriptionFilter, room: int) -> dict[str, Topic]:
        """Return the first `room` addresses that a filter asks for and can be told of, and the list."""
        topics: dict[str, Topic] = {}
        for uri in dict.fromkeys(wanted.resource_subscriptions or ()):
            found = self._library.find(uri)
            if found is not None and len(topics) < room:
                try:
                    self._check(found)
                except BusError:
                    continue
                if (topic := found.topic) is not None:
                    topics[uri] = topic
        if wanted.resources_list_changed:
            topics[_LIST] = ListTopic()
        return topics

    def _topic(self, found: Found, uri: str, version: str) -> Topic | None:
        try:
            self._check(found)
        except BusError as error:
            raise refused_read(error, uri, version) from error
        return found.topic

    def _check(self, found: Found) -> None:
        for stream in found.streams:
            self._facts.check(stream, found.parts.get("group"))

    def _session(self, ctx: Context, peer: ConnectionHandle) -> Subscriber:
        """Return the subscriber of a connection of the handshake era, begun when first needed."""
        session = self._sessions.get(peer.connection_id)
        if session is None:
            session = self._updates.open_subscriber()
            if peer.start_soon(partial(self._tell, session, peer, ctx.session)):
                self._sessions[peer.connection_id] = session
        return session

    async def _tell(self, session: Subscriber, peer: ConnectionHandle, outbound: ServerSession) -> None:
        """Send a connection what it subscribed to, until it ends or the daemon stops."""
        try:
            while changes := await session.next_changes():
                for name, version in changes.items():
                    if name == _LIST:
                        session.remove(_LIST)
                    elif name in peer.subscriptions:
                        peer.subscriptions[name] = version
                    await outbound.send_notification(_changed(name, None))
                await peer.flushed()
        finally:
            session.close()
            del self._sessions[peer.connection_id]


def _changed(name: str, meta: Mapping[str, Any] | None) -> mcp_types.ServerNotification:
    stamp = None if meta is None else dict(meta)
    if name == _LIST:
        params = None if stamp is None else mcp_types.NotificationParams(_meta=stamp)
        return mcp_types.ResourceListChangedNotification(params=params)
    return mcp_types.ResourceUpdatedNotification(
        params=mcp_types.ResourceUpdatedNotificationParams(uri=name, _meta=stamp)
    )


def _peer(ctx: Context) -> ConnectionHandle | None:
    """Return the connection behind a request; None in a process that drives the SDK itself."""
    return None if ctx.request is None else ctx.request.connection


def _too_many() -> BusError:
    return BusError(
        Code.RATE_LIMITED,
        "This connection has too many subscriptions.",
        cause=f"It may have {MAX_URIS}.",
        next_step="End one with resources/unsubscribe, or open another connection.",
    )
