"""The settings as a flat table, dotted key to definition, made from the classes in `sections`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from redstreamd.addresses.address_syntax import MASK, without_login
from redstreamd.settings.masking import masked_name, masked_url
from redstreamd.settings.node_address import NodeAddress
from redstreamd.settings.sections import Settings
from redstreamd.settings.value_types import ValueType


def _definitions() -> dict[str, ValueType]:
    return {
        f"{group.name}.{definition.name}": ValueType.of(definition.type)
        for group in attrs.fields(attrs.resolve_types(Settings))
        if group.type is not None
        for definition in attrs.fields(attrs.resolve_types(group.type))
    }


DEFINITIONS: Mapping[str, ValueType] = _definitions()
"""Every setting by its dotted key, in the order of definition."""

GROUPS: tuple[str, ...] = tuple(field.name for field in attrs.fields(Settings))
"""The tables of the settings file."""

_SHOWN_LENGTH = 200  # characters, so that an error stays readable

#: Invalid values of Redis settings that are shown: numbers, and addresses as Kubernetes sets them. Anything
#: else may be a password given to the wrong setting.
_NOT_SECRET = re.compile(r"[+-]?[0-9]{1,9}([.,_][0-9]{1,9})?|(tcp|udp)://[0-9a-f.:\[\]]+", re.IGNORECASE)

#: Redis settings whose values are paths.
_PATHS = frozenset(
    {"redis.path", "redis.ca_file", "redis.sentinel_ca_file", "redis.certificate_file", "redis.key_file"}
)

#: What may be a token or a key given where its file or its ID is asked for.
_SECRET_PATHS = frozenset(
    {"listeners.token_file", "http.token_file", "encryption.keys", "encryption.writing_key"}
)


def shown(key: str, value: Any) -> Any:
    """Return a valid `value` for printing: secrets masked, long texts cut."""
    if value is None:
        return None
    if DEFINITIONS[key].secret:
        return MASK
    if key == "redis.url":
        return masked_url(value) if isinstance(value, str) else MASK
    if DEFINITIONS[key].names_credential:
        return masked_name(str(value))
    return _cut(value)


def shown_if_invalid(key: str, value: Any) -> Any:
    """Return an invalid `value` for printing.

    What may be a secret given to the wrong setting is masked: a login before an address, for Redis settings
    every text that is neither number nor path, tables, and lists of lists.
    """
    definition = DEFINITIONS[key]
    texts = value if isinstance(value, list) else [value]
    if value is None or definition.secret:
        return shown(key, value)
    if any(isinstance(text, (dict, list)) for text in texts):
        return MASK
    if not all(isinstance(text, (str, bool, int, float)) for text in texts):
        return shown(key, value)
    if any(isinstance(text, str) and _may_be_secret(key, text) for text in texts):
        masked = [_masked(key, text) if isinstance(text, str) else text for text in texts]
        return masked if isinstance(value, list) else masked[0]
    return _cut(value)


def _may_be_secret(key: str, text: str) -> bool:
    if "@" in text or "pass" in text.partition("?")[2].lower():
        return True
    if key in _SECRET_PATHS:
        return True
    if not key.startswith("redis.") or key in _PATHS or _NOT_SECRET.fullmatch(text):
        return False
    return key != "redis.nodes" or not _is_node(text)


def _is_node(text: str) -> bool:
    """Whether it is a node's address, and so shown where nothing else is wrong with it."""
    try:
        return NodeAddress.parse(text).port is not None
    except ValueError:
        return False


def _masked(key: str, text: str) -> str:
    if "://" in text:
        return masked_url(text)
    if key.startswith("redis.") or key in _SECRET_PATHS or "@" not in text:
        return MASK if _may_be_secret(key, text) else text
    return without_login(text)


def _cut(value: Any) -> Any:
    if isinstance(value, tuple):
        return value  # a list is printed item by item
    text = str(value)
    return value if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}... ({len(text)} characters)"
