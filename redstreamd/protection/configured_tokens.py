"""From settings to what verifies the tokens of HTTP clients, and to what they are told of it (RFC 9728)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from redstreamd.policy import Permission
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.settings.credential_paths import path_of
from redstreamd.settings.http_settings import HttpSettings

if TYPE_CHECKING:
    from redstreamd.protection.oauth_tokens import OAuthTokens

#: Where clients look for the metadata, and with the path of MCP behind it.
METADATA_PATH: Final = "/.well-known/oauth-protected-resource"


def bearer_tokens_of(http: HttpSettings, environ: Mapping[str, str] = os.environ) -> BearerTokens | None:
    """Return the tokens of `http.token_file`; None if it is not set. Blocks.

    Raises:
        SettingsError: The file cannot be used.
    """
    path = path_of("http.token_file", http.token_file, environ)
    return None if path is None else BearerTokens(path)


def oauth_tokens_of(http: HttpSettings) -> OAuthTokens | None:
    """Return what verifies the tokens of `http.oauth_issuer`; None if it is not set. Blocks.

    It imports what that takes, so it is for a thread of a daemon with a listener for HTTP.
    """
    audience = http.oauth_audience or http.resource_url
    if http.oauth_issuer is None or audience is None:
        return None
    from redstreamd.protection.oauth_tokens import OAuthOptions, OAuthTokens

    return OAuthTokens(OAuthOptions(http.oauth_issuer, audience, http.oauth_jwks_url))


def metadata_url_of(http: HttpSettings) -> str | None:
    """Return where clients find the metadata of this daemon; None without an authorization server."""
    if http.oauth_issuer is None or http.resource_url is None:
        return None
    parts = urlsplit(http.resource_url)
    return f"{parts.scheme}://{parts.netloc}{METADATA_PATH}{parts.path.rstrip('/')}"


def metadata_pages_of(http: HttpSettings) -> dict[str, bytes]:
    """Return the metadata, in JSON, by the paths where they are served; none without an authorization server.

    A reverse proxy may have MCP at another path than the daemon, so both are served, and the one without.
    """
    if http.oauth_issuer is None or http.resource_url is None:
        return {}
    metadata = {
        "resource": http.resource_url,
        "authorization_servers": [http.oauth_issuer],
        "scopes_supported": list(Permission),
        "bearer_methods_supported": ["header"],
        "resource_name": "redstreamd",
    }
    page = msgspec.json.encode(metadata)
    suffixes = ("", urlsplit(http.resource_url).path.rstrip("/"), http.path)
    return {f"{METADATA_PATH}{suffix}": page for suffix in suffixes}
