"""What the parts of HTTP say to each other: heads of requests, answers, and who serves them.

A connection reads a head and asks its `Handler` whether it takes the request (`check`); only then is the body
read. With the body, the handler serves it (`serve`), and answers through the `Responder` of the request, at
once or later. One request of a connection is served at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

from redstreamd.admission.accounts import Account, Accounts, Peer
from redstreamd.admission.memory import Memory
from redstreamd.mcpio.connection_events import EventHook
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.session import StartSoon
from redstreamd.policy import Principal
from redstreamd.streamable_http.http_counts import HttpCounts
from redstreamd.streamable_http.http_limits import HttpLimits


class RequestHead(msgspec.Struct, frozen=True):
    """The request line and the headers of a request that is correct HTTP.

    Attributes:
        method: Such as ``POST``.
        path: Of its target, undecoded, without the query; of the absolute form what follows the authority.
        query: What follows the question mark; empty if there is none.
        authority: The authority that it is for: of the absolute form if it has that, else of `Host`.
        fields: Value of each header by its name in lower case, decoded as ISO-8859-1, without whitespace
            around it. Those of a header that came several times are joined by ", ".
        repeated: Names of headers that came several times.
    """

    method: str
    path: str
    query: str
    authority: str
    fields: Mapping[str, str]
    repeated: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Return what is no secret, unlike a header and a query may be."""
        return f"RequestHead({self.method} {self.path})"


class Answer(msgspec.Struct, frozen=True):
    """A whole response.

    Attributes:
        status: Its status.
        body: Its body; of a response to ``HEAD`` it is not sent.
        content_type: What it is; None if there is no body.
        fields: Further headers, names and values in ASCII. ``Content-Length``, ``Connection`` and ``Date``
            are the connection's.
        closes: Whether the connection ends with it.
    """

    status: int
    body: bytes = b""
    content_type: str | None = "application/json"
    fields: tuple[tuple[str, str], ...] = ()
    closes: bool = False


class Unread(Protocol):
    """What a client has not read yet; `mcpio.outbox.Outbox`."""

    @property
    def size(self) -> int:
        """Bytes that the client's socket has not accepted yet."""
        ...

    async def wait_written(self) -> None:
        """Wait until the client has read everything; to limit the rate of notifications."""
        ...


class Client(msgspec.Struct, frozen=True):
    """The connection that requests come over, for those who serve them.

    Attributes:
        connection_id: Its name in events.
        principal: Of the listener, or by the certificate that the client has shown.
        peer: Who connected.
        start_soon: Starts a task that ends with the connection; False if the connection is ending.
        outbox: What the client has not read yet.
    """

    connection_id: str
    principal: Principal
    peer: Peer
    start_soon: StartSoon
    outbox: Unread


class Responder(Protocol):
    """The response to one request. Nothing blocks or raises; nothing is sent once it has ended.

    Attributes:
        on_gone: Called once if the client disconnects before the response has ended; set by whoever serves.
    """

    on_gone: Callable[[], None] | None

    @property
    def has_begun(self) -> bool:
        """Whether something of the response was sent."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or the client has gone."""
        ...

    def answer(self, answer: Answer) -> None:
        """Send the whole response."""
        ...

    def begin_events(self, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """Begin a response of events (``text/event-stream``) that `send_events` goes on with."""
        ...

    def send_events(self, data: bytes, *, is_last: bool = False) -> None:
        """Send events or comments, each complete; `is_last` as of `mcpio.exchange.Sink.send`."""
        ...

    def end_events(self) -> None:
        """End the response of events."""
        ...


class Handler(Protocol):
    """Serves the requests of one connection."""

    @property
    def requests_in_flight(self) -> int:
        """How many requests of MCP are in flight on behalf of this connection."""
        ...

    @property
    def account(self) -> Account | None:
        """Whose turn it is when the request that `check` took is served; None: the connection's.

        Never a closed one: asked again once it was closed, it is another one.
        """
        ...

    @property
    def requests(self) -> int:
        """How many requests of MCP it has received so far."""
        ...

    def check(self, head: RequestHead) -> Answer | Awaitable[Answer | None] | None:
        """Return the refusal of a request whose head was read, or None if its body may be read.

        It is awaited if that takes time, such as fetching keys.
        """
        ...

    def serve(self, head: RequestHead, body: bytes, responder: Responder) -> Awaitable[None] | None:
        """Serve a request that `check` took; the response may come after this has returned.

        What is to be awaited is awaited before the next request is read; its cancellation ends the
        connection.
        """
        ...

    def drain(self) -> None:
        """Note that the daemon stops: reject what comes, end responses of events that nothing else ends."""
        ...

    async def aclose(self) -> None:
        """Let go of the connection, which has ended; shielded from cancellation."""
        ...


class Site(Protocol):
    """What is served to all connections of the HTTP listeners."""

    def connected(self, client: Client) -> Handler:
        """Return the handler for a new connection. Never blocks."""
        ...


class Surroundings(msgspec.Struct, frozen=True):
    """What connections and sites share.

    Attributes:
        limits: Bounds of messages.
        http_limits: Bounds of HTTP.
        accounts: Where what clients hold and use is counted.
        memory: The budget of these accounts.
        report: Called with events.
        counts: What is counted, for the metrics.
    """

    limits: Limits
    http_limits: HttpLimits
    accounts: Accounts
    memory: Memory
    report: EventHook
    counts: HttpCounts = msgspec.field(default_factory=HttpCounts)
