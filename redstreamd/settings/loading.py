"""Loads the settings: merges and checks the sources, and records where each value came from."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError

from redstreamd.addresses import default_paths
from redstreamd.addresses.address_syntax import MASK
from redstreamd.errors import SettingsError
from redstreamd.errors.remedies import note_sources
from redstreamd.settings.definitions import DEFINITIONS, GROUPS, shown
from redstreamd.settings.description import as_toml
from redstreamd.settings.http_checks import check_http, check_http_protected
from redstreamd.settings.listen_address import Kind
from redstreamd.settings.listener_demands import check_metrics_reach, check_protected
from redstreamd.settings.quotas_in_force import check_quotas
from redstreamd.settings.redis_address import HOST, URL, resolve
from redstreamd.settings.redis_topology import NODES, check_topology, uses_sentinel_tls
from redstreamd.settings.sections import Settings
from redstreamd.settings.sources import (
    DEFAULT_FILE,
    UNSET,
    Precedence,
    RawValue,
    Source,
    Values,
    from_command_line,
    from_environment,
    from_file,
    invalid_value,
    is_service_link,
    unknown,
)
from redstreamd.settings.value_types import ValueType

_DEFAULT = Source(Precedence.DEFAULT, "default")
_PORT = "redis.port"
#: A key of encryption itself; every 64th begins as a path does.
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")


@attrs.frozen
class Loaded:
    """Valid settings and their sources.

    Attributes:
        settings: The values.
        sources: Dotted key to source, for every setting, in the order of definition.
    """

    settings: Settings
    sources: Mapping[str, Source]

    def value(self, key: str) -> Any:
        """Return the value of a dotted key."""
        return _value(self.settings, key)

    def note_sources(self, *, kept: Iterable[str] = ()) -> None:
        """Let all texts name these sources: the settings are put into force.

        Args:
            kept: Dotted keys of which another value stays in force, that of a source noted before.
        """
        note_sources(
            {key: source.given_by for key, source in self.sources.items() if source.given_by},
            frozenset(
                key
                for key, source in self.sources.items()
                if source.precedence is not Precedence.DEFAULT and self.value(key) is not None
            ),
            frozenset(kept),
        )

    def shown(self, key: str) -> Any:
        """Return the value of a dotted key for printing, secrets masked."""
        return shown(key, self.value(key))


def load(
    *,
    config: Path | None = None,
    default_file: Path = DEFAULT_FILE,
    assignments: Sequence[str] = (),
    listen: Sequence[str] = (),
    embedded: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read all sources and return valid settings.

    Args:
        config: The settings file; if None, `default_file` if that exists.
        default_file: See above.
        assignments: ``group.key=value`` texts, from ``--set``.
        listen: Addresses, from ``--listen``.
        embedded: Whether ``--embedded`` was given.
        environ: The environment.

    Raises:
        SettingsError: The first error found.
    """
    values = from_file(config, default_file)
    given = from_environment(environ)
    link = given.pop(_PORT) if is_service_link(given.get(_PORT)) else None
    values |= given
    values |= from_command_line(assignments, listen=listen, embedded=embedded)
    values = resolve({key: given for key, given in values.items() if given.value is not UNSET})
    values = _defaults(environ, values) | values
    if link is not None and _needs_port(values):
        raise invalid_value(_PORT, link, DEFINITIONS[_PORT].allowed)
    settings = _structure(values)
    loaded = Loaded(settings, {key: values[key].source if key in values else _DEFAULT for key in DEFINITIONS})
    check_topology(settings, loaded.sources)
    for check in (_check_instance, _check_tls, _check_listeners, _check_encryption, _check_bounds):
        check(loaded)
    return loaded


def _needs_port(values: Values) -> bool:
    """Whether the port of Redis is used, and no source gives it."""
    embedded = values.get("daemon.embedded")
    if embedded is not None and embedded.value is True:
        return False
    if NODES in values and HOST not in values:
        return False
    # A URL without a port means the default port.
    return all(key not in values or values[key].value is None for key in (URL, _PORT, "redis.path"))


def _defaults(environ: Mapping[str, str], values: Values) -> Values:
    """Return the default of the state directory, which depends on the environment, if it is needed.

    Raises:
        SettingsError: There is none, because no variable or user entry gives an absolute path.
    """
    key = "daemon.state_directory"
    if key in values:
        return {}
    default = RawValue(default_paths.default_state_directory(environ), _DEFAULT)
    if not default.value.startswith("/"):
        raise invalid_value(
            key,
            default,
            f"{DEFINITIONS[key].allowed}; the default depends on the environment variables "
            "STATE_DIRECTORY, XDG_STATE_HOME and HOME, none of which names a directory",
        )
    return {key: default}


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs alone would convert "5" to 5 and checks no ranges.
    converter.register_structure_hook_func(
        _is_setting,
        lambda value, annotation: ValueType.of(annotation).check(value),
    )
    return converter


def _is_setting(annotation: Any) -> bool:
    return get_origin(annotation) is Annotated


def _structure(values: Values) -> Settings:
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    for dotted, given in values.items():
        group, _, key = dotted.partition(".")
        nested[group][key] = given.value
    try:
        return _converter().structure(nested, Settings)
    except ClassValidationError as invalid:
        raise _first_error(invalid, values) from None


