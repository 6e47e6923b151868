"""Checks what listeners demand of their clients: their files, and whether users can be told apart."""

from __future__ import annotations

from collections.abc import Mapping

from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.doctor.service_environment import UNIT, Service
from redstreamd.errors import SettingsError
from redstreamd.errors.remedies import setting
from redstreamd.protection.certificate_files import WARN_DAYS, days_until
from redstreamd.protection.configured_demands import demands_of
from redstreamd.settings import Kind, Settings, demands
from redstreamd.settings.listener_demands import is_beyond_loopback

_LISTENERS = "listeners"


def check_listeners(settings: Settings, environ: Mapping[str, str], service: Service | None) -> CheckResult:
    """Check the settings of `listeners`, their files, and the unit.

    Args:
        settings: The settings.
        environ: Where the directory of credentials is looked up.
        service: The service whose settings these are; None for those of the caller's shell.
    """
    listeners = settings.listeners
    tried = "reading the certificates and tokens of listeners, and looking at PrivateUsers= of the unit"
    if not (listeners.peer_uids or listeners.certificate_file or listeners.token_file):
        return skipped(_LISTENERS, tried, "the settings demand nothing of clients")
    try:
        files = demands_of(listeners, environ)
        if files:
            files.check()
    except SettingsError as wrong:
        return error(_LISTENERS, tried, str(wrong), f"Correct it, or {setting(wrong.key)}.")
    except PermissionError as refused:
        return skipped(_LISTENERS, tried, f"this user may not read {refused.filename}")
    seen = "; ".join(f"{kind} demands {demands(kind, settings)}" for kind in (Kind.UNIX, Kind.TCP))
    if listeners.peer_uids and service is not None and service.value("PrivateUsers") == "yes":
        hidden = f"{UNIT} has PrivateUsers=yes, which hides the uids of clients"
        return warning(_LISTENERS, tried, hidden, "Install the drop-in peer-identity.conf.")
    certificate = files.certificate_file
    left = days_until(files.read().expires)
    if left is not None and left < 0:
        return error(_LISTENERS, tried, f"the certificate {certificate} has expired", "Renew it.")
    if left is not None and left < WARN_DAYS:
        return warning(
            _LISTENERS, tried, f"the certificate {certificate} expires in {left} days", "Renew it."
        )
    is_open = any(is_beyond_loopback(each.host) for each in settings.daemon.listen if each.kind is Kind.TCP)
    if is_open and listeners.certificate_file is None:
        todo = f"Set {setting('listeners.certificate_file')}."
        return warning(_LISTENERS, tried, f"{seen}: tokens and entries can be read on their way", todo)
    return ok(_LISTENERS, tried, seen)
