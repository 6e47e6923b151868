"""Subscriptions to resources, in both eras.

Owns ``subscriptions/listen`` (2026-07-28), ``resources/subscribe`` and ``resources/unsubscribe`` (before),
and their notifications. `streams.subscriptions.updates` finds the changes.

An update is sent when the client has read the one before. Changes in between are merged, so a client that
does not read costs no more memory than its subscriptions. The bytes of an update are made once for all
subscribers; those of a listen differ in its ID only.

A list-changed notification goes to a listen that asked for it. In the handshake era it goes to a connection
that has listed resources since the last one. Of tools and prompts `listing_changes` tells.

When the policy changes, a subscription that it does not permit any more ends with a last notification, so
that the client reads again and is told why it may not.

A request to subscribe or listen may have `CURSORS_KEY` in its `_meta`: an object, name -> cursor, of what the
client was told over an earlier connection; it may be empty. Then changes since these are notified, and the
answer to the request, the acknowledgement and the notifications carry the same member with the cursors that
the client knows from then on. The names are URIs, and "resources/list" for the list. A client without it gets
none, since some accept nothing but an empty object as an answer.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import Any, Final, Protocol

import mcp_types
import trio
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from redstreamd.errors import BusError, Code
from redstreamd.mcp_server.listing_changes import ListingChanges, list_changed
from redstreamd.mcp_server.mcp_errors import (
    NONE_SUCH,
    request_error,
    resource_error,
    resource_hidden,
    resource_not_found,
)
from redstreamd.mcp_server.refusals import Refusals
from redstreamd.mcpio import jsonrpc
from redstreamd.policy import Principal
from redstreamd.presentation.views import Views
from redstreamd.resources.definition import ResolvedResource, ResourceRegistry
from redstreamd.streams.subscriptions.topics import ListTopic, Topic
from redstreamd.streams.subscriptions.updates import Subscriber, Updates

Context = ServerRequestContext[Principal]

#: URIs that a connection may subscribe to, in all its listens together.
MAX_URIS: Final = 256
#: Stands for the list of resources among URIs; it is not a valid one.
_LIST: Final = "resources/list"
#: What has a list among the names of notifications; no URI is one of them.
_LISTS: Final = {f"{kind}/list": kind for kind in ("resources", "tools", "prompts")}
#: The member of `_meta` with cursors; `client.subscription_memory` has the other side.
CURSORS_KEY: Final = "redstreamd/cursors"


class Outbox(Protocol):
    """A queue of messages to a client."""

    @property
    def size(self) -> int:
        """Bytes that the client's socket has not accepted yet."""
        ...

    def send(self, line: bytes, *, is_last: bool = False) -> None:
        """Queue a message; never blocks. `is_last` says that no other is expected soon."""
        ...


class ConnectionHandle(Protocol):
    """A connection, for what outlives a request; `mcpio` provides it."""

    connection_id: str
    principal: Principal
    subscriptions: dict[str, str]

    @property
    def sink(self) -> Outbox:
        """Where messages to the client are queued."""
        ...

    def start_soon(self, task: Any) -> bool:
        """Run a task until the connection ends; False if it is closing."""
        ...

    def flushed(self) -> Awaitable[None]:
        """Return when the client has read all that was sent to it."""
        ...


