"""One GET over HTTPS, bounded in size, that follows no redirect, for documents that the daemon needs."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from redstreamd import __version__

_READ_BYTES: Final = 16 * 1024
_MAX_HEAD_BYTES: Final = 32 * 1024
_PORTS: Final = {"https": 443, "http": 80}

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class GetError(Exception):
    """There is no answer that can be used; the text says why."""


class CannotReachError(GetError):
    """There was no connection."""


async def get(url: str, context: ssl.SSLContext, *, max_bytes: int) -> tuple[int, bytes]:
    """Return the status and the body of what is at a URL. Closes its connection also when cancelled.

    Args:
        url: ``https:`` or ``http:``, without a login.
        context: For the side of a client.
        max_bytes: Longest body.

    Raises:
        GetError: There is no answer, or it is longer.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        request = h11.Request(
            method="GET",
            target=target,
            headers=[
                ("Host", parts.netloc),
                ("Accept", "application/json"),
                # Another encoding could make a small response large.
                ("Accept-Encoding", "identity"),
                ("User-Agent", f"redstreamd/{__version__}"),
                ("Connection", "close"),
            ],
        )
    except (ValueError, KeyError, h11.LocalProtocolError):
        raise GetError("it is no URL that can be fetched") from None
    try:
        tcp = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise CannotReachError(f"cannot connect to {host} port {port}: {_reason(error)}") from None
    except ValueError:
        # Such as a label that is empty or too long.
        raise GetError(f"{host} is no name of a host") from None
    stream: Stream = tcp
    try:
        if parts.scheme == "https":
            stream = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
        return await _exchange(stream, request, max_bytes)
    except (trio.BrokenResourceError, OSError) as error:
        raise CannotReachError(f"the connection failed: {_reason(error)}") from None
    except h11.ProtocolError:
        raise GetError("its answer is not correct HTTP") from None
    except ValueError:
        raise GetError(f"{host} is no name that a certificate can have") from None
    finally:
        await trio.aclose_forcefully(stream)


async def _exchange(stream: Stream, request: h11.Request, max_bytes: int) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
    await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    status, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            if any(name == b"content-encoding" for name, _ in event.headers):
                raise GetError("its answer is encoded, which was not asked for")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_bytes:
                raise GetError(f"its answer is longer than {max_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, bytes(body)


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return (cause.reason or "protocol error").lower().replace("_", " ")
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