def _first_error(invalid: ClassValidationError, values: Values, within: str = "") -> SettingsError:
    """Return the first error of cattrs as an error of the setting."""
    fault = invalid.exceptions[0]
    if isinstance(fault, ForbiddenExtraKeysError):
        key = within + min(fault.extra_fields)
        return unknown(key, values[key].source)
    notes = (note for note in getattr(fault, "__notes__", ()) if isinstance(note, AttributeValidationNote))
    name = next(notes).name
    if isinstance(fault, ClassValidationError):
        return _first_error(fault, values, f"{within}{name}.")
    return invalid_value(within + name, values[within + name], str(fault))


def _value(settings: Settings, key: str) -> Any:
    group, _, name = key.partition(".")
    return getattr(getattr(settings, group), name)


def _check_instance(loaded: Loaded) -> None:
    """Raise SettingsError for an embedded server of one of several processes: they have to use the same."""
    daemon = loaded.settings.daemon
    if daemon.embedded and daemon.instance is not None:
        raise SettingsError(
            "daemon.embedded",
            value="true",
            source=str(loaded.sources["daemon.embedded"]),
            allowed="false with daemon.instance: several processes need one server of redis.*, and an "
            "embedded one is a single process's own",
        )


def _check_tls(loaded: Loaded) -> None:
    """Raise SettingsError for TLS settings without TLS, and for a key without a certificate.

    TLS settings are ignored if a later source has turned TLS off.
    """
    redis = loaded.settings.redis
    for key in ("redis.ca_file", "redis.certificate_file", "redis.key_file", "redis.server_name"):
        source = loaded.sources[key]
        is_turned_off_later = loaded.sources["redis.tls"].precedence > source.precedence
        is_of_sentinels = key != "redis.server_name" and uses_sentinel_tls(redis)
        if loaded.value(key) is None or redis.tls or is_of_sentinels or is_turned_off_later:
            continue
        raise SettingsError(
            key,
            value=str(loaded.shown(key)),
            source=str(source),
            allowed="only with redis.tls = true, or rediss:// in the URL; now nothing is encrypted",
        )
    if redis.key_file is not None and redis.certificate_file is None:
        raise SettingsError(
            "redis.key_file",
            value=str(loaded.shown("redis.key_file")),
            source=str(loaded.sources["redis.key_file"]),
            allowed="only with redis.certificate_file",
        )


def _check_listeners(loaded: Loaded) -> None:
    """Raise SettingsError for settings of listeners that need others, and for open addresses.

    An address that is a name is checked at the start, when it is known what it stands for.
    """
    listeners = loaded.settings.listeners
    for key in ("listeners.key_file", "listeners.client_ca_file"):
        if loaded.value(key) is not None and listeners.certificate_file is None:
            raise SettingsError(
                key,
                value=str(loaded.shown(key)),
                source=str(loaded.sources[key]),
                allowed="only with listeners.certificate_file; now nothing is encrypted",
            )
    check_http(loaded.settings.http, loaded.sources)
    source = str(loaded.sources["daemon.listen"])
    for address in loaded.settings.daemon.listen:
        if address.kind is Kind.TCP:
            check_protected(address, address.host, listeners, source=source)
        if address.kind is Kind.HTTP:
            check_http_protected(address, loaded.settings.http, listeners, source=source)
        if address.kind is Kind.METRICS:
            check_metrics_reach(address, listeners, source=source)


def _check_encryption(loaded: Loaded) -> None:
    """Raise SettingsError for streams to encrypt without a key, which would otherwise be written clear."""
    encryption = loaded.settings.encryption
    if _KEY.fullmatch(str(encryption.keys)):
        raise invalid_value(
            "encryption.keys",
            RawValue(MASK, loaded.sources["encryption.keys"]),
            "the directory of the keys, not a key",
        )
    is_encrypting = any(rule.is_encrypted for rule in encryption.streams)
    for key, value, needed in (
        ("encryption.writing_key", encryption.writing_key, encryption.keys),
        ("encryption.streams", is_encrypting, encryption.writing_key),
    ):
        if value and needed is None:
            missing = "encryption.keys" if key == "encryption.writing_key" else "encryption.writing_key"
            allowed = f"only with {missing}; `redstreamd keys new ID` makes a key"
            raise SettingsError(
                key, value=as_toml(loaded.value(key)), source=str(loaded.sources[key]), allowed=allowed
            )


def _check_bounds(loaded: Loaded) -> None:
    """Raise SettingsError for a part or default greater than its maximum, naming the one given last."""
    for lesser, greater in (
        ("tools.default_wait_seconds", "tools.max_wait_seconds"),
        ("leases.lease_seconds", "leases.max_lease_seconds"),
        ("tools.max_result_bytes", "limits.max_message_bytes"),
        ("limits.max_connections_per_principal", "limits.max_connections"),
        ("limits.max_waits_per_principal", "limits.max_waits"),
        ("limits.max_subscriptions_per_principal", "limits.max_subscriptions"),
    ):
        low, high = loaded.value(lesser), loaded.value(greater)
        if low is None or high is None or low <= high:
            continue
        if loaded.sources[lesser].precedence >= loaded.sources[greater].precedence:
            key, bound = lesser, f"at most {greater} ({as_toml(high)}, from {loaded.sources[greater]})"
        else:
            key, bound = greater, f"at least {lesser} ({as_toml(low)}, from {loaded.sources[lesser]})"
        raise SettingsError(key, value=loaded.value(key), source=str(loaded.sources[key]), allowed=bound)
    check_quotas(loaded.settings, str(loaded.sources["policy.quotas"]))
