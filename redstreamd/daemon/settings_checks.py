"""What is checked of settings that are valid each by itself: by `check-config`, and before a reload.

The tools, the policy and the files of listeners are imported only where something names them, because
`check-config` is a short command.
"""

from __future__ import annotations

import os
from pathlib import Path

from redstreamd.errors import SettingsError
from redstreamd.settings import Kind, Loaded
from redstreamd.settings.configured_lease_key import read_lease_key
from redstreamd.settings.credential_paths import path_of
from redstreamd.settings.http_checks import check_http_installed


def check_settings(loaded: Loaded) -> tuple[str, ...]:
    """Check settings against what they name, and return a sentence for each rule or quota without effect.

    Raises:
        SettingsError: One names a tool that does not exist.
    """
    settings = loaded.settings
    if settings.limits.rates or settings.policy.quotas:
        from redstreamd.daemon.call_rates import check_tools

        check_tools(settings, source_of={key: str(source) for key, source in loaded.sources.items()})
    if not settings.policy.rules and not settings.policy.quotas:
        return ()
    from redstreamd.daemon.policy_settings import unused_quotas, unused_rules

    return (*unused_rules(settings), *unused_quotas(settings))


def check_files(loaded: Loaded) -> str | None:
    """Check the files of listeners and of keys; return one that this process may not read, if any.

    Raises:
        SettingsError: A certificate, key or token cannot be used, or what serves HTTP is not installed.
    """
    return _check_lease_key(loaded) or _check_listeners(loaded) or _check_http(loaded) or _check_keys(loaded)


def _check_lease_key(loaded: Loaded) -> str | None:
    daemon = loaded.settings.daemon
    path = path_of("daemon.lease_key_file", daemon.lease_key_file)
    if path is not None and Path(path).exists() and not os.access(path, os.R_OK):
        return path
    read_lease_key(daemon)
    return None


def _check_listeners(loaded: Loaded) -> str | None:
    listeners = loaded.settings.listeners
    if listeners.certificate_file is None and listeners.token_file is None:
        return None
    from redstreamd.protection.configured_demands import demands_of

    try:
        demands_of(listeners).check()
    except PermissionError as refused:
        return str(refused.filename)
    return None


def _check_http(loaded: Loaded) -> str | None:
    http = loaded.settings.http
    for address in loaded.settings.daemon.listen:
        if address.kind is Kind.HTTP:
            check_http_installed(str(address))
    path = path_of("http.token_file", http.token_file)
    if path is None:
        return None
    from redstreamd.protection.token_records import read_tokens

    try:
        read_tokens(path)
    except PermissionError:
        return path
    except FileNotFoundError:
        allowed = "a file that exists; `redstreamd tokens new NAME` makes it"
        source = str(loaded.sources["http.token_file"])
        raise SettingsError("http.token_file", value=path, source=source, allowed=allowed) from None
    return None


def _check_keys(loaded: Loaded) -> str | None:
    encryption = loaded.settings.encryption
    if encryption.keys is None:
        return None
    from redstreamd.settings.configured_keys import key_place, key_ring_of, unreadable_keys

    place = key_place(encryption)
    unreadable = None if place is None else unreadable_keys(place)
    if unreadable is None:
        key_ring_of(encryption)
    return unreadable
