"""What listeners demand of their clients, in words, and which of them are refused for demanding nothing."""

from __future__ import annotations

import ipaddress

from redstreamd.errors import SettingsError
from redstreamd.settings.listen_address import Kind, ListenAddress
from redstreamd.settings.sections import ListenersSettings, Settings


def is_beyond_loopback(host: str) -> bool:
    """Return whether an address can be reached from other hosts; a name counts as one that cannot."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return not (mapped or address).is_loopback


def check_protected(
    shown: ListenAddress, host: str, listeners: ListenersSettings, *, source: str, key: str = "daemon.listen"
) -> None:
    """Refuse a TCP listener beyond loopback that demands nothing of its clients.

    Args:
        shown: The address, for the error.
        host: What is bound: an address; a name is not refused.
        listeners: What is demanded.
        source: Where the address comes from.
        key: The setting of the address, or what it stands for.

    Raises:
        SettingsError: It is open to everybody.
    """
    if listeners.certificate_file or listeners.token_file or listeners.allow_unprotected_tcp:
        return
    if is_beyond_loopback(host):
        allowed = (
            "loopback only, because neither TLS (listeners.certificate_file) nor a token "
            "(listeners.token_file) is demanded of clients; listeners.allow_unprotected_tcp = true opens the "
            "port to whoever reaches it"
        )
        raise SettingsError(key, value=str(shown), source=source, allowed=allowed)


def check_metrics_reach(
    address: ListenAddress, listeners: ListenersSettings, *, source: str, key: str = "daemon.listen"
) -> None:
    """Refuse a listener for metrics beyond loopback: it demands nothing of its clients, whatever others do.

    Args:
        address: Where it listens; a name is not refused.
        listeners: Whether that is allowed.
        source: Where the address comes from.
        key: The setting of the address, or what it stands for.

    Raises:
        SettingsError: It is open to everybody.
    """
    if listeners.allow_unprotected_tcp or address.path or not is_beyond_loopback(address.host):
        return
    allowed = (
        "a Unix socket or loopback, because metrics are served without TLS and without a token; "
        "listeners.allow_unprotected_tcp = true opens the port to whoever reaches it"
    )
    raise SettingsError(key, value=str(address), source=source, allowed=allowed)


def demands(kind: Kind, settings: Settings) -> str:
    """Return what listeners of a kind demand, and who their clients are, for an administrator."""
    listeners = settings.listeners
    if kind is Kind.METRICS:
        return "what its file's permissions say, or nothing over TCP; no principal"
    if kind is Kind.UNIX:
        if listeners.peer_uids:
            return "what its file's permissions say; principal by uid"
        return "what its file's permissions say; one principal"
    parts = []
    if listeners.certificate_file is not None:
        parts.append(f"TLS {listeners.tls_min_version} or newer")
    if listeners.client_ca_file is not None:
        parts.append("a certificate of the client")
    if kind is Kind.HTTP:
        return _of_http(settings, parts)
    if listeners.token_file is not None:
        parts.append("a token" + ("" if listeners.certificate_file else ", unencrypted"))
    who = "principal by certificate" if listeners.client_ca_file is not None else "one principal"
    return f"{', '.join(parts) or 'nothing'}; {who}"


def _of_http(settings: Settings, parts: list[str]) -> str:
    http, listeners = settings.http, settings.listeners
    clear = "" if listeners.certificate_file else ", unencrypted unless a proxy before it speaks TLS"
    tokens = []
    if http.token_file is not None:
        tokens.append("one of http.token_file")
    if http.oauth_issuer is not None:
        tokens.append(f"one of {http.oauth_issuer}")
    if tokens:
        parts.append(f"a bearer token ({' or '.join(tokens)}){clear}")
    who = "one principal" if listeners.client_ca_file is None else "principal by certificate"
    return f"{', '.join(parts) or 'nothing'}; {'principal by token' if tokens else who}"
