"""Checks a value against its annotation, and converts text to a value.

Values in TOML have types and are only checked ("5" is not 5). Text from the environment and the command line
is converted by the type of the setting, and then checked.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs
import msgspec

from redstreamd.encryption import encryption_rules
from redstreamd.encryption.encryption_rules import EncryptionRule
from redstreamd.policy import quotas, rate, rules
from redstreamd.policy.quotas import Quota
from redstreamd.policy.rate import Rate
from redstreamd.policy.rules import Rule
from redstreamd.settings import listen_address, node_address
from redstreamd.settings.listen_address import ListenAddress
from redstreamd.settings.node_address import AddressMapping, NodeAddress

#: Values that have a text form of their own: what reads it, and what is allowed, in words.
_TEXTS: Mapping[Any, tuple[Callable[[str], Any], str]] = {
    ListenAddress: (ListenAddress.parse, listen_address.NOTATION),
    Rate: (Rate.parse, rate.NOTATION),
    Rule: (Rule.parse, rules.NOTATION),
    Quota: (Quota.parse, quotas.NOTATION),
    EncryptionRule: (EncryptionRule.parse, encryption_rules.NOTATION),
    NodeAddress: (NodeAddress.parse, node_address.NODE_NOTATION),
    AddressMapping: (AddressMapping.parse, node_address.MAPPING_NOTATION),
}
#: Those without spaces in them, which spaces may separate as well as commas, in the file, too.
_WORDS = (NodeAddress, AddressMapping)
_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


class NotAllowedError(ValueError):
    """A value is invalid; the message says what is allowed."""


@attrs.frozen
class ValueType:
    """The parts of a setting's annotation.

    Attributes:
        kind: The type without None, range and documentation.
        optional: Whether None (not set) is allowed.
        meta: Range and documentation.
    """

    kind: Any
    optional: bool
    meta: msgspec.Meta

    @classmethod
    def of(cls, annotation: Any) -> ValueType:
        """Return the parts of ``Annotated[<type> | None, Meta(...)]``."""
        kind, meta = get_args(annotation)
        optional = get_origin(kind) in (Union, types.UnionType)
        if optional:
            (kind,) = (part for part in get_args(kind) if part is not type(None))
        return cls(kind=kind, optional=optional, meta=meta)

    @property
    def secret(self) -> bool:
        """Whether the value must never be shown."""
        return bool((self.meta.extra or {}).get("secret"))

    @property
    def names_credential(self) -> bool:
        """Whether a path may also be the name of a credential."""
        return bool((self.meta.extra or {}).get("credential"))

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        if (words := (self.meta.extra or {}).get("allowed")) is not None:
            return str(words)
        if self.kind is bool:
            return "true or false"
        if self.kind in (int, float):
            noun = "an integer" if self.kind is int else "a number"
            return f"{noun} from {self.meta.ge:.15g} to {self.meta.le:.15g}"
        if self.kind is Path:
            return "an absolute path" + (", or the name of a credential" if self.names_credential else "")
        if get_origin(self.kind) is Literal:
            return f"one of {', '.join(get_args(self.kind))}"
        if get_origin(self.kind) is tuple:
            item = get_args(self.kind)[0]
            each = _TEXTS[item][1] if item in _TEXTS else ", ".join(get_args(item))
            return f"a list of {each}" + (", at least one" if self.meta.min_length else "")
        return "text" + (", not empty" if self.meta.min_length else "")

    def check(self, value: Any) -> Any:
        """Return `value` in its final type, without conversions such as text to number.

        Raises:
            NotAllowedError: It has another type or is out of range.
        """
        if value is None and self.optional:
            return None
        if self.kind is Path:
            return _path(value, self.allowed, credential=self.names_credential)
        if self._is_tuple and (item := get_args(self.kind)[0]) in _TEXTS:
            if isinstance(value, str):
                value = self.read(value) if item in _WORDS else [value]
            elif isinstance(value, dict) and item is AddressMapping:
                value = [
                    f"{key}={mapped}" if isinstance(mapped, str) else mapped for key, mapped in value.items()
                ]
            return _parsed(value, self.allowed, _TEXTS[item][0])
        if self._is_tuple and isinstance(value, str):
            value = [value]  # one name without a list: profile = "operator"
        try:
            return msgspec.convert(value, Annotated[self.kind, self.meta])
        except msgspec.ValidationError as mismatch:
            raise NotAllowedError(self.allowed) from mismatch

    def read(self, text: str) -> Any:
        """Convert `text` to a value, to be checked afterwards.

        Raises:
            NotAllowedError: The text is not of this type.
        """
        if self.kind is bool:
            if text.lower() in _TRUE + _FALSE:
                return text.lower() in _TRUE
            raise NotAllowedError(f"one of {', '.join(_TRUE + _FALSE)}")
        if self.kind is int and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            return int(text)
        if self.kind is float and re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?", text):
            return float(text)
        if self.kind in (int, float):
            raise NotAllowedError(self.allowed)
        if self._is_tuple:
            separators = r"[,\s]" if get_args(self.kind)[0] in _WORDS else ","
            return [part.strip() for part in re.split(separators, text) if part.strip()]
        return text

    @property
    def _is_tuple(self) -> bool:
        return get_origin(self.kind) is tuple


def _path(value: Any, allowed: str, *, credential: bool) -> Path:
    if not isinstance(value, str) or "\0" in value:
        raise NotAllowedError(allowed)
    # Names of credentials are file names (systemd.exec(5)). Only usual characters are accepted, because a
    # text with others may be a secret.
    if value.startswith("/") or (credential and re.fullmatch(r"\.?[\w-][\w.-]*", value)):
        return Path(value)
    raise NotAllowedError(allowed)


def _parsed(value: Any, allowed: str, parse: Callable[[str], Any]) -> tuple[Any, ...]:
    if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise NotAllowedError(allowed)
    parsed = []
    for number, item in enumerate(value, 1):
        try:
            parsed.append(parse(item))
        except ValueError as wrong:
            where = "" if len(value) == 1 else f" (item {number} of {len(value)})"
            raise NotAllowedError(f"{wrong}{where}") from wrong
    return tuple(parsed)
