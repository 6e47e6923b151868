"""The settings of the listeners for Streamable HTTP; see `sections`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import attrs
from msgspec import Meta

from redstreamd.settings.redis_settings import CREDENTIAL

DAY = 86_400.0

_NAME: Final = r"([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\])"
_PORT: Final = r"(:[0-9]{1,5})?"
#: As RFC 3986 has it, without a login, a query and a fragment.
_URL_PATH: Final = r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*"
_LOOPBACK: Final = r"(localhost|127\.0\.0\.1|\[::1\])"
#: HTTPS, or HTTP on this host.
_URL: Final = rf"^(https://{_NAME}{_PORT}|http://{_LOOPBACK}{_PORT}){_URL_PATH}\Z"
_URL_WORDS: Final = "an https:// URL (on this host also http://), without a login, a query and a fragment"

Host = Annotated[str, Meta(pattern=rf"^{_NAME}{_PORT}\Z", max_length=255)]
Origin = Annotated[str, Meta(pattern=rf"^[a-z][a-z0-9+.-]*://{_NAME}{_PORT}\Z", max_length=255)]
Url = Annotated[str, Meta(pattern=_URL, max_length=2048)]


@attrs.frozen(kw_only=True)
class HttpSettings:
    """Listeners for Streamable HTTP (`http:` in daemon.listen, or a socket unit): clients and limits."""

    path: Annotated[
        str,
        Meta(
            pattern=r"^(/[A-Za-z0-9._~-]+)+\Z",
            max_length=255,
            description="The path of MCP, the end of the URL that clients are given. /healthz, /readyz, "
            "/metrics and /.well-known/... are taken.",
            extra={"allowed": "a path such as /mcp, of letters, digits and ._~-/, not ending in a slash"},
        ),
    ] = "/mcp"
    allowed_hosts: Annotated[
        tuple[Host, ...],
        Meta(
            description="The names in the Host header that are served: a name or an address stands for any "
            "port, NAME:PORT for that one. Loopback names and addresses and the host of http.resource_url "
            "are served without it; others are answered with 421. It keeps a page in a browser from using a "
            "name of its own for this daemon (DNS rebinding).",
            extra={
                "allowed": "a list of names or addresses, each perhaps with a port, such as "
                "mcp.example.org:8443"
            },
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description="The origins of pages in browsers that may use this daemon. Pages on loopback may "
            "without it; requests of others are answered with 403. Clients that are not browsers send no "
            "Origin.",
            extra={"allowed": "a list of origins, such as https://app.example.org, without a path"},
        ),
    ] = ()
    token_file: Annotated[
        Path | None,
        Meta(
            description="The file of the bearer tokens that clients may have, which `redstreamd tokens` "
            "writes; or the name of a credential. It has hashes of them, with their names, expiry and "
            "scopes. A request without a valid token is answered with 401; the principal of others is "
            "http/token:NAME. It is read again when it has changed.",
            extra=CREDENTIAL,
        ),
    ] = None
    oauth_issuer: Annotated[
        Url | None,
        Meta(
            description="The authorization server (OAuth 2.1) whose access tokens are taken: the issuer as "
            "it stands in them. The principal is http/oauth:SUBJECT. Needs http.resource_url. Its keys are "
            "fetched from it, so the unit's IPAddressDeny= must let the daemon reach it.",
            extra={"allowed": _URL_WORDS},
        ),
    ] = None
    oauth_audience: Annotated[
        str | None,
        Meta(
            min_length=1,
            max_length=2048,
            description="The audience that these tokens must have been issued for. Without it "
            "http.resource_url.",
        ),
    ] = None
    oauth_jwks_url: Annotated[
        Url | None,
        Meta(
            description="Where the keys of the authorization server are. Without it where its metadata say "
            "(/.well-known/oauth-authorization-server, /.well-known/openid-configuration).",
            extra={"allowed": _URL_WORDS},
        ),
    ] = None
    resource_url: Annotated[
        Url | None,
        Meta(
            description="The URL of MCP as clients outside know it, such as https://mcp.example.org/mcp: "
            "behind a reverse proxy the daemon cannot know it. It stands in the metadata for OAuth "
            "(RFC 9728).",
            extra={"allowed": _URL_WORDS},
        ),
    ] = None
    max_head_bytes: Annotated[
        int,
        Meta(
            ge=4_096,
            le=1_048_576,
            description="The longest head of a request: its first line and its headers. A longer one is "
            "answered with 431.",
        ),
    ] = 16_384
    max_fields: Annotated[
        int,
        Meta(
            ge=16,
            le=1_000,
            description="Most headers of a request; more are answered with 431. The longest body is "
            "limits.max_message_bytes.",
        ),
    ] = 100
    head_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=600,
            description="The time for the head of a request from its first byte on, and for the first byte "
            "of a new connection; after it 408. Who sends slowly holds a connection for no longer.",
        ),
    ] = 10.0
    body_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3_600,
            description="The time for the body of a request from the end of its head on; after it 408. The "
            "longest body over a slow line decides.",
        ),
    ] = 30.0
    idle_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=DAY,
            description="How long a connection is kept that waits for its next request. Longer than a "
            "reverse proxy keeps its own (60 s with nginx), so that a request never meets a closed one.",
        ),
    ] = 75.0
    max_connections_per_peer: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Connections of one address, or of one process over a Unix socket. A reverse proxy "
            "is one peer. All together have limits.max_connections.",
        ),
    ] = 1024
    max_event_streams: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Responses that stay open for events (text/event-stream), of all connections "
            "together; one more is answered with 503.",
        ),
    ] = 2048
    event_pause_seconds: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3_600,
            description="After so long without an event an open response gets a comment: proxies then keep "
            "it open, and a client that has gone is noticed. Shorter than the read timeout of proxies.",
        ),
    ] = 15.0
    max_sessions: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Sessions (Mcp-Session-Id) of clients of revisions before 2026-07-28; one more is "
            "answered with 503.",
        ),
    ] = 1024
    session_idle_seconds: Annotated[
        float,
        Meta(
            ge=1,
            le=30 * DAY,
            description="A session without a request and without an open response ends after this; its "
            "client is answered with 404, and begins a new one.",
        ),
    ] = 1_800.0
    replay_bytes: Annotated[
        int,
        Meta(
            ge=1_024,
            le=67_108_864,
            description="How much of its events a session keeps for a client that comes back for them "
            "(Last-Event-ID).",
        ),
    ] = 262_144
