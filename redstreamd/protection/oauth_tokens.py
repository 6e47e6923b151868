"""Access tokens of an authorization server (OAuth 2.1): JSON Web Tokens that were issued for this daemon.

The checks are those of RFC 9068 and RFC 8725: a signature of one of the issuer's keys by an algorithm for
that key, the issuer, the audience, and the times. Tokens that are bound to a key of the client are refused,
because nothing here asks for the proof. Only a daemon with an authorization server imports this.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from typing import Any, Final

import attrs
import jwt

from redstreamd.policy import Permission
from redstreamd.protection.key_fetching import KeyFetcher
from redstreamd.protection.key_sets import ALGORITHMS, Key, KeySet
from redstreamd.protection.verified_tokens import VerifiedToken, WrongTokenError

#: How far clocks may differ.
LEEWAY_SECONDS: Final = 30.0
#: Subjects become a part of the name of a principal.
_SUBJECT: Final = re.compile(r"[!-~]{1,128}")
_TYPES: Final = (None, "jwt", "at+jwt", "application/at+jwt")
_PERMISSIONS: Final = frozenset(Permission)
#: Of the errors of PyJWT, what is told; of the others that the token is malformed.
_WHY: Final[tuple[tuple[type[Exception], str], ...]] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidAudienceError, "it was issued for another audience"),
    (jwt.InvalidIssuerError, "it is of another issuer"),
    (jwt.MissingRequiredClaimError, "it lacks a claim: exp, iss, aud and sub are needed"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
)
_MALFORMED: Final = "it is no JSON Web Token that can be read"


@attrs.frozen
class OAuthOptions:
    """What tokens have to be.

    Attributes:
        issuer: The URL of the authorization server, as tokens have it.
        audience: What they have to be issued for (RFC 8707): the URL of MCP here, as a rule.
        jwks_url: Where the keys are; None: where the metadata of the issuer say.
        ca_file: CA certificates (PEM) to trust instead of the system's when they are fetched.
    """

    issuer: str
    audience: str
    jwks_url: str | None = None
    ca_file: str | None = None


class OAuthTokens:
    """Verifies access tokens.

    Attributes:
        options: What it was made with.
    """

    def __init__(self, options: OAuthOptions) -> None:
        """Begin without keys. Blocks.

        Args:
            options: What tokens have to be.
        """
        self.options: Final = options
        fetcher = KeyFetcher(options.issuer, options.jwks_url, ca_file=options.ca_file)
        self._keys: Final = KeySet(fetcher.fetch)

    async def keep_keys(self) -> None:
        """Fetch the keys if it is time to.

        Raises:
            KeysUnavailableError: They cannot be had. Those that are known are used for a day.
        """
        if self._keys.is_due:
            await self._keys.renew()

    def verify(self, token: str) -> VerifiedToken | Awaitable[VerifiedToken]:
        """Return what a token says; it is awaited if its key has to be fetched.

        Raises:
            WrongTokenError: It is not valid.
            KeysUnavailableError: That cannot be told, because there are no keys.
        """
        key_id, algorithm = _header(token)
        key = self._keys.find(key_id, algorithm)
        if key is None and self._keys.may_fetch:
            return self._verify_later(token, key_id, algorithm)
        return self._verify(token, algorithm, key)

    def has(self, verified: VerifiedToken) -> bool:
        """Return whether the key of a token that was verified before is still one of the issuer's."""
        return isinstance(verified.key, Key) and self._keys.has(verified.key)

    async def _verify_later(self, token: str, key_id: str | None, algorithm: str) -> VerifiedToken:
        await self._keys.renew()
        return self._verify(token, algorithm, self._keys.find(key_id, algorithm))

    def _verify(self, token: str, algorithm: str, key: Key | None) -> VerifiedToken:
        self._keys.check_known()
        if key is None:
            raise WrongTokenError("it is signed with a key that its issuer does not have")
        try:
            claims = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                audience=self.options.audience,
                issuer=self.options.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            expires_at = float(claims["exp"]) + LEEWAY_SECONDS
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise WrongTokenError(_why(error)) from None
        if "cnf" in claims:
            raise WrongTokenError("it is bound to a key of its client, of which nothing here asks a proof")
        subject = claims["sub"]
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise WrongTokenError("its subject is not 1 to 128 printable characters of ASCII without spaces")
        return VerifiedToken(f"oauth:{subject}", _permissions(claims), expires_at, key=key)


def _header(token: str) -> tuple[str | None, str]:
    """Return the ID of the key and the algorithm that a token names; nothing of it is verified."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise WrongTokenError(_MALFORMED) from None
    key_id, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise WrongTokenError("it is not signed by an algorithm that is taken (RS, PS, ES or EdDSA)")
    if "crit" in header or "b64" in header:
        raise WrongTokenError("it demands extensions that are not known")
    if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
        raise WrongTokenError("it is no access token by its type")
    if not (key_id is None or isinstance(key_id, str)):
        raise WrongTokenError(_MALFORMED)
    return key_id, algorithm


def _permissions(claims: Mapping[str, Any]) -> frozenset[Permission]:
    """Return the scopes that mean something here; ``scp`` is how some servers write them."""
    scopes = claims.get("scope", claims.get("scp", ""))
    words = scopes.split() if isinstance(scopes, str) else scopes if isinstance(scopes, list) else ()
    return frozenset(each for each in _PERMISSIONS if str(each) in words)


def _why(error: Exception) -> str:
    return next((why for kind, why in _WHY if isinstance(error, kind)), _MALFORMED)
