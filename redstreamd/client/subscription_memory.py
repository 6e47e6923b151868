"""What a bridge remembers of its client's subscriptions, and how they are taken up again.

The daemon tells the cursor of each subscription, the last version that it reported, where a request asks for
it by a member of `_meta`, and continues from the cursor it is given there. So a client is notified of what
changed while no daemon was there, and of nothing else. Where no cursor is known, the client is notified once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redstreamd.client import own_messages
from redstreamd.client.message_forms import encoded, id_text, parsed, parsed_exactly
from redstreamd.client.pending_requests import OwnRequest, PendingRequest

if TYPE_CHECKING:
    from redstreamd.client.session_interface import Session

#: The member of `_meta`: an object, name -> cursor; `mcp_server.update_lines` has the other side.
CURSORS_KEY: Final = "redstreamd/cursors"
#: Stands for the list of resources among URIs.
LIST: Final = "resources/list"
_SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"
_UPDATED: Final = "notifications/resources/updated"
_LIST_CHANGED: Final = "notifications/resources/list_changed"


class SubscriptionMemory:
    """The subscriptions of the handshake era.

    Attributes:
        cursors: Each URI that the client is subscribed to, with its cursor; None if that is not known.
        is_listed: Whether the client has listed the resources, and was not notified of a change since.
    """

    def __init__(self) -> None:
        """Begin without subscriptions."""
        self.cursors: dict[str, str | None] = {}
        self.is_listed = False

    def take_up(self, session: Session) -> None:
        """Subscribe again, on a new connection."""
        for uri, cursor in self.cursors.items():
            own = session.requests.add_own(_Resubscribe(uri, cursor))
            known = {} if cursor is None else {uri: cursor}
            params = {"uri": uri, "_meta": {CURSORS_KEY: known}}
            session.to_daemon.append(own_messages.request(own, "resources/subscribe", params))
        if self.is_listed:
            # A client that lists again learns what changed meanwhile.
            self.is_listed = False
            session.to_client.append(own_messages.notification(_LIST_CHANGED, None))


def subscription_request(
    session: Session, line: bytes, message: dict[str, Any], batched: bool
) -> PendingRequest | None:
    """Return the pending request for one of the methods about subscriptions; None for any other."""
    method = message["method"]
    params = message.get("params")
    memory = session.subscriptions
    if method == "resources/list":
        return _Listing(line, method.encode(), batched)
    if not isinstance(params, dict):
        return None
    if method == "subscriptions/listen":
        return Listen(line, message)
    if method not in ("resources/subscribe", "resources/unsubscribe") or not isinstance(
        params.get("uri"), str
    ):
        return None
    uri: str = params["uri"]
    if method == "resources/subscribe":
        return _Subscribe(line, message, uri, batched)
    memory.cursors.pop(uri, None)
    for pending in session.requests.by_id.values():
        if isinstance(pending, _Subscribe) and pending.uri == uri:
            pending.uri = None
    return None


class _Listing(PendingRequest):
    __slots__ = ()

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        if is_result:
            session.subscriptions.is_listed = True
        super().finish(session, request_id, line, is_result)


class _Subscribe(PendingRequest):
    """A ``resources/subscribe`` of the client.

    Attributes:
        uri: None once the client has unsubscribed.
    """

    __slots__ = ("is_ours", "uri")

    def __init__(self, line: bytes, message: dict[str, Any], uri: str, batched: bool) -> None:
        asking = _with_cursors(line[1:-2] if batched else line, {})
        self.is_ours = asking is not None
        if asking is not None:
            line = own_messages.in_batch(asking) if batched else asking
        super().__init__(line, b"resources/subscribe", batched)
        self.uri: str | None = uri

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        message = parsed(line)
        answer = message[0] if isinstance(message, list) and message else message
        result = answer.get("result") if isinstance(answer, dict) else None
        if is_result and isinstance(result, dict):
            cursors = _taken(result)
            if self.uri is not None:
                session.subscriptions.cursors[self.uri] = cursors.get(self.uri)
            if cursors and self.is_ours:
                line = own_messages.answer_line(request_id, {"result": result})
                line = own_messages.in_batch(line) if self.batched else line
        super().finish(session, request_id, line, is_result)


class _Resubscribe(OwnRequest):
    """A subscription that is taken up again."""

    __slots__ = ("cursor", "uri")

    def __init__(self, uri: str, cursor: str | None) -> None:
        super().__init__()
        self.uri = uri
        self.cursor = cursor

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        """Notify the client if it may have missed a change, or has lost the subscription."""
        session.requests.remove(request_id)
        cursors = session.subscriptions.cursors
        if self.uri not in cursors:
            return  # the client has unsubscribed meanwhile
        message = parsed(line)
        if not is_result:
            del cursors[self.uri]
            why = message["error"].get("message") if isinstance(message, dict) else None
            session.notices.append(f"the subscription to {self.uri} could not be taken up again: {why}")
        elif cursors[self.uri] == self.cursor:
            # Else a notification has come with a later one.
            cursors[self.uri] = _taken(message["result"]).get(self.uri, self.cursor)
        if not is_result or self.cursor is None:
            session.to_client.append(own_messages.notification(_UPDATED, {"uri": self.uri}))


class Listen(PendingRequest):
    """A ``subscriptions/listen``, which lasts until the client cancels it.

    Attributes:
        request_id: As in the message, for the notifications.
        cursors: Each name that is watched, with its cursor; None if that is not known; empty before it is
            acknowledged.
    """

    __slots__ = ("cursors", "given", "is_acknowledged", "request_id")

    def __init__(self, line: bytes, message: dict[str, Any]) -> None:
        """Take the client's line."""
        super().__init__(line, b"subscriptions/listen")
        self.request_id = message["id"]
        self.cursors: dict[str, str | None] = {}
        self.given: frozenset[str] = frozenset()
        self.is_acknowledged = False

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for its first daemon; once it is acknowledged, it may wait for ever."""
        return not (self.is_sent or self.is_acknowledged)

    def start(self, session: Session, request_id: bytes) -> None:
        """Listen, from the cursors that are known."""
        known = {name: cursor for name, cursor in self.cursors.items() if cursor is not None}
        line = self.line or b""
        session.to_daemon.append(_with_cursors(line, known) or line)
        self.given = frozenset(known)
        self.is_sent = True

    def finish(self, session: Session, request_id: bytes, line: bytes, is_result: bool) -> None:
        """Go on with the next daemon: a result says that this one stops."""
        if not is_result or session.has_client_ended:
            super().finish(session, request_id, line, is_result)
        else:
            session.requests.put_back(self)

    def acknowledge(self, session: Session, message: dict[str, Any], line: bytes) -> None:
        """Pass on the first acknowledgement; after others notify of what may have been missed."""
        params = message["params"]
        cursors = _taken(params)
        honored = params.get("notifications") or {}
        names = list(honored.get("resourceSubscriptions") or ())
        if honored.get("resourcesListChanged"):
            names.append(LIST)
        if not self.is_acknowledged:
            self.is_acknowledged = True
            self.cursors = {name: cursors.get(name) for name in names}
            session.to_client.append(_encoded_or(message, line, cursors))
            return
        for name in self.cursors:
            if name not in self.given or name not in names:
                session.to_client.append(self._changed(name))
        self.cursors |= {name: cursors[name] for name in names if name in cursors}

    def _changed(self, name: str) -> bytes:
        meta = {_SUBSCRIPTION_ID: self.request_id}
        if name == LIST:
            return own_messages.notification(_LIST_CHANGED, {"_meta": meta})
        return own_messages.notification(_UPDATED, {"uri": name, "_meta": meta})


def notified(session: Session, line: bytes) -> None:
    """Take note of a notification about resources or subscriptions, and pass it on."""
    message = parsed(line)
    params = message.get("params") if isinstance(message, dict) else None
    if not isinstance(params, dict):
        if b'"method":"%b"' % _LIST_CHANGED.encode() in line:
            session.subscriptions.is_listed = False
        session.to_client.append(line)
        return
    meta = params.get("_meta")
    listen_id = id_text(meta.get(_SUBSCRIPTION_ID)) if isinstance(meta, dict) else None
    listen = None if listen_id is None else session.requests.by_id.get(listen_id)
    if message["method"] == "notifications/subscriptions/acknowledged":
        if isinstance(listen, Listen):
            listen.acknowledge(session, message, line)
        else:
            session.to_client.append(line)
        return
    told = _taken(params)
    known = listen.cursors if isinstance(listen, Listen) else session.subscriptions.cursors
    known |= {name: cursor for name, cursor in told.items() if name in known}
    if message["method"] == _LIST_CHANGED and listen_id is None:
        session.subscriptions.is_listed = False
    if told and not params:
        del message["params"]
    session.to_client.append(_encoded_or(message, line, told))


def _encoded_or(message: dict[str, Any], line: bytes, changed: object) -> bytes:
    return (encoded(message) or line) if changed else line


def _with_cursors(line: bytes, cursors: dict[str, str]) -> bytes | None:
    """Return a request with the member of `_meta`; None if it has its own, or cannot be rewritten."""
    message = parsed_exactly(line)
    params = None if message is None else message.get("params")
    if message is None or not isinstance(params, dict):
        return None
    meta = params.get("_meta", {})
    if not isinstance(meta, dict) or CURSORS_KEY in meta:
        return None
    return encoded({**message, "params": {**params, "_meta": {**meta, CURSORS_KEY: cursors}}})


def _taken(params: dict[str, Any]) -> dict[str, str]:
    """Take the cursors out of a result or of the parameters of a notification, and return them."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        return {}
    cursors = meta.pop(CURSORS_KEY, None)
    if not meta:
        del params["_meta"]
    return (
        {name: each for name, each in cursors.items() if isinstance(each, str)}
        if isinstance(cursors, dict)
        else {}
    )