class SubscriptionServer:
    """Answers the requests about subscriptions, and sends the notifications."""

    def __init__(
        self,
        resources: ResourceRegistry,
        views: Views,
        updates: Updates,
        changes: ListingChanges,
        *,
        refusals: Refusals,
        max_uris: int = MAX_URIS,
    ) -> None:
        """Serve subscriptions to `resources`.

        Args:
            resources: What can be subscribed to.
            views: Checks the names in URIs.
            updates: Notifies of changes.
            changes: Tells listens of other lists that have changed.
            refusals: Is told of URIs that the policy refuses.
            max_uris: How many URIs a connection may subscribe to, in all its listens together.
        """
        self._refusals = refusals
        self._resources = resources
        self._views = views
        self._updates = updates
        self._changes = changes
        self._max_uris = max_uris
        # Connections of the handshake era with a subscription, by ID.
        self._subscribers: dict[str, Subscriber] = {}
        # Those of them that asked for cursors, by ID.
        self._told_cursors: set[str] = set()
        # URIs in the listens of each connection, by ID; no zeros.
        self._listening: Counter[str] = Counter()
        # Of both eras, with whose they are and how they are told.
        self._open: dict[Subscriber, tuple[Principal, _Outlet]] = {}

    async def listen(
        self, ctx: Context, params: mcp_types.SubscriptionsListenRequestParams
    ) -> mcp_types.SubscriptionsListenResult:
        """Serve one listen until the client cancels it or the daemon stops.

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
        given = _cursors(params.meta)
        known = cursors if taken_over else given or {}
        connection, request = _connection(ctx), ctx.request
        if connection is None or request is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This connection cannot listen.")
        outlet = _ListenOutlet(
            connection, request, jsonrpc.encode_value(request_id), cursors, given is not None
        )
        subscriber = self._updates.open_subscriber(outlet)
        wanted = params.notifications
        asked = {"tools": wanted.tools_list_changed, "prompts": wanted.prompts_list_changed}
        kinds = [kind for kind, is_wanted in asked.items() if is_wanted]
        with (
            contextlib.closing(subscriber),
            self._kept(subscriber, ctx.lifespan_context, outlet),
            self._changes.listening(kinds, ctx.lifespan_context, outlet.send_list_changed),
            self._topics(ctx, wanted) as topics,
        ):
            try:
                versions = {
                    name: await subscriber.add(name, topic, known=known.get(name))
                    for name, topic in topics.items()
                }
            except BusError as error:
                raise request_error(error) from error
            # Without a checkpoint before the acknowledgement: a successor process finds both or neither.
            cursors.update(versions)
            if not taken_over:
                honored = mcp_types.SubscriptionFilter(
                    resources_list_changed=True if _LIST in topics else None,
                    tools_list_changed=True if "tools" in kinds else None,
                    prompts_list_changed=True if "prompts" in kinds else None,
                    resource_subscriptions=[name for name in topics if name != _LIST] or None,
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
            subscriber.release()
            await subscriber.ended()
        return mcp_types.SubscriptionsListenResult(_meta=meta)

    async def subscribe(
        self, ctx: Context, params: mcp_types.SubscribeRequestParams
    ) -> mcp_types.EmptyResult:
        """Subscribe a connection of the handshake era to one resource.

        Raises:
            MCPError: "Resource not found"; TOO_MANY_SUBSCRIPTIONS beyond `max_uris`; INVALID_PARAMS for
                malformed cursors; see `resource_error` for others.
        """
        uri, connection = params.uri, _connection(ctx)
        given = _cursors(params.meta)
        views = self._views.seen_by(ctx.lifespan_context)
        found = self._resources.find(uri)
        if found is None:
            raise resource_not_found(uri, ctx.protocol_version, NONE_SUCH)
        if not found.is_offered(views):
            raise resource_hidden(uri, ctx.protocol_version, NONE_SUCH, found.streams)
        try:
            topic = self._topic(found, views)
        except BusError as error:
            raise resource_error(error, uri, ctx.protocol_version, found.streams) from error
        if topic is None or connection is None:
            raise MCPError(mcp_types.INVALID_PARAMS, "This resource cannot be subscribed to.", {"uri": uri})
        if uri not in connection.subscriptions and len(connection.subscriptions) >= self._max_uris:
            raise request_error(self._too_many())
        known = ctx.request.cursors.get(uri) if ctx.request is not None else None
        if known is None and given is not None and (known := given.get(uri)) is not None:
            # Subscribed already, it would be notified of the next change only.
            self._end_subscription(connection, uri)
        connection.subscriptions.setdefault(uri, "")
        try:
            subscriber = self._subscriber(ctx, connection)
            if given is not None and connection.connection_id in self._subscribers:
                self._told_cursors.add(connection.connection_id)
            version = await subscriber.add(uri, topic, known=known)
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
        if (subscriber := self._subscribers.get(connection.connection_id)) is not None:
            subscriber.remove(uri)

    async def note_listing(self, ctx: Context, version: str) -> None:
        """Notify the client when the streams are no longer those of the version that it was given."""
        topic = ListTopic(self._views.seen_by(ctx.lifespan_context).readable)
        # A stream that is deleted before the next check is a change, too.
        self._updates.observe(topic, version)
        connection = _connection(ctx)
        if connection is not None and ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            # Beyond the limit of subscriptions the client still gets its listing.
            with contextlib.suppress(BusError):
                await self._subscriber(ctx, connection).add(_LIST, topic, known=version)

    async def reconfigure(self) -> None:
        """End what the policy does not permit any more, and let lists be those that it permits now."""
        for subscriber, (principal, outlet) in list(self._open.items()):
            views = self._views.seen_by(principal)
            for name, topic in list(subscriber.topics()):
                if name == _LIST:
                    if topic == ListTopic(views.readable):
                        continue
                elif self._is_permitted(name, views):
                    continue
                subscriber.remove(name)
                outlet.send_last(name)
                if name == _LIST and outlet.keeps_list:
                    # As before, but for other streams. What changes meanwhile the client reads after this.
                    with contextlib.suppress(BusError):
                        await subscriber.add(_LIST, ListTopic(views.readable))
            await trio.lowlevel.checkpoint()

    def _is_permitted(self, uri: str, views: Views) -> bool:
        found = self._resources.find(uri)
        if found is None or not found.is_offered(views):
            return False
        try:
            return self._topic(found, views) is not None
        except BusError:
            return False

    @contextlib.contextmanager
    def _kept(self, subscriber: Subscriber, principal: Principal, outlet: _Outlet) -> Iterator[None]:
        """Let `reconfigure` look at a subscriber during the block."""
        self._open[subscriber] = principal, outlet
        try:
            yield
        finally:
            del self._open[subscriber]

    @contextlib.contextmanager
    def _topics(self, ctx: Context, wanted: mcp_types.SubscriptionFilter) -> Iterator[dict[str, Topic]]:
        """Yield the topics of a filter, and count them against the connection's limit for the block."""
        connection = _connection(ctx)
        connection_id = "" if connection is None else connection.connection_id
        most = self._max_uris - self._listening[connection_id]
        topics = self._find_topics(ctx, wanted, most)
        taken = len(topics.keys() - {_LIST})
        self._listening[connection_id] += taken
        try:
            yield topics
        finally:
            self._listening[connection_id] -= taken
            if not self._listening[connection_id]:
                del self._listening[connection_id]

    def _find_topics(self, ctx: Context, wanted: mcp_types.SubscriptionFilter, most: int) -> dict[str, Topic]:
        """Return the topics of the URIs of a filter that can be watched, and of the list.

        Raises:
            MCPError: TOO_MANY_SUBSCRIPTIONS if more than `most` can be watched.
        """
        views = self._views.seen_by(ctx.lifespan_context)
        topics: dict[str, Topic] = {}
        refused: dict[str, None] = {}
        for uri in dict.fromkeys(wanted.resource_subscriptions or ()):
            found = self._resources.find(uri)
            if found is not None and not found.is_offered(views):
                refused |= dict.fromkeys(found.streams)
            elif found is not None:
                try:
                    topic = self._topic(found, views)
                except BusError as error:
                    if error.code is Code.PERMISSION_DENIED:
                        refused |= dict.fromkeys(found.streams)
                    continue
                if topic is not None:
                    if len(topics) >= most:
                        raise request_error(self._too_many())
                    topics[uri] = topic
        if refused:
            # The client is told by what the acknowledgement leaves out.
            self._refusals.tell(ctx, tuple(refused))
        if wanted.resources_list_changed:
            topics[_LIST] = ListTopic(views.readable)
        return topics

    def _topic(self, found: ResolvedResource, views: Views) -> Topic | None:
        """Return what is watched of a resource; None if subscribing to it is not possible.

        Raises:
            BusError: INVALID_STREAM, INVALID_GROUP, PERMISSION_DENIED.
        """
        found.authorise(views)
        for stream in found.streams:
            views.check(stream, found.variables.get("group"))
        topic = found.topic
        return ListTopic(views.readable) if isinstance(topic, ListTopic) else topic

    def _subscriber(self, ctx: Context, connection: ConnectionHandle) -> Subscriber:
        """Return the subscriber of a connection of the handshake era; opens it at the first call."""
        subscriber = self._subscribers.get(connection.connection_id)
        if subscriber is None:
            outlet = _ConnectionOutlet(connection, self._told_cursors)
            subscriber = outlet.subscriber = self._updates.open_subscriber(outlet)
            keep = functools.partial(self._keep, subscriber, connection, outlet)
            if connection.start_soon(keep):
                self._subscribers[connection.connection_id] = subscriber
        return subscriber

    async def _keep(
        self, subscriber: Subscriber, connection: ConnectionHandle, outlet: _ConnectionOutlet
    ) -> None:
        """Keep a subscriber until the connection ends or the daemon stops."""
        try:
            with self._kept(subscriber, connection.principal, outlet):
                await subscriber.ended()
        finally:
            subscriber.close()
            del self._subscribers[connection.connection_id]
            self._told_cursors.discard(connection.connection_id)

    def _too_many(self) -> BusError:
        return BusError(
            Code.TOO_MANY_SUBSCRIPTIONS,
            "This connection would have too many subscriptions.",
            cause=f"A connection may subscribe to {self._max_uris} resources.",
            next_step="Subscribe to less, end a subscription first, or open another connection.",
        )


