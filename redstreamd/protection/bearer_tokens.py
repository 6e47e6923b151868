"""Bearer tokens of clients that come over HTTP, verified by the records of a file."""

from __future__ import annotations

import hmac
import time

import attrs

from redstreamd.protection.secret_files import version_of
from redstreamd.protection.token_file import tokens_in
from redstreamd.protection.token_records import TOKEN, TokenRecord, hash_of
from redstreamd.protection.verified_tokens import VerifiedToken, WrongTokenError


@attrs.frozen
class _Valid:
    """The tokens of one state of the file, by ID."""

    key: bytes = attrs.field(repr=False)
    by_id: dict[str, TokenRecord] = attrs.field(repr=False)


class BearerTokens:
    """The tokens that are valid, as the file says; it is read again when it has changed.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        """Read the file. Blocks.

        Raises:
            SettingsError: It cannot be used.
        """
        self.path = path
        self._version = version_of(path)
        self._valid = self._read()

    def renew(self) -> bool:
        """Read the file again if it has changed, and return whether it has. Blocks; for a thread.

        Raises:
            SettingsError: It cannot be used; the tokens of before stay valid. Raised once for each change.
        """
        version = version_of(self.path)
        if version == self._version:
            return False
        self._version = version
        self._valid = self._read()
        return True

    def verify(self, token: str) -> VerifiedToken:
        """Return what the record of a token says.

        Raises:
            WrongTokenError: It is not valid.
        """
        form = TOKEN.fullmatch(token)
        if form is None:
            raise WrongTokenError("it is not one of this daemon's tokens")
        valid = self._valid
        record = valid.by_id.get(form[1])
        given = hash_of(token, valid.key)
        # The same work is done where there is no record. IDs are no secrets.
        is_right = hmac.compare_digest(given, "" if record is None else record.hash)
        if record is None:
            raise WrongTokenError("it is unknown, or was revoked")
        if not is_right:
            raise WrongTokenError("it is wrong")
        if record.expires_at <= time.time():
            raise WrongTokenError("it has expired")
        return VerifiedToken(f"token:{record.name}", record.scopes, record.expires_at, record)

    def has(self, record: TokenRecord) -> bool:
        """Return whether a token that was verified before has not been revoked, nor changed otherwise."""
        return self._valid.by_id.get(record.id) == record

    def _read(self) -> _Valid:
        tokens = tokens_in(self.path)
        return _Valid(tokens.hash_key, {each.id: each for each in tokens.tokens})
