"""The keys of an authorization server: which there are, which verifies a token, and when they are fetched."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import jwt
import trio
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from redstreamd.protection.verified_tokens import KeysUnavailableError

#: Fetched again after so long, so that a key that was withdrawn is not used for longer.
FRESH_SECONDS: Final = 600.0
#: While the authorization server cannot be reached, its keys are used for so long.
STALE_SECONDS: Final = 86_400.0
#: Fetched at most so often, whoever shows tokens of unknown keys.
PAUSE_SECONDS: Final = 30.0
#: Keys that are looked at.
MAX_KEYS: Final = 64
_RSA_BITS: Final = range(2_048, 8_193)
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
#: Signatures that anybody can check and only the server can make.
ALGORITHMS: Final = _RSA | frozenset({*_CURVES.values(), "EdDSA"})

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


@attrs.frozen
class Key:
    """A key.

    Attributes:
        id: Its ID (``kid``); None if it has none.
        public: The key itself.
        algorithms: What it may be used with.
    """

    id: str | None
    public: PublicKey
    algorithms: frozenset[str]


class KeySet:
    """The keys that were fetched last.

    Behaviour:
        At most one fetch is under way; those who ask meanwhile wait for its end. Where it is cancelled, the
        next of them fetches.
    """

    def __init__(self, fetch: Callable[[], Awaitable[Iterable[Any]]]) -> None:
        """Begin without keys.

        Args:
            fetch: Returns the keys; raises `KeysUnavailableError`.
        """
        self._fetch = fetch
        self._keys: tuple[Key, ...] = ()
        self._fetched_at = self._tried_at = -math.inf
        self._fetching = trio.Lock()
        self._problem: KeysUnavailableError | None = None

    @property
    def may_fetch(self) -> bool:
        """Whether the last attempt is long enough ago for another one."""
        return trio.current_time() >= self._tried_at + PAUSE_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether the keys should be fetched again."""
        return trio.current_time() >= self._fetched_at + FRESH_SECONDS and self.may_fetch

    def check_known(self) -> None:
        """Raise `KeysUnavailableError` if there are no keys, or none of late."""
        if trio.current_time() >= self._fetched_at + STALE_SECONDS:
            raise self._problem or KeysUnavailableError("they have not been fetched yet")

    def find(self, key_id: str | None, algorithm: str) -> Key | None:
        """Return the key of a token; None if it is not known, or several could be meant."""
        fitting = [
            each
            for each in self._keys
            if algorithm in each.algorithms and (key_id is None or each.id == key_id)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def has(self, key: Key) -> bool:
        """Return whether a key is still one of them, and they were fetched of late."""
        return trio.current_time() < self._fetched_at + STALE_SECONDS and key in self._keys

    async def renew(self) -> None:
        """Fetch the keys, unless another one has just done it.

        Raises:
            KeysUnavailableError: They cannot be had; those that are known stay.
        """
        tried_at = self._tried_at
        async with self._fetching:
            if self._tried_at != tried_at:
                return
            try:
                fetched = usable(await self._fetch())
                if not fetched:
                    raise KeysUnavailableError("the authorization server has no key that can be used")
            except KeysUnavailableError as problem:
                self._problem, self._tried_at = problem, trio.current_time()
                raise
            self._fetched_at = self._tried_at = trio.current_time()
            # The same objects where nothing has changed, so that `has` is a comparison of them.
            known = self._keys
            self._keys = tuple(known[known.index(each)] if each in known else each for each in fetched)


def usable(documents: Iterable[Any]) -> list[Key]:
    """Return the keys of a JSON Web Key Set (RFC 7517) that tokens can be verified with."""
    found = (_key(each) for each in list(documents)[:MAX_KEYS] if isinstance(each, Mapping))
    return [key for key in found if key is not None]


def _key(document: Mapping[str, Any]) -> Key | None:
    key_id, algorithm = document.get("kid"), document.get("alg")
    operations = document.get("key_ops", ["verify"])
    if document.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if "kty" not in document or document["kty"] not in ("RSA", "EC", "OKP") or "d" in document:
        return None
    try:
        public = jwt.PyJWK(dict(document), _ANY[document["kty"]]).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError):
        return None
    fits = _algorithms(public)
    if algorithm is not None:
        fits = frozenset(each for each in fits if each == algorithm)
    if not fits or not (key_id is None or isinstance(key_id, str)):
        return None
    return Key(key_id, public, fits)


#: Makes a key of a type, whatever `alg` says, which is checked after that.
_ANY: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def _algorithms(public: object) -> frozenset[str]:
    match public:
        case RSAPublicKey():
            return _RSA if public.key_size in _RSA_BITS else frozenset()
        case EllipticCurvePublicKey():
            return frozenset({_CURVES.get(public.curve.name, "")} - {""})
        case Ed25519PublicKey():
            return frozenset({"EdDSA"})
    return frozenset()
