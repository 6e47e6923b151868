"""Who may call over HTTP: decides by the head of a request, before its body is read.

- The host that it is for has to be one of ours, else 421; a web page that it comes from, one of ours, else
  403. See `http_places`.
- Where tokens are demanded: a bearer token that the file of tokens has, or that the authorization server has
  issued for this daemon, else 401. What was verified is remembered, by a digest with a key of this process,
  until it expires or is revoked; so a call costs one look-up.
- Whoever fails often is answered late.

A token is in no repr, log, error or answer.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import trio

from redstreamd.errors import SettingsError
from redstreamd.errors.remedies import setting, shortened
from redstreamd.mcpio import jsonrpc
from redstreamd.mcpio.connection_events import ClientRefused, CredentialsNotRenewed, EventHook
from redstreamd.policy import Permission, Principal
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.token_records import PREFIX
from redstreamd.protection.verified_tokens import VerifiedToken, WrongTokenError
from redstreamd.streamable_http.failed_attempts import FailedAttempts
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead
from redstreamd.streamable_http.http_places import Hosts, Origins

#: How often it is looked whether the file of tokens has changed.
LOOK_SECONDS: Final = 1.0
#: Longer tokens are none; a header may be as long as the head, and hashing takes time.
MAX_TOKEN_CHARACTERS: Final = 8 * 1024
#: Tokens that are remembered as verified; 200 bytes each.
_MAX_VERIFIED: Final = 4_096
LATE_SECONDS: Final = 1.0
_SCHEME: Final = "bearer "


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
            WrongTokenError: It is not valid, or that cannot be told now.
        """
        ...


class _Verified:
    """A token that was verified, and the principal of who shows it."""

    __slots__ = ("_listener", "_principal", "oauth", "token")

    def __init__(self, token: VerifiedToken, oauth: TokenVerifier | None, shown_to: Principal) -> None:
        self.token = token
        self.oauth = oauth
        self._become(shown_to)

    def principal_of(self, client: Client) -> Principal:
        """Return the principal of a client that shows the token: the same object each time, as a rule."""
        if client.principal is not self._listener:
            self._become(client.principal)
        return self._principal

    def _become(self, listener: Principal) -> None:
        # A certificate or a uid of the same client says less than the token.
        name = listener.socket or listener.name
        self._listener = listener
        self._principal = Principal(name, listener.transport).proved(
            self.token.proved, self.token.permissions
        )


