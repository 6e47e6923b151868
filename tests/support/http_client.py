"""An HTTP/1.1 client for tests on trio. It rests on h11: another implementation judges what the daemon sends.

client = HttpClient(await trio.open_tcp_stream("127.0.0.1", port))
response = await client.request("GET", "/healthz")
assert response.status == 200

It is strict: a response must say how long it is, name no header twice, and be followed by nothing.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

import attrs
import h11
import trio

Fields = Iterable[tuple[str, str]]

_WITHOUT_BODY: Final = (204, 304)


@attrs.frozen
class Event:
    """An event of a response of events; see https://html.spec.whatwg.org/multipage/server-sent-events.html.

    Attributes:
        data: Its lines; None if it has none.
        name: What `event` says.
        id: Its ID.
        retry: Milliseconds until a client may come back.
        comments: The comments before it and in it.
    """

    data: str | None
    name: str = "message"
    id: str | None = None
    retry: int | None = None
    comments: tuple[str, ...] = ()


class EventParser:
    """Makes events of the bytes of a response."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that are complete with these bytes; comments alone are an event without data."""
        *whole, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        return [_event(each.decode("utf-8")) for each in whole]

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete."""
        return self._rest


def _event(text: str) -> Event:
    found: dict[str, list[str]] = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        found.setdefault(name, []).append(value.removeprefix(" "))
    comments = tuple(found.pop("", ()))
    lines = found.pop("data", None)
    single = {name: value for name, (value,) in found.items()}
    assert single.keys() <= {"event", "id", "retry"}, text
    retry = single.get("retry")
    return Event(
        None if lines is None else "\n".join(lines),
        single.get("event", "message"),
        single.get("id"),
        None if retry is None else int(retry),
        comments,
    )


@attrs.define
class Response:
    """A response, of which the head has come.

    Attributes:
        status: Its status.
        fields: Its headers, by their names in lower case.
        body: What has come of its body: all of it once `read` has returned.
    """

    status: int
    fields: Mapping[str, str]
    _client: HttpClient
    body: bytes = b""
    _parser: EventParser = attrs.field(factory=EventParser)

    async def read(self) -> bytes:
        """Read the body to its end, and return it."""
        while data := await self._client.next_data():
            self.body += data
        return self.body

    def json(self) -> Any:
        """Return the body, decoded; it was read, and says that it is JSON."""
        assert self.fields["content-type"] == "application/json", (self.status, self.fields, self.body)
        return json.loads(self.body)

    @property
    def is_events(self) -> bool:
        """Whether it is a response of events."""
        return self.fields.get("content-type") == "text/event-stream"

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over the events that come, up to the end of the response.

        Raises:
            h11.RemoteProtocolError: The connection ended first.
        """
        assert self.is_events, (self.status, self.fields)
        while data := await self._client.next_data():
            self.body += data
            for event in self._parser.feed(data):
                yield event
        assert self._parser.rest == b"", self._parser.rest

    def messages(self) -> list[Any]:
        """Return the messages of a response that was read, decoded: in its events, or the one that it is."""
        if not self.body:
            return []
        if not self.is_events:
            return [self.json()]
        parser = EventParser()
        events = parser.feed(self.body)
        assert parser.rest == b"", parser.rest
        return [json.loads(event.data) for event in events if event.data]


class HttpClient:
    """A connection, for one request after the other.

    Attributes:
        stream: The connection below it.
        authority: What `Host` says.
    """

    def __init__(self, stream: trio.abc.Stream, *, authority: str = "localhost") -> None:
        self.stream = stream
        self.authority = authority
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_reusable(self) -> bool:
        """Whether another request may follow."""
        return self._http.our_state is h11.IDLE

    async def send(self, method: str, target: str, fields: Fields = (), body: bytes | None = None) -> None:
        """Send a request."""
        head = [("Host", self.authority), *fields]
        if body is not None:
            head.append(("Content-Length", str(len(body))))
        data = self._http.send(h11.Request(method=method, target=target, headers=head)) or b""
        if body:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def begin(
        self, method: str, target: str, fields: Fields = (), body: bytes | None = None
    ) -> Response:
        """Send a request, and return its response when its head has come."""
        await self.send(method, target, fields, body)
        return await self.response()

    async def request(
        self, method: str, target: str, fields: Fields = (), body: bytes | None = None
    ) -> Response:
        """Send a request, and return its response, which was read to its end."""
        response = await self.begin(method, target, fields, body)
        await response.read()
        return response

    async def response(self) -> Response:
        """Return the response to what was sent when its head has come; interim ones are passed over.

        Raises:
            h11.RemoteProtocolError: It is no HTTP, or the connection ended.
        """
        while isinstance(head := await self._next_event(), h11.InformationalResponse):
            pass
        assert isinstance(head, h11.Response), head
        fields = {name.decode("ascii"): value.decode("ascii") for name, value in head.headers}
        assert len(fields) == len(list(head.headers)), f"a header came twice: {head.headers}"
        framed = fields.keys() & {"content-length", "transfer-encoding"}
        assert len(framed) == (head.status_code not in _WITHOUT_BODY), fields
        return Response(head.status_code, fields, self)

    async def next_data(self) -> bytes:
        """Return the next bytes of the body of the response; empty at its end."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        assert self._http.trailing_data[0] == b"", self._http.trailing_data
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return b""

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.stream.receive_some())
        return event
