"""The bearer tokens that clients show: which were verified, and whether they are still valid.

What was verified is remembered by a digest with a key of this process, which tells nobody the token, until it
expires, is revoked, or its issuer withdraws the key; so a call costs one look-up.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable
from typing import Final

import trio

from redstreamd.errors import SettingsError
from redstreamd.errors.defects import report_defect
from redstreamd.mcpio.connection_events import CredentialsNotRenewed, EventHook, KeysNotFetched
from redstreamd.policy import Principal
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.token_records import PREFIX
from redstreamd.protection.verified_tokens import (
    KeysUnavailableError,
    TokenVerifier,
    VerifiedToken,
    WrongTokenError,
)

#: How often it is looked whether the file of tokens has changed, or keys are to be fetched.
LOOK_SECONDS: Final = 1.0
#: Longer tokens are none; a header may be as long as the head, and verifying takes time.
MAX_TOKEN_CHARACTERS: Final = 8 * 1024
#: Tokens that are remembered; 1 KiB each at most.
_MAX_KNOWN: Final = 4_096
_SCHEME: Final = "bearer "


class KnownToken:
    """A token that was verified, and the principal of who shows it.

    Attributes:
        token: What it says.
        oauth: What verified it; None if that was the file.
    """

    __slots__ = ("_listener", "_principal", "oauth", "token")

    def __init__(self, token: VerifiedToken, oauth: TokenVerifier | None) -> None:
        """Record what was verified."""
        self.token = token
        self.oauth = oauth
        self._listener: Principal | None = None

    def principal_at(self, listener: Principal) -> Principal:
        """Return the principal of a client of a listener that shows it: the same object, as a rule."""
        if listener is not self._listener:
            # A certificate or a uid of the same client says less than the token.
            socket = Principal(listener.socket or listener.name, listener.transport)
            self._listener = listener
            self._principal = socket.proved(self.token.proved, self.token.permissions)
        return self._principal


class KnownTokens:
    """Verifies tokens, and remembers those that are valid.

    Attributes:
        file: The file of tokens; None if there is none.
        oauth: For the tokens of an authorization server; None if there is none.
    """

    def __init__(self, report: EventHook) -> None:
        """Begin without a file and without an authorization server.

        Args:
            report: Called with events.
        """
        self.file: BearerTokens | None = None
        self.oauth: TokenVerifier | None = None
        self._report: Final = report
        self._key: Final = secrets.token_bytes(32)
        # By digest; the oldest is forgotten first.
        self._known: dict[bytes, KnownToken] = {}

    def reconfigure(self, file: BearerTokens | None, oauth: TokenVerifier | None) -> None:
        """Verify by these from now on."""
        self.file = file
        # One with the same options has keys already.
        if oauth is None or self.oauth is None or oauth.options != self.oauth.options:
            self.oauth = oauth

    def find(self, authorization: str) -> KnownToken | None:
        """Return the token of a header that was verified before and is valid; None if there is none."""
        known = self.known(authorization)
        return known if known is not None and self.is_valid(known) else None

    def known(self, authorization: str) -> KnownToken | None:
        """Return the token of a header that was verified before, valid or not; None if it is forgotten."""
        return self._known.get(self._digest(authorization))

    def is_valid(self, known: KnownToken) -> bool:
        """Return whether a token has neither expired nor been revoked."""
        token = known.token
        if token.record is not None:
            is_there = self.file is not None and self.file.has(token.record)
        else:
            oauth = self.oauth
            is_there = oauth is not None and known.oauth is oauth and oauth.has(token)
        return is_there and token.expires_at > time.time()

    def verify(self, authorization: str) -> KnownToken | Awaitable[KnownToken]:
        """Return the token of a header; it is awaited if keys have to be fetched for it.

        Raises:
            WrongTokenError: It is not valid.
            KeysUnavailableError: That cannot be told now.
        """
        token, oauth = _token_in(authorization), self.oauth
        if self.file is not None and (oauth is None or token.startswith(PREFIX)):
            return self._remember(authorization, KnownToken(self.file.verify(token), None))
        if oauth is None:
            raise WrongTokenError("it is not one of this daemon's tokens")
        shown = oauth.verify(token)
        if isinstance(shown, VerifiedToken):
            return self._remember(authorization, KnownToken(shown, oauth))
        return self._verify_later(authorization, shown, oauth)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the file and the keys up to date, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_keys)
            task_status.started()
            while True:
                await trio.sleep(LOOK_SECONDS)
                if self.file is not None:
                    try:
                        await trio.to_thread.run_sync(self.file.renew)
                    except SettingsError as wrong:
                        self._report(CredentialsNotRenewed(str(wrong)))

    async def _keep_keys(self) -> None:
        while True:
            if self.oauth is not None:
                try:
                    await self.oauth.keep_keys()
                except KeysUnavailableError as missing:
                    self._report(KeysNotFetched(missing.why))
                except Exception as defect:  # noqa: BLE001 - what others answer must not end the daemon
                    report_defect("fetching the keys of the authorization server failed", defect)
            await trio.sleep(LOOK_SECONDS)

    async def _verify_later(
        self, authorization: str, verifying: Awaitable[VerifiedToken], oauth: TokenVerifier
    ) -> KnownToken:
        try:
            return self._remember(authorization, KnownToken(await verifying, oauth))
        except KeysUnavailableError as missing:
            self._report(KeysNotFetched(missing.why))
            raise

    def _remember(self, authorization: str, known: KnownToken) -> KnownToken:
        if len(self._known) >= _MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[self._digest(authorization)] = known
        return known

    def _digest(self, authorization: str) -> bytes:
        text = authorization.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._key, digest_size=16).digest()


def _token_in(authorization: str) -> str:
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise WrongTokenError("the header Authorization is not of the form Bearer TOKEN")
    token = authorization[len(_SCHEME) :].strip(" ")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise WrongTokenError(f"it is longer than {MAX_TOKEN_CHARACTERS} characters")
    return token