class HttpAccess:
    """Decides who may call over HTTP."""

    def __init__(
        self,
        *,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        tokens: BearerTokens | None = None,
        oauth: TokenVerifier | None = None,
        metadata_url: str | None = None,
        report: EventHook,
    ) -> None:
        """Begin without a token that was verified.

        Args:
            hosts: What a request may be for besides names of loopback: the addresses that are listened on,
                and `http.allowed_hosts`; see `Hosts`.
            origins: Which web pages it may come from besides those of loopback; see `Origins`.
            tokens: The file of tokens; None if there is none.
            oauth: For the tokens of an authorization server; None if there is none. Without either of the
                two no token is asked for.
            metadata_url: Where clients find which authorization server issues tokens (RFC 9728).
            report: Called with events.

        Raises:
            ValueError: One of the hosts or origins is not valid.
        """
        self._report: Final = report
        self._failures: Final = FailedAttempts()
        # By the digest of a token, which tells nobody the token; the oldest is forgotten first.
        self._verified: dict[bytes, _Verified] = {}
        self._key: Final = secrets.token_bytes(32)
        self._tokens: BearerTokens | None = None
        self._oauth: TokenVerifier | None = None
        self.reconfigure(hosts=hosts, origins=origins, tokens=tokens, oauth=oauth, metadata_url=metadata_url)

    def reconfigure(
        self,
        *,
        hosts: Collection[str],
        origins: Collection[str],
        tokens: BearerTokens | None,
        oauth: TokenVerifier | None,
        metadata_url: str | None,
    ) -> None:
        """Decide otherwise from the next request on; for the arguments see above.

        Raises:
            ValueError: One of the hosts or origins is not valid, and nothing has changed.
        """
        self._hosts, self._origins = Hosts(hosts), Origins(origins)
        self._tokens = tokens
        # One with the same options has keys already.
        if oauth is None or self._oauth is None or oauth.options != self._oauth.options:
            self._oauth = oauth
        self._metadata_url = metadata_url

    @property
    def asks_token(self) -> bool:
        """Whether clients have to show a token."""
        return self._tokens is not None or self._oauth is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read the file of tokens again when it has changed, until cancelled."""
        task_status.started()
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self._tokens is not None:
                try:
                    await trio.to_thread.run_sync(self._tokens.renew)
                except SettingsError as wrong:
                    self._report(CredentialsNotRenewed(str(wrong)))

    def admit(self, head: RequestHead, client: Client) -> Principal | Answer | Awaitable[Principal | Answer]:
        """Return on whose behalf a request is made, or its refusal; awaited where that takes time."""
        if (misplaced := self.misplaced(head, client)) is not None:
            return misplaced
        if not self.asks_token:
            return client.principal
        authorization = head.fields.get("authorization")
        if authorization is None:
            return self._refused(client, None)
        verified = self._verified.get(self._digest(authorization))
        if verified is not None and self._is_valid(verified):
            return verified.principal_of(client)
        try:
            shown = self._verify(_token_in(authorization, head))
        except WrongTokenError as wrong:
            return self._refused(client, wrong.why)
        if isinstance(shown, VerifiedToken):
            return self._admitted(authorization, shown, self._oauth, client)
        return self._admit_later(authorization, shown, self._oauth, client)

    def misplaced(self, head: RequestHead, client: Client) -> Answer | None:
        """Return the refusal of a request that is for another host, or comes from a foreign web page."""
        if head.authority not in self._hosts:
            self._report(
                ClientRefused(client.principal, "its request is for a host that is not ours", client.peer)
            )
            told = (
                f"Host {shortened(head.authority)!r} is not one of this daemon. Use its own name, or add it "
                f"to {setting('http.allowed_hosts')}."
            )
            return _error(421, told)
        origin = head.fields.get("origin")
        if origin is not None and origin not in self._origins:
            self._report(ClientRefused(client.principal, "it is a web page of a foreign origin", client.peer))
            told = f"Web pages of {shortened(origin)!r} may not call. {_ALLOW_ORIGIN}"
            return _error(403, told)
        return None

    def origin_allowed(self, head: RequestHead) -> str | None:
        """Return the origin whose pages may read the response, for CORS; None if none may."""
        origin = head.fields.get("origin")
        return origin if origin is not None and origin in self._origins else None

    def validity(self, head: RequestHead) -> Callable[[], bool]:
        """Return what tells whether the token of a request that was admitted is valid still.

        For responses that stay open. It reads nothing and takes less than a microsecond.
        """
        verified = self._verified.get(self._digest(head.fields.get("authorization", "")))
        return _always if verified is None else lambda: self._is_valid(verified)

    def insufficient(self, needed: Permission) -> Answer:
        """Return the refusal of a request whose token does not have the scope that it needs."""
        challenge = self._challenge("insufficient_scope", "the token does not have this scope", str(needed))
        return _error(403, f"The token does not have the scope {needed}.", (challenge,))

    def _is_valid(self, verified: _Verified) -> bool:
        token = verified.token
        if token.record is None:
            is_there = verified.oauth is self._oauth
        else:
            is_there = self._tokens is not None and self._tokens.has(token.record)
        return is_there and token.expires_at > time.time()

    def _digest(self, authorization: str) -> bytes:
        return hashlib.blake2b(
            authorization.encode("latin-1", "replace"), key=self._key, digest_size=16
        ).digest()

    def _verify(self, token: str) -> VerifiedToken | Awaitable[VerifiedToken]:
        if self._tokens is not None and (token.startswith(PREFIX) or self._oauth is None):
            return self._tokens.verify(token)
        if self._oauth is None:
            raise WrongTokenError("it is not one of this daemon's tokens")
        return self._oauth.verify(token)

    def _admitted(
        self, authorization: str, token: VerifiedToken, oauth: TokenVerifier | None, client: Client
    ) -> Principal:
        if len(self._verified) >= _MAX_VERIFIED:
            del self._verified[next(iter(self._verified))]
        verified = self._verified[self._digest(authorization)] = _Verified(
            token, self._oauth, client.principal
        )
        return verified.principal_of(client)

    async def _admit_later(
        self,
        authorization: str,
        verifying: Awaitable[VerifiedToken],
        oauth: TokenVerifier | None,
        client: Client,
    ) -> Principal | Answer:
        try:
            verified = await verifying
        except WrongTokenError as wrong:
            refused = self._refused(client, wrong.why)
            return refused if isinstance(refused, Answer) else await refused
        return self._admitted(authorization, verified, oauth, client)

    def _refused(self, client: Client, why: str | None) -> Answer | Awaitable[Answer]:
        """Return the refusal of a token; None: there was none."""
        if why is None:
            # With an authorization server that is how clients ask where it is.
            if self._oauth is None:
                self._report(ClientRefused(client.principal, "it sent no bearer token", client.peer))
            told = "A token is needed, in the header Authorization: Bearer TOKEN. Ask the operator for one."
            return _error(401, told, (self._challenge(),))
        self._report(ClientRefused(client.principal, f"its bearer token is not valid: {why}", client.peer))
        told, challenge = f"The token is not valid: {why}.", self._challenge("invalid_token", why)
        if not self._failures.too_many(client.peer):
            return _error(401, told, (challenge,))
        return _late(_error(401, told, (challenge,), closes=True))

    def _challenge(
        self, error: str | None = None, description: str | None = None, scope: str | None = None
    ) -> tuple[str, str]:
        """Return the header by which clients learn what is wanted (RFC 6750, RFC 9728)."""
        parts = ['realm="redstreamd"']
        if self._metadata_url is not None:
            parts.append(f'resource_metadata="{self._metadata_url}"')
        if error is not None:
            parts += [f'error="{error}"', f'error_description="{description}"']
        if scope is None and self._oauth is not None:
            scope = " ".join(Permission)
        if scope is not None:
            parts.append(f'scope="{scope}"')
        return "WWW-Authenticate", f"Bearer {', '.join(parts)}"


def _token_in(authorization: str, head: RequestHead) -> str:
    if "authorization" in head.repeated:
        raise WrongTokenError("the header Authorization is there twice")
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise WrongTokenError("the header Authorization is not of the form Bearer TOKEN")
    token = authorization[len(_SCHEME) :].strip(" ")
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise WrongTokenError(f"it is longer than {MAX_TOKEN_CHARACTERS} characters")
    return token


def _error(
    status: int, told: str, fields: tuple[tuple[str, str], ...] = (), *, closes: bool = False
) -> Answer:
    return Answer(status, jsonrpc.error(None, jsonrpc.NOT_NOW, told), fields=fields, closes=closes)


async def _late(answer: Answer) -> Answer:
    await trio.sleep(LATE_SECONDS)
    return answer


def _always() -> bool:
    return True


_ALLOW_ORIGIN: Final = f"If they should, add it to {setting('http.allowed_origins')}."
