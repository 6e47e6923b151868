"""Serves pages over HTTP/1.1 to the few clients that collect metrics, by h11 over trio.

Owns the connections and their bounds: how many there are, how long each step may take, how large a request
may be. Knows nothing of figures. Only a daemon with a listener for metrics imports this.

A client that is slow, silent or sends garbage costs one of a few connections until its deadline, or until
another client needs the place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import h11
import trio

from redstreamd.metrics.metrics_events import MetricsEventHook, MetricsFailed

#: Connections at a time; a collector has one.
MAX_CONNECTIONS: Final = 8
#: Collectors keep a connection for the next scrape, a minute later as a rule.
REQUEST_SECONDS: Final = 150.0
#: A request is one packet as a rule.
REST_SECONDS: Final = 5.0
#: For reading a response.
RESPONSE_SECONDS: Final = 10.0
#: For a client to close its side after the last response, so that it is not reset before it has read that.
_LINGER_SECONDS: Final = 1.0
#: The largest head of a request. That of Prometheus has 600 bytes.
_MAX_HEAD_BYTES: Final = 8 * 1024
_READ_BYTES: Final = 4 * 1024
_PAUSE_SECONDS: Final = 1.0

PageSource = Callable[[str], Awaitable[tuple[bytes, str]]]
"""``(the header Accept)``: returns a page and its content type."""


class _Client:
    """A connection.

    Attributes:
        scope: Cancelled to close it.
        is_idle: Whether it is waited for a request, or for the rest of one.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.scope = trio.CancelScope()
        self.is_idle = True
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)


