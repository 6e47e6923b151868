"""From sources to settings: merge, check, and remember where each value came from."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError

from redstreamd.addresses import default_paths
from redstreamd.errors import SettingsError
from redstreamd.settings.definitions import GROUPS, LEAVES, shown
from redstreamd.settings.description import as_toml
from redstreamd.settings.listen_address import Kind
from redstreamd.settings.redis_address import URL, resolve
from redstreamd.settings.sections import Settings
from redstreamd.settings.sources import (
    UNSET,
    Given,
    Rank,
    Source,
    Values,
    from_command_line,
    from_environment,
    from_file,
    is_service_link,
    misfit,
    unknown,
)
from redstreamd.settings.value_types import ValueType

_DEFAULT = Source(Rank.DEFAULT, "default")
_PORT = "redis.port"


@attrs.frozen
class Loaded:
    """Checked settings and where they came from.

    Attributes:
        settings: The values in force.
        sources: Dotted key to source, for every setting, in the order of definition.
    """

    settings: Settings
    sources: Mapping[str, Source]

    def value(self, key: str) -> Any:
        """Return the value of a dotted key."""
        return _value(self.settings, key)

    def shown(self, key: str) -> Any:
        """Return the value of a dotted key as it may be printed, secrets masked."""
        return shown(key, self.value(key))


def load(
    *,
    config: Path | None = None,
    assignments: Sequence[str] = (),
    listen: Sequence[str] = (),
    embedded: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read all sources and return settings that are valid, together.

    Args:
        config: The settings file; without one, the default file if it exists.
        assignments: ``group.key=value`` texts, from ``--set``.
        listen: Addresses, from ``--listen``.
        embedded: Whether ``--embedded`` was given.
        environ: The environment.

    Raises:
        SettingsError: The first thing found wrong.
    """
    values = from_file(config)
    given = from_environment(environ)
    link = given.pop(_PORT) if is_service_link(given.get(_PORT)) else None
    values |= given
    values |= from_command_line(assignments, listen=listen, embedded=embedded)
    values = resolve({key: given for key, given in values.items() if given.value is not UNSET})
    values = _defaults(environ, values) | values
    if link is not None and _needs_port(values):
        raise misfit(_PORT, link, LEAVES[_PORT].allowed)
    settings = _structure(values)
    loaded = Loaded(settings, {key: values[key].source if key in values else _DEFAULT for key in LEAVES})
    for check in (_served, _encrypted, _ordered):
        check(loaded)
    return loaded


def _needs_port(values: Values) -> bool:
    """Whether the port of Redis is used, and nobody has named it."""
    embedded = values.get("daemon.embedded")
    if embedded is not None and embedded.value is True:
        return False
    # A URL is a whole address, also where it leaves the port to its default.
    return all(key not in values or values[key].value is None for key in (URL, _PORT, "redis.path"))


def _defaults(environ: Mapping[str, str], values: Values) -> Values:
    """Return the one default that depends on where the process runs, if `values` need it.

    Raises:
        SettingsError: There is none: nothing says where this user's home is, or what says so is no path.
    """
    key = "daemon.state_directory"
    if key in values:
        return {}
    default = Given(default_paths.default_state_directory(environ), _DEFAULT)
    if not default.value.startswith("/"):
        raise misfit(
            key,
            default,
            f"{LEAVES[key].allowed}; without the setting it follows from the environment variables "
            "STATE_DIRECTORY, XDG_STATE_HOME and HOME, which name no directory here",
        )
    return {key: default}


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs alone would make 5 of "5" and knows no ranges: every leaf goes through its own check.
    converter.register_structure_hook_func(
        _is_leaf,
        lambda value, annotation: ValueType.of(annotation).check(value),
    )
    return converter


def _is_leaf(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated


def _structure(values: Values) -> Settings:
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for dotted, given in values.items():
        group, _, key = dotted.partition(".")
        nested[group][key] = given.value
    try:
        return _converter().structure(nested, Settings)
    except ClassValidationError as invalid:
        raise _first_fault(invalid, values) from None


def _first_fault(invalid: ClassValidationError, values: Values, within: str = "") -> SettingsError:
    """Translate what cattrs found first into the terms of the person who wrote it."""
    fault = invalid.exceptions[0]
    if isinstance(fault, ForbiddenExtraKeysError):
        key = within + min(fault.extra_fields)
        return unknown(key, values[key].source)
    notes = (note for note in getattr(fault, "__notes__", ()) if isinstance(note, AttributeValidationNote))
    name = next(notes).name
    if isinstance(fault, ClassValidationError):
        return _first_fault(fault, values, f"{within}{name}.")
    return misfit(within + name, values[within + name], str(fault))


def _value(settings: Settings, key: str) -> Any:
    group, _, name = key.partition(".")
    return getattr(getattr(settings, group), name)


def _served(loaded: Loaded) -> None:
    """Refuse addresses of a kind that the daemon does not serve."""
    for address in loaded.settings.daemon.listen:
        if address.kind is Kind.HTTP:
            raise SettingsError(
                "daemon.listen",
                value=str(address),
                source=str(loaded.sources["daemon.listen"]),
                allowed="unix:PATH or tcp:HOST:PORT; http: is not served yet",
            )


def _encrypted(loaded: Loaded) -> None:
    """Refuse what can only have been meant for TLS where there is none, and half a certificate.

    Where a later source has turned TLS off, what an earlier one says about it is merely not used.
    """
    redis = loaded.settings.redis
    for key in ("redis.ca_file", "redis.certificate_file", "redis.key_file", "redis.server_name"):
        source = loaded.sources[key]
        if loaded.value(key) is None or redis.tls or loaded.sources["redis.tls"].rank > source.rank:
            continue
        raise SettingsError(
            key,
            value=str(loaded.value(key)),
            source=str(source),
            allowed="only with redis.tls = true, or rediss:// in the URL; as it is, nothing is encrypted",
        )
    if redis.key_file is not None and redis.certificate_file is None:
        raise SettingsError(
            "redis.key_file",
            value=str(redis.key_file),
            source=str(loaded.sources["redis.key_file"]),
            allowed="only with redis.certificate_file",
        )


def _ordered(loaded: Loaded) -> None:
    """Refuse a default that is greater than its maximum; the setting given last is to blame."""
    for lesser, greater in (
        ("tools.default_wait_seconds", "tools.max_wait_seconds"),
        ("leases.lease_seconds", "leases.max_lease_seconds"),
        ("tools.max_result_bytes", "limits.max_message_bytes"),
    ):
        low, high = loaded.value(lesser), loaded.value(greater)
        if low <= high:
            continue
        if loaded.sources[lesser].rank >= loaded.sources[greater].rank:
            key, bound = lesser, f"at most {greater} ({as_toml(high)}, from {loaded.sources[greater]})"
        else:
            key, bound = greater, f"at least {lesser} ({as_toml(low)}, from {loaded.sources[lesser]})"
        raise SettingsError(key, value=loaded.value(key), source=str(loaded.sources[key]), allowed=bound)
