"""What verifying the token of a client gives: what it says, or why it is not valid."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from redstreamd.policy import Permission
from redstreamd.protection.token_records import TokenRecord


class VerifiedToken(msgspec.Struct, frozen=True):
    """What a token says that was verified.

    Attributes:
        proved: What follows the listener in the name of the principal, such as ``token:ann``.
        permissions: Its scopes; None if they limit nothing.
        expires_at: From when on it is not valid, in seconds since 1970.
        record: The record of the file of tokens that it belongs to; None if it is none of these.
        key: The key of the authorization server that has signed it; likewise.
    """

    proved: str
    permissions: frozenset[Permission] | None
    expires_at: float
    record: TokenRecord | None = None
    key: object = None


class WrongTokenError(Exception):
    """A token is not valid.

    Attributes:
        why: For the log and for the client: one of a few texts, without anything of the token.
    """

    def __init__(self, why: str) -> None:
        """Record it."""
        super().__init__(why)
        self.why = why


class KeysUnavailableError(Exception):
    """Whether a token is valid cannot be told now, because the keys of its issuer cannot be had.

    Attributes:
        why: Cause and next step, for the log.
    """

    def __init__(self, why: str) -> None:
        """Record it."""
        super().__init__(why)
        self.why = why


class TokenVerifier(Protocol):
    """Verifies the tokens of an authorization server.

    Attributes:
        options: What it was made with; two with equal options verify the same.
    """

    @property
    def options(self) -> object:
        """See the class."""
        ...

    def verify(self, token: str) -> VerifiedToken | Awaitable[VerifiedToken]:
        """Return what a token says; it is awaited if keys have to be fetched for it.

        Raises:
            WrongTokenError: It is not valid.
            KeysUnavailableError: That cannot be told now.
        """
        ...

    def has(self, verified: VerifiedToken) -> bool:
        """Return whether what verified a token before would still do so, its times aside."""
        ...

    async def keep_keys(self) -> None:
        """Fetch keys if it is time to; called each second.

        Raises:
            KeysUnavailableError: They cannot be had.
        """
        ...
