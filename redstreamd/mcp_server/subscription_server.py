"""Subscriptions to resources, in both eras.

Owns ``subscriptions/listen`` (2026-07-28), ``resources/subscribe`` and ``resources/unsubscribe`` (before).
`subscribable` says what can be subscribed to, `streams.subscriptions.updates` finds the changes,
`update_outlets` sends them, and `update_lines` has their form, and that of cursors.

An update is sent when the client has read the one before. Changes in between are merged, so a client that
does not read costs no more memory than its subscriptions.

A list-changed notification goes to a listen that asked for it. In the handshake era it goes to a connection
that has listed resources since the last one. Of tools and prompts `listing_changes` tells.

When the policy changes, a subscription that it does not permit any more ends with a last notification, so
that the client reads again and is told why it may not.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from typing import Any, Final

import mcp_types
import trio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.errors import BusError, Code
from redstreamd.mcp_server.listing_changes import ListingChanges
from redstreamd.mcp_server.mcp_errors import request_error
from redstreamd.mcp_server.open_listen import OpenListen
from redstreamd.mcp_server.subscribable import Subscribable
from redstreamd.mcp_server.update_lines import CURSORS_KEY, LIST, given_cursors
from redstreamd.mcp_server.update_outlets import ConnectionHandle, ConnectionOutlet, ListenOutlet, Outlet
from redstreamd.policy import Principal
from redstreamd.streams.subscriptions.topics import Topic
from redstreamd.streams.subscriptions.updates import Subscriber, Updates

Context = ServerRequestContext[Principal]

#: URIs that a connection may subscribe to, in all its listens together.
MAX_URIS: Final = 256


class SubscriptionServer:
    """Answers the requests about subscriptions, and sends the notifications."""

    def __init__(
        self,
        subscribable: Subscribable,
        updates: Updates,
        changes: ListingChanges,
        *,
        max_uris: int = MAX_URIS,
    ) -> None:
        """Serve subscriptions.

        Args:
            subscribable: What can be subscribed to.
            updates: Notifies of changes.
            changes: Tells listens of other lists that have changed.
            max_uris: How many URIs a connection may subscribe to, in all its listens together.
        """
        self._subscribable = subscribable
        self._updates = updates
        self._changes = changes
        self._max_uris = max_uris
        # Of connections of the handshake era with a subscription, by ID.
        self._outlets: dict[str, ConnectionOutlet] = {}
        # URIs in the listens of each connection, by ID; no zeros.
        self._listening: Counter[str] = Counter()
        # Of both eras, with whose they are and how they are told.
        self._open: dict[Subscriber, tuple[Principal, Outlet]] = {}

    async def listen(
        self, ctx: Context, params: mcp_types.SubscriptionsListenRequestParams
    ) -> mcp_types.SubscriptionsListenResult:
        """Begin one listen, which lasts until the client cancels it or the daemon stops; see `OpenListen`.

        The acknowledgement names what is watched: URIs of resources that may exist, and the lists. A listen
        that was taken over from another process was acknowledged there, and continues from its cursors.

        Raises:
            MCPError: INVALID_PARAMS for malformed cursors; TOO_MANY_SUBSCRIPTIONS for the whole listen, if
                the connection would subscribe to more than `max_uris`; see `request_error` for others.
        """
        request_id = ctx.request_id
        if request_id is None:
            raise MCPError(mcp_types.INVALID_REQUEST, "subscriptions/listen requires a request id")
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: request_id}
        cursors: dict[str, str] = {} if ctx.request is None else ctx.request.cursors
        taken_over = bool(cursors)
        given = given_cursors(params.meta)
        known = cursors if taken_over else given or {}
        connection, request = _connection(ctx), ctx.request
        if connection is None or request is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This connection cannot listen.")
        wanted = params.notifications
        topics = self._topics(ctx, connection, wanted)
        asked = {"tools": wanted.tools_list_changed, "prompts": wanted.prompts_list_changed}
        kinds = [kind for kind, is_wanted in asked.items() if is_wanted]
        principal, exchange = ctx.lifespan_context, request.exchange
        outlet = ListenOutlet(connection, exchange, cursors, tells_cursors=given is not None)
        # The acknowledgement comes first.
        subscriber = self._updates.open_subscriber(outlet, is_held=True)
        uris = len(topics.keys() - {LIST})
        self._listening[connection.connection_id] += uris
        listen = OpenListen(exchange, subscriber, uris, self._close_listen)
        try:
            versions = {
                name: await subscriber.add(name, topic, known=known.get(name))
                for name, topic in topics.items()
            }
            # The policy may have changed meanwhile.
            while LIST in topics and topics[LIST] != (topic := self._subscribable.list_for(principal)):
                topics[LIST] = topic
                subscriber.remove(LIST)
                versions[LIST] = await subscriber.add(LIST, topic, known=known.get(LIST))
            for name in [each for each in versions if not self._is_permitted(principal, each)]:
                del versions[name]
                subscriber.remove(name)
                if taken_over:
                    outlet.send_last(name)
            # Without a checkpoint before the acknowledgement: a successor process finds both or neither, and
            # `reconfigure` what was acknowledged.
            cursors.update(versions)
            self._open[subscriber] = principal, outlet
            listen.listed = self._changes.listen(kinds, principal, outlet.send_list_changed)
            if not taken_over:
                honored = mcp_types.SubscriptionFilter(
                    resources_list_changed=True if LIST in versions else None,
                    tools_list_changed=True if "tools" in kinds else None,
                    prompts_list_changed=True if "prompts" in kinds else None,
                    resource_subscriptions=[name for name in versions if name != LIST] or None,
                )
                await ctx.session.send_notification(
                    mcp_types.SubscriptionsAcknowledgedNotification(
                        params=mcp_types.SubscriptionsAcknowledgedNotificationParams(
                            notifications=honored,
                            _meta=meta if given is None else {**meta, CURSORS_KEY: versions},
                        )
                    ),
                    related_request_id=request_id,
                )
        except BusError as error:
            self._close_listen(listen)
            raise request_error(error) from error
        except BaseException:
            self._close_listen(listen)
            raise
        subscriber.release()
        exchange.lasting = listen.last
        return mcp_types.SubscriptionsListenResult(_meta=meta)

    def _is_permitted(self, principal: Principal, name: str) -> bool:
        return name == LIST or self._subscribable.is_permitted(principal, name)

    def _close_listen(self, listen: OpenListen) -> None:
        connection_id = listen.exchange.session.connection_id
        self._listening[connection_id] -= listen.uris
        if not self._listening[connection_id]:
            del self._listening[connection_id]
        if listen.listed is not None:
            self._changes.leave(listen.listed)
            del self._open[listen.subscriber]
        listen.subscriber.close()

    async def subscribe(
        self, ctx: Context, params: mcp_types.SubscribeRequestParams
    ) -> mcp_types.EmptyResult:
        """Subscribe a connection of the handshake era to one resource.

        Raises:
            MCPError: "Resource not found"; TOO_MANY_SUBSCRIPTIONS beyond `max_uris`; INVALID_PARAMS for
                malformed cursors; see `resource_error` for others.
        """
        uri, connection = params.uri, _connection(ctx)
        given = given_cursors(params.meta)
        topic = self._subscribable.find(ctx, uri)
        if connection is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This connection cannot subscribe.", {"uri": uri})
        if uri not in connection.subscriptions and len(connection.subscriptions) >= self._max_uris:
            raise request_error(self._too_many())
        known = ctx.request.cursors.get(uri) if ctx.request is not None else None
        if known is None and given is not None and (known := given.get(uri)) is not None:
            # Subscribed already, it would be notified of the next change only.
            self._end_subscription(connection, uri)
        connection.subscriptions.setdefault(uri, "")
        try:
            outlet = self._outlet(connection)
            outlet.tells_cursors |= given is not None
            version = await outlet.subscriber.add(uri, topic, known=known)
        except BusError as error:
            connection.subscriptions.pop(uri, None)
            raise request_error(error) from error
        except trio.Cancelled:
            # The client did not wait for it, and is not subscribed.
            connection.subscriptions.pop(uri, None)
            raise
        if uri in connection.subscriptions:
            connection.subscriptions[uri] = version
        if given is not None:
            return mcp_types.EmptyResult(_meta={CURSORS_KEY: {uri: version}})
        return mcp_types.EmptyResult()

    async def unsubscribe(
        self, ctx: Context, params: mcp_types.UnsubscribeRequestParams
    ) -> mcp_types.EmptyResult:
        """End a subscription. Idempotent."""
        if (connection := _connection(ctx)) is not None:
            self._end_subscription(connection, params.uri)
        return mcp_types.EmptyResult()

    def _end_subscription(self, connection: ConnectionHandle, uri: str) -> None:
        connection.subscriptions.pop(uri, None)
        if (outlet := self._outlets.get(connection.connection_id)) is not None:
            outlet.subscriber.remove(uri)

    async def note_listing(self, ctx: Context, version: str) -> None:
        """Notify the client when the streams are no longer those of the version that it was given."""
        topic = self._subscribable.list_for(ctx.lifespan_context)
        # A stream that is deleted before the next check is a change, too.
        self._updates.observe(topic, version)
        connection = _connection(ctx)
        if connection is not None and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            # Beyond the limit of subscriptions the client still gets its listing.
            with contextlib.suppress(BusError):
                await self._outlet(connection).subscriber.add(LIST, topic, known=version)

    async def reconfigure(self) -> None:
        """End what the policy does not permit any more, and let lists be those that it permits now."""
        for subscriber, (principal, outlet) in list(self._open.items()):
            list_now = self._subscribable.list_for(principal)
            for name, topic in list(subscriber.topics()):
                if name == LIST:
                    if topic == list_now:
                        continue
                elif self._subscribable.is_permitted(principal, name):
                    continue
                subscriber.remove(name)
                outlet.send_last(name)
                if name == LIST and outlet.keeps_list:
                    # As before, but for other streams. What changes meanwhile the client reads after this.
                    with contextlib.suppress(BusError):
                        await subscriber.add(LIST, list_now)
            await trio.lowlevel.checkpoint()

    def _topics(
        self, ctx: Context, connection: ConnectionHandle, wanted: mcp_types.SubscriptionFilter
    ) -> dict[str, Topic]:
        """Return the topics of a filter, URIs and the list.

        Raises:
            MCPError: TOO_MANY_SUBSCRIPTIONS.
        """
        most = self._max_uris - self._listening[connection.connection_id]
        uris = dict.fromkeys(wanted.resource_subscriptions or ())
        topics = self._subscribable.find_all(ctx, uris, most)
        if len(topics) > most:
            raise request_error(self._too_many())
        if wanted.resources_list_changed:
            topics[LIST] = self._subscribable.list_for(ctx.lifespan_context)
        return topics

    def _outlet(self, connection: ConnectionHandle) -> ConnectionOutlet:
        """Return the outlet of a connection of the handshake era; opens its subscriber at the first call."""
        outlet = self._outlets.get(connection.connection_id)
        if outlet is None:
            outlet = ConnectionOutlet(connection)
            outlet.subscriber = self._updates.open_subscriber(outlet)
            if connection.start_soon(functools.partial(self._keep, connection, outlet)):
                self._outlets[connection.connection_id] = outlet
            else:
                # The connection is ending, and the caller about to be cancelled.
                outlet.subscriber.close()
        return outlet

    async def _keep(self, connection: ConnectionHandle, outlet: ConnectionOutlet) -> None:
        """Keep a subscriber until the connection ends or the daemon stops."""
        subscriber, ended = outlet.subscriber, trio.Event()
        self._open[subscriber] = connection.principal, outlet
        subscriber.on_ended = ended.set
        subscriber.end_if_told()
        try:
            await ended.wait()
        finally:
            del self._open[subscriber], self._outlets[connection.connection_id]
            subscriber.close()

    def _too_many(self) -> BusError:
        return BusError(
            Code.TOO_MANY_SUBSCRIPTIONS,
            "This connection would have too many subscriptions.",
            cause=f"A connection may subscribe to {self._max_uris} resources.",
            next_step="Subscribe to less, end a subscription first, or open another connection.",
        )


def _connection(ctx: Context) -> ConnectionHandle | None:
    """Return the connection of a request; None where the SDK itself drives the connection."""
    return None if ctx.request is None else ctx.request.session
