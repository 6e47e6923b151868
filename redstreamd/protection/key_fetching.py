"""Fetches the keys of an authorization server, which its metadata name (RFC 8414, OpenID Connect Discovery).

Each request is bounded in time and size, follows no redirect, and goes to HTTPS, or to loopback. Only a
daemon with an authorization server imports this.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import trio

from redstreamd.errors.remedies import setting
from redstreamd.protection.https_get import CannotReachError, GetError, get
from redstreamd.protection.verified_tokens import KeysUnavailableError

#: For all requests of one look together.
FETCH_SECONDS: Final = 10.0
#: Metadata and keys have a few thousand.
MAX_BYTES: Final = 256 * 1024
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class _NotThereError(Exception):
    """There is no document at a URL."""


class KeyFetcher:
    """Fetches the JSON Web Key Set of one issuer."""

    def __init__(self, issuer: str, jwks_url: str | None = None, *, ca_file: str | None = None) -> None:
        """Read the CA certificates. Blocks.

        Args:
            issuer: The URL of the authorization server.
            jwks_url: Where its keys are; None: where its metadata say.
            ca_file: CA certificates (PEM) to trust instead of the system's.
        """
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._context = _context(ca_file)

    async def fetch(self) -> list[Any]:
        """Return the keys as they are, unchecked.

        Raises:
            KeysUnavailableError: They cannot be had.
        """
        try:
            with trio.fail_after(FETCH_SECONDS):
                return await self._keys(self._jwks_url or await self._discovered())
        except trio.TooSlowError:
            raise KeysUnavailableError(f"{self._issuer} took longer than {FETCH_SECONDS:.0f} s") from None

    async def _keys(self, url: str) -> list[Any]:
        try:
            keys = (await self._get(url)).get("keys")
        except _NotThereError:
            raise KeysUnavailableError(f"there are no keys at {url}") from None
        if not isinstance(keys, list):
            raise KeysUnavailableError(f"{url} is no JSON Web Key Set")
        return keys

    async def _discovered(self) -> str:
        for url in metadata_urls(self._issuer):
            try:
                metadata = await self._get(url)
            except _NotThereError:
                continue
            if metadata.get("issuer") != self._issuer:
                raise KeysUnavailableError(f"{url} is of another issuer than {self._issuer}")
            found = metadata.get("jwks_uri")
            if not isinstance(found, str) or not _is_safe(found, self._issuer):
                raise KeysUnavailableError(f"{url} names no https: URL of keys")
            return found
        raise KeysUnavailableError(f"{self._issuer} has no metadata; set {setting('http.oauth_jwks_url')}")

    async def _get(self, url: str) -> dict[str, Any]:
        try:
            status, content = await get(url, self._context, max_bytes=MAX_BYTES)
        except GetError as error:
            remedy = f"; {_REACH}" if isinstance(error, CannotReachError) else ""
            raise KeysUnavailableError(f"{url}: {error}{remedy}") from None
        if status in _NOT_THERE:
            raise _NotThereError
        if status != HTTPStatus.OK:
            raise KeysUnavailableError(f"{url} answered with status {status}")
        try:
            document = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise KeysUnavailableError(f"{url} is not JSON") from None
        if not isinstance(document, dict):
            raise KeysUnavailableError(f"{url} is no JSON object")
        return document


_NOT_THERE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE)
_REACH: Final = (
    "a unit with IPAddressDeny= needs IPAddressAllow= for it (`systemctl edit redstreamd.service`)"
)


@functools.cache
def _context(ca_file: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


def metadata_urls(issuer: str) -> Iterator[str]:
    """Yield where the metadata of an issuer may be, in the order in which MCP has clients try them."""
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    yield f"{origin}/.well-known/oauth-authorization-server{path}"
    yield f"{origin}/.well-known/openid-configuration{path}"
    if path:
        yield f"{origin}{path}/.well-known/openid-configuration"


def _is_safe(url: str, issuer: str) -> bool:
    """Return whether keys may be fetched from a URL that the issuer names."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    on_loopback = parts.hostname in _LOOPBACK and urlsplit(issuer).hostname in _LOOPBACK
    return parts.scheme == "https" or (parts.scheme == "http" and on_loopback)
