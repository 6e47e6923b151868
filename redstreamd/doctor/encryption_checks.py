"""Checks the keys and the rules of encryption: whether the ring can be used, and each rule has an effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from redstreamd.doctor.report import CheckResult, error, ok, skipped, warning
from redstreamd.encryption.encryption_rules import without_effect
from redstreamd.encryption.key_ring import KeyRing
from redstreamd.errors import SettingsError
from redstreamd.errors.remedies import setting
from redstreamd.settings import Kind, Settings
from redstreamd.settings.configured_keys import key_place, key_ring_of, unreadable_keys
from redstreamd.settings.listener_demands import is_beyond_loopback

_ENCRYPTION = "encryption"
_TRIED = "reading the keys of encryption, and comparing the rules"


def check_encryption(settings: Settings, environ: Mapping[str, str]) -> CheckResult:
    """Check the settings of `encryption`, and the files of the keys.

    Args:
        settings: The settings.
        environ: Where the directory of credentials is looked up.
    """
    encryption = settings.encryption
    if encryption.keys is None:
        return skipped(_ENCRYPTION, _TRIED, "nothing is encrypted: the settings name no keys")
    try:
        place = key_place(encryption, environ)
        if place is not None and (unreadable := unreadable_keys(place)) is not None:
            return skipped(_ENCRYPTION, _TRIED, f"this user may not read {unreadable}")
        ring = key_ring_of(encryption, environ)
    except SettingsError as wrong:
        todo = (
            f"Correct it, or {setting(wrong.key)}; `redstreamd keys check` says whether the ring can be used."
        )
        return error(_ENCRYPTION, _TRIED, str(wrong), todo)
    findings = [*_twins(ring), *without_effect(encryption.streams)]
    if findings:
        todo = f"Correct {setting('encryption.streams')}, or make another key with `redstreamd keys new ID`."
        return warning(_ENCRYPTION, _TRIED, "; ".join(findings), todo)
    if (open_to := _in_the_clear(settings)) and any(rule.is_encrypted for rule in encryption.streams):
        seen = (
            f"entries are encrypted in Redis, and clients of {open_to} get them unencrypted over the network"
        )
        return warning(_ENCRYPTION, _TRIED, seen, f"Set {setting('listeners.certificate_file')}.")
    writes = "none of which writes" if ring.writing is None else f"{ring.writing.id} writes"
    return ok(_ENCRYPTION, _TRIED, f"keys {', '.join(ring.ids)}, {writes}; {len(encryption.streams)} rules")


def _twins(ring: KeyRing) -> Iterator[str]:
    seen: dict[bytes, str] = {}
    for key_id in ring.ids:
        key = ring.get(key_id)
        if key is not None and (other := seen.setdefault(key.secret, key_id)) != key_id:
            yield f"the keys {other} and {key_id} are the same"


def _in_the_clear(settings: Settings) -> str:
    """Return the listeners that can be reached from other hosts without TLS."""
    if settings.listeners.certificate_file is not None:
        return ""
    beyond = (
        each for each in settings.daemon.listen if each.kind is Kind.TCP and is_beyond_loopback(each.host)
    )
    return ", ".join(map(str, beyond))