class _Outlet(Protocol):
    """Where a subscription ends that is not permitted any more."""

    keeps_list: bool

    def send_last(self, name: str) -> None:
        """Notify of a topic that was removed."""
        ...


class _ConnectionOutlet:
    """Sends the updates of a connection of the handshake era."""

    subscriber: Subscriber
    #: The client's next listing subscribes to the list again.
    keeps_list = False

    def __init__(self, connection: ConnectionHandle, told_cursors: Collection[str]) -> None:
        """Send cursors, too, while the connection's ID is in `told_cursors`."""
        self._connection = connection
        self._told_cursors = told_cursors
        self.flushed: Final = connection.flushed
        self.start_soon: Final = connection.start_soon

    @property
    def has_read(self) -> bool:
        return self._connection.sink.size == 0

    def send(self, name: str, version: str) -> None:
        connection = self._connection
        if name == _LIST:
            self.subscriber.remove(_LIST)
        elif name in connection.subscriptions:
            connection.subscriptions[name] = version
        told = version if connection.connection_id in self._told_cursors else None
        line, _ = _update(name, told, of_listen=False)
        # Several may change together, and then are one write.
        connection.sink.send(line, is_last=len(connection.subscriptions) <= 1)

    def send_last(self, name: str) -> None:
        line, _ = _update(name, None, of_listen=False)
        self._connection.subscriptions.pop(name, None)
        self._connection.sink.send(line)


