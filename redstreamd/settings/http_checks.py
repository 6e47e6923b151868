"""What is checked of the settings of HTTP among each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Final

from redstreamd.errors import SettingsError
from redstreamd.settings.definitions import shown_if_invalid
from redstreamd.settings.http_settings import HttpSettings
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.listener_demands import is_beyond_loopback
from redstreamd.settings.sections import ListenersSettings

#: Pages beside MCP.
HEALTHZ: Final = "/healthz"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
_WELL_KNOWN: Final = "/.well-known"


def check_http(http: HttpSettings, source_of: Mapping[str, Any]) -> None:
    """Refuse settings that mean nothing without others, and a path that something else has.

    Args:
        http: The settings.
        source_of: Where each comes from, by dotted key.

    Raises:
        SettingsError: The first that is found.
    """
    path = http.path
    if path in (HEALTHZ, READYZ, METRICS) or f"{path}/".startswith(f"{_WELL_KNOWN}/"):
        allowed = f"another path than {HEALTHZ}, {READYZ}, {METRICS} and {_WELL_KNOWN}/..., such as /mcp"
        raise SettingsError("http.path", value=path, source=str(source_of["http.path"]), allowed=allowed)
    for key, value, other, needed, why in (
        ("oauth_issuer", http.oauth_issuer, "resource_url", http.resource_url, "which its tokens are for"),
        ("oauth_audience", http.oauth_audience, "oauth_issuer", http.oauth_issuer, "which issues tokens"),
        ("oauth_jwks_url", http.oauth_jwks_url, "oauth_issuer", http.oauth_issuer, "whose keys these are"),
    ):
        if value is not None and needed is None:
            raise SettingsError(
                f"http.{key}",
                value=shown_if_invalid(f"http.{key}", value),
                source=str(source_of[f"http.{key}"]),
                allowed=f"only with http.{other}, {why}",
            )


def check_http_protected(
    shown: ListenAddress,
    http: HttpSettings,
    listeners: ListenersSettings,
    *,
    source: str,
    key: str = "daemon.listen",
) -> None:
    """Refuse an HTTP listener beyond loopback that asks its clients for no credential.

    TLS alone says nothing of who the client is, so it does not count.

    Args:
        shown: What is bound; a name is not refused.
        http: What is demanded of HTTP clients.
        listeners: What is demanded of those of TCP listeners.
        source: Where the address comes from.
        key: The setting of the address, or what it stands for.

    Raises:
        SettingsError: It is open to everybody.
    """
    if has_credential(http, listeners) or listeners.allow_unprotected_tcp:
        return
    if shown.path or not is_beyond_loopback(shown.host):
        return
    allowed = (
        "loopback or a Unix socket only, because no credential is demanded of clients: neither a bearer "
        "token (http.token_file, or http.oauth_issuer) nor a certificate (listeners.client_ca_file); "
        "listeners.allow_unprotected_tcp = true opens the port to whoever reaches it"
    )
    raise SettingsError(key, value=str(shown), source=source, allowed=allowed)


def has_credential(http: HttpSettings, listeners: ListenersSettings) -> bool:
    """Return whether HTTP clients have to say who they are."""
    return any(each is not None for each in (http.token_file, http.oauth_issuer, listeners.client_ca_file))


def check_http_installed(address: str) -> None:
    """Refuse a listener for HTTP where its packages are not installed.

    Raises:
        SettingsError: They are not; it says what installs them.
    """
    if any(importlib.util.find_spec(package) is None for package in ("httptools", "jwt")):
        raise SettingsError(
            "daemon.listen",
            value=address,
            source="the settings",
            allowed="addresses without http:, unless its packages are there",
            text=f"{address} cannot be listened on: the packages for Streamable HTTP are not installed; run "
            "`pip install 'redstreamd[http]'`",
        )
