"""What verifying the token of a client gives: what it says, or why it is not valid."""

from __future__ import annotations

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
    """

    proved: str
    permissions: frozenset[Permission] | None
    expires_at: float
    record: TokenRecord | None = None


class WrongTokenError(Exception):
    """A token is not valid.

    Attributes:
        why: For the log and for the client: one of a few texts, without anything of the token.
    """

    def __init__(self, why: str) -> None:
        """Record it."""
        super().__init__(why)
        self.why = why
