"""What the end of a connection means: that a client ends it is normal, that the daemon has to is not."""

from __future__ import annotations

from typing import Final

from redstreamd.errors.remedies import setting
from redstreamd.event_log.declaration import declared
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.mcpio.peers import client_text
from redstreamd.service.log_record import Severity

_SPOKE: Final = {
    Ending.TLS: "spoke TLS, which this socket does not",
    Ending.REDIS: "spoke the protocol of Redis",
    Ending.BINARY: "sent something that is not text",
}


def _client(event: ConnectionClosed) -> str:
    return client_text(event.principal, event.peer)


@declared(
    ConnectionClosed,
    "ed3fb167eb44440e947e92eb5ac9f38e",
    Severity.WARNING,
    when=lambda event: event.ending in _SPOKE,
    summed_by=lambda event: (event.ending, event.principal),
    cause="A client spoke something else than MCP, and its connection was closed.",
    remedy="Find out whether a client is set up wrongly (docs/listeners.md), or a program searches for open "
    "ports.",
)
def closed_for_other_protocol(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, which {_SPOKE[event.ending]}; find out whether a "
        "client is set up wrongly, or a program searches for open ports"
    )


@declared(
    ConnectionClosed,
    "c825ab0e099a43538862a63a56c25541",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.HTTP,
    summed_by=lambda event: event.principal,
    cause="A client spoke HTTP on a socket for lines of JSON, and its connection was closed. A web page that "
    "tries to reach local ports looks like this, too.",
    remedy="Find out whether a client is set up wrongly, or a web page tries to reach the bus through "
    "somebody's browser.",
)
def closed_for_http(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, which spoke HTTP; find out whether a client "
        "is set up wrongly, or a web page tries to reach the bus through somebody's browser"
    )


@declared(
    ConnectionClosed,
    "019612403883406eb594138aff4048e6",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.BAD_REQUEST,
    summed_by=lambda event: (event.principal, event.why),
    cause="A client of an HTTP listener sent what is no request of HTTP/1.1, or exceeds a limit. It was "
    "answered with the reason, and its connection was closed: what followed could be understood in two ways.",
    remedy="Find out whether a client or a proxy is set up wrongly, or a program searches for open ports.",
)
def closed_for_bad_request(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, whose request could not be served: {event.why}; find out "
        "whether a client or a proxy is set up wrongly, or a program searches for open ports"
    )


@declared(
    ConnectionClosed,
    "3d9fc188085f4fe483f38673f60bfdaa",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.SLOW,
    summed_by=lambda event: event.principal,
    cause="A request over HTTP did not come in its time. It was answered with 408 and the connection closed.",
    remedy=f"The client or its network hangs, or keeps connections busy on purpose. The times are "
    f"{setting('http.head_seconds')} and {setting('http.body_seconds')}.",
)
def closed_for_slow_request(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, whose request did not come in time "
        f"({setting('http.head_seconds')}, {setting('http.body_seconds')}); the client or its network hangs, "
        "or it keeps connections busy on purpose"
    )


@declared(
    ConnectionClosed,
    "7cfc026cac654fb48a76a5850e2a9327",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.OVERFLOW,
    summed_by=lambda event: event.principal,
    cause="A client did not read its answers until more waited than one connection may leave unread.",
    remedy="The client hangs or is too slow; find out which it is.",
)
def closed_for_overflow(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, which did not read its answers until over "
        f"{event.limit_bytes} bytes waited; the client hangs or is too slow, find out which it is"
    )


@declared(
    ConnectionClosed,
    "577d22406f48443c966f8097d9c046b5",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.UNREAD,
    summed_by=lambda event: event.principal,
    cause="A client read nothing for too long while answers waited for it.",
    remedy=f"The client hangs; find out why. How long it may take is {setting('limits.unread_seconds')}.",
)
def closed_for_not_reading(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, which read nothing for too long "
        f"({setting('limits.unread_seconds')}) while {event.unread_bytes} bytes of answers waited; "
        "the client hangs, find out why"
    )


@declared(
    ConnectionClosed,
    "697573126ab141d89886b5be32bfda52",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.MEMORY,
    summed_by=lambda event: event.principal,
    cause="All clients together hold more memory than the limit, and this one held most, in answers that it "
    "did not read.",
    remedy=f"The client hangs or is too slow, or raise {setting('limits.max_memory_bytes')}.",
)
def closed_for_memory(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)}, which left {event.unread_bytes} bytes of answers "
        f"unread: all clients together hold more than {event.limit_bytes} bytes, and it held most; "
        f"the client hangs or is too slow, or raise {setting('limits.max_memory_bytes')}"
    )


@declared(
    ConnectionClosed,
    "65e7052e8a814d0896b5400f66dbcbbc",
    Severity.WARNING,
    when=lambda event: event.ending is Ending.GAVE_WAY,
    summed_by=lambda event: event.principal,
    cause="As many clients are connected as may be, another connected, and nobody has more connections than "
    "the client of this one.",
    remedy=f"Find out why it opens so many, or raise {setting('limits.max_connections')}, and what each "
    "principal may have with it.",
)
def closed_for_another_client(event: ConnectionClosed) -> str:
    return (
        f"closed a connection of {_client(event)} for another client, because as many are open as "
        "there may be, and nobody has more; find out why it opens so many, or raise "
        f"{setting('limits.max_connections')}, and what each principal may have with it"
    )


@declared(
    ConnectionClosed,
    "f4bca8ef453f4d779b4a8522e8a72692",
    Severity.DEBUG,
    cause="A connection ended because its client closed it or was idle over HTTP, its socket failed, or the "
    "daemon stops.",
    remedy="None.",
)
def connection_closed(event: ConnectionClosed) -> str:
    return (
        f"connection {event.connection_id} of {event.principal.name} closed ({event.ending}) after "
        f"{event.open_seconds:.1f} s and {event.requests} requests, {event.cut_off} of them cut off"
    )
