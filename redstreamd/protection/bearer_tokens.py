"""Bearer tokens of clients that come over HTTP, verified by the records of a file."""

from __future__ import annotations

import hmac
import time

import attrs

from redstreamd.errors import SettingsError
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
        # The version that could not be used, if it was told.
        self._unusable: tuple[object] | None = None
        self._valid = self._read()

    def renew(self) -> bool:
        """Read the file again if it has changed, and return whether it was read. Blocks; for a thread.

        Raises:
            SettingsError: It cannot be used; the tokens of before stay valid. It is tried again at each call,
                since the reason may pass without a change of the file, and raised once for each change.
        """
        version = version_of(self.path)
        if version == self._version:
            self._unusable = None
            return False
        try:
            self._valid = self._read()
        except SettingsError:
            told, self._unusable = self._unusable, (version,)
            if told == self._unusable:
                return False
            raise
        self._version, self._unusable = version, None
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