class _ListenOutlet:
    """Sends the updates of a listen."""

    keeps_list = True

    def __init__(
        self,
        connection: ConnectionHandle,
        request: Any,
        request_id: bytes,
        cursors: dict[str, str],
        tells_cursors: bool,
    ) -> None:
        """Send through the context `request`, whose ID is encoded, and keep `cursors` up to date."""
        self._sink = connection.sink
        self._send: Callable[[bytes], None] = request.send_line
        self._request_id = request_id
        self._cursors = cursors
        self._tells_cursors = tells_cursors
        self.flushed: Final = connection.flushed
        self.start_soon: Final = connection.start_soon

    @property
    def has_read(self) -> bool:
        return self._sink.size == 0

    def send(self, name: str, version: str) -> None:
        self._cursors[name] = version
        self._tell(name, version if self._tells_cursors else None)

    def send_last(self, name: str) -> None:
        self._cursors.pop(name, None)
        self._tell(name, None)

    def send_list_changed(self, kind: str) -> None:
        self._tell(f"{kind}/list", None)

    def _tell(self, name: str, version: str | None) -> None:
        before, after = _update(name, version, of_listen=True)
        self._send(b"".join((before, self._request_id, after)))


@functools.lru_cache(maxsize=256)
def _update(name: str, version: str | None, *, of_listen: bool) -> tuple[bytes, bytes]:
    """Return the line that notifies of a change; of a listen, what is before and what is after its ID.

    As the SDK writes it. A version is told as a cursor.
    """
    meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: 0} if of_listen else {}
    if version is not None:
        meta[CURSORS_KEY] = {name: version}
    params: dict[str, Any] = {"_meta": meta} if meta else {}
    kind = _LISTS.get(name)
    if kind is not None:
        line = list_changed(kind, params or None)
    else:
        line = jsonrpc.notification("notifications/resources/updated", params | {"uri": name})
    if not of_listen:
        return line, b""
    before, key, after = line.partition(b'"%b":' % SUBSCRIPTION_ID_META_KEY.encode())
    return before + key, after[1:]


def _cursors(meta: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return the cursors that a request names; None if it has no such member.

    Raises:
        MCPError: INVALID_PARAMS.
    """
    if meta is None or CURSORS_KEY not in meta:
        return None
    cursors = meta[CURSORS_KEY]
    if not isinstance(cursors, dict) or not all(isinstance(each, str) for each in cursors.values()):
        why = f'_meta["{CURSORS_KEY}"] must be an object whose values are strings'
        raise MCPError(mcp_types.INVALID_PARAMS, why)
    return cursors


def _connection(ctx: Context) -> ConnectionHandle | None:
    """Return the connection of a request; None where the SDK itself drives the connection."""
    return None if ctx.request is None else ctx.request.session
