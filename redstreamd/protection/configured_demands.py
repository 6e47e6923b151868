"""From settings to the files that say what TCP listeners demand; for the daemon, check-config and doctor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

from redstreamd.protection.listener_protection import Demands
from redstreamd.settings import ListenersSettings
from redstreamd.settings.credential_paths import path_of


def demands_of(listeners: ListenersSettings, environ: Mapping[str, str] = os.environ) -> Demands:
    """Return the files; none is read yet.

    Args:
        listeners: The settings.
        environ: Where the directory of credentials is looked up.

    Raises:
        SettingsError: One is given as the name of a credential, and this process has none.
    """
    found = partial(path_of, environ=environ)
    return Demands(
        certificate_file=found("listeners.certificate_file", listeners.certificate_file),
        key_file=found("listeners.key_file", listeners.key_file),
        client_ca_file=found("listeners.client_ca_file", listeners.client_ca_file),
        minimum_version=listeners.tls_min_version,
        token_file=found("listeners.token_file", listeners.token_file),
    )