class _Answer(NamedTuple):
    """A response: its status, its body and what it is, and further headers."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class MetricsServer:
    """A supervised child.

    Behaviour:
        Beyond `MAX_CONNECTIONS`, the client that has been waited for longest is closed for a new one; if all
        are being answered, the new one is closed. A page that cannot be made is an error 500, and logged.

    Resource handling:
        The caller owns the listeners.
    """

    def __init__(
        self,
        listeners: Sequence[trio.abc.Listener[trio.SocketStream]],
        page: PageSource,
        *,
        about: str,
        on_event: MetricsEventHook,
        request_seconds: float = REQUEST_SECONDS,
        rest_seconds: float = REST_SECONDS,
        response_seconds: float = RESPONSE_SECONDS,
    ) -> None:
        """Serve pages.

        Args:
            listeners: Where to accept.
            page: What is served at ``/metrics``.
            about: The text at ``/``.
            on_event: Called with each event; must not raise.
            request_seconds: For a request, from when the connection was made or the response before was sent.
            rest_seconds: For the rest of a request once some of it is there.
            response_seconds: For reading a response.
        """
        self._listeners = tuple(listeners)
        self._page = page
        self._about = about
        self._report = on_event
        self._request_seconds = request_seconds
        self._rest_seconds = rest_seconds
        self._response_seconds = response_seconds
        # In the order in which they began to be waited for.
        self._clients: dict[_Client, None] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled, which closes all connections at once."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(self._accept, listener, nursery)
            task_status.started()

    async def _accept(self, listener: trio.abc.Listener[trio.SocketStream], nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError:
                # No descriptor is free, as a rule; clients wait in the backlog.
                await trio.sleep(_PAUSE_SECONDS)
                continue
            if len(self._clients) >= MAX_CONNECTIONS and not self._make_room():
                await trio.aclose_forcefully(stream)
                continue
            client = _Client(stream)
            self._clients[client] = None
            nursery.start_soon(self._serve, client)

    def _make_room(self) -> bool:
        """Have the client closed that has been waited for longest; return whether there was one."""
        for client in self._clients:
            if client.is_idle:
                del self._clients[client]
                client.scope.cancel()
                return True
        return False

    async def _serve(self, client: _Client) -> None:
        try:
            with client.scope, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await self._serve_one(client):
                    client.http.start_next_cycle()
                    # The last of those that wait.
                    if self._clients.pop(client, True) is None:
                        self._clients[client] = None
                await _close_gently(client.stream)
        except Exception as defect:  # noqa: BLE001 - the boundary: others are served on
            self._report(MetricsFailed(defect))
        finally:
            self._clients.pop(client, None)
            await trio.aclose_forcefully(client.stream)

    async def _serve_one(self, client: _Client) -> bool:
        """Answer a request; return whether another one may follow."""
        http, request = client.http, None
        client.is_idle = True
        try:
            request = await self._next_request(client)
        except h11.RemoteProtocolError as error:
            answer = _Answer(error.error_status_hint, _text("Only GET /metrics of HTTP/1.1 is served here."))
        else:
            if request is None:
                return False
            client.is_idle = False
            answer = await self._answer(request)
        client.is_idle = False
        is_last = http.their_state is not h11.DONE
        is_head = request is not None and request.method == b"HEAD"
        data = _response(http, answer, is_head=is_head, is_last=is_last)
        with trio.move_on_after(self._response_seconds) as scope:
            await client.stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the response was not read in time")
        return _may_go_on(http)

    async def _next_request(self, client: _Client) -> h11.Request | None:
        """Return the next request; None if the client has gone, or is too slow.

        Raises:
            h11.RemoteProtocolError: It is none.
        """
        http = client.http
        request: h11.Request | None = None
        with trio.move_on_after(self._request_seconds) as scope:
            has_begun = False
            while True:
                event = http.next_event()
                if isinstance(event, h11.Request):
                    request = event
                    if _has_body(request):
                        # It is not read; the connection ends with the response.
                        return request
                elif isinstance(event, h11.EndOfMessage):
                    return request
                elif event is h11.NEED_DATA:
                    data = await client.stream.receive_some(_READ_BYTES)
                    if not has_begun:
                        has_begun = True
                        scope.deadline = min(scope.deadline, trio.current_time() + self._rest_seconds)
                    http.receive_data(data)
                else:
                    return None
        return None

    async def _answer(self, request: h11.Request) -> _Answer:
        path = request.target.partition(b"?")[0]
        if path not in (b"/", b"/metrics"):
            return _Answer(404, _text("There is nothing here; the metrics are at /metrics."))
        if request.method not in (b"GET", b"HEAD"):
            return _Answer(405, _text("Only GET and HEAD are served."), headers=((b"allow", b"GET, HEAD"),))
        if path == b"/":
            return _Answer(200, _text(self._about))
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        try:
            body, content_type = await self._page(accept.decode("latin-1"))
        except Exception as defect:  # noqa: BLE001 - the boundary: whoever asks is told
            self._report(MetricsFailed(defect))
            return _Answer(500, _text("The metrics could not be collected; the daemon's log says why."))
        return _Answer(200, body, content_type)


def _has_body(request: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in request.headers
    )


def _response(http: h11.Connection, answer: _Answer, *, is_head: bool, is_last: bool) -> bytes:
    headers = [
        (b"content-type", answer.content_type.encode("ascii")),
        (b"content-length", str(len(answer.body)).encode()),
        *answer.headers,
        *([(b"connection", b"close")] if is_last else ()),
    ]
    reason = HTTPStatus(answer.status).phrase.encode("ascii")
    events: list[h11.Event] = [h11.Response(status_code=answer.status, headers=headers, reason=reason)]
    if not is_head:
        events.append(h11.Data(data=answer.body))
    events.append(h11.EndOfMessage())
    return b"".join(http.send(event) or b"" for event in events)


def _may_go_on(http: h11.Connection) -> bool:
    return http.our_state is h11.DONE and http.their_state is h11.DONE


async def _close_gently(stream: trio.SocketStream) -> None:
    """Tell the client that nothing follows, and let it read what was sent."""
    with trio.move_on_after(_LINGER_SECONDS):
        await stream.send_eof()
        while await stream.receive_some(_READ_BYTES):
            pass


def _text(sentence: str) -> bytes:
    return f"{sentence}\n".encode()
