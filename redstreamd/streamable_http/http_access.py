"""Who may call over HTTP: decides by the head of a request, before its body is read.

- The host that it is for has to be one of ours, else 421; a web page that it comes from, one of ours, else
  403. See `http_places`.
- Where tokens are demanded: a bearer token of the file of tokens, or one that the authorization server has
  issued for this daemon, else 401; with a scope that means something here, and is that of the tool which the
  head names, else 403. See `known_tokens`.
- Whoever fails often is answered late.

A token is in no repr, log, error or answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final

import trio

from redstreamd.errors.remedies import setting, shortened
from redstreamd.mcpio.connection_events import ClientRefused, EventHook
from redstreamd.policy import Permission, Principal
from redstreamd.protection.bearer_tokens import BearerTokens
from redstreamd.protection.verified_tokens import KeysUnavailableError, TokenVerifier, WrongTokenError
from redstreamd.streamable_http.failed_attempts import FailedAttempts
from redstreamd.streamable_http.http_messages import Answer, Client, RequestHead
from redstreamd.streamable_http.http_places import Hosts, Origins
from redstreamd.streamable_http.http_refusals import LATER, challenge, refusal
from redstreamd.streamable_http.known_tokens import KnownToken, KnownTokens

#: How late whoever failed too often is answered.
LATE_SECONDS: Final = 1.0


MissingScope = Callable[[Principal, str], Permission | None]
"""``(principal, tool)``: returns the scope for a tool that the principal's token lacks; None if it has it."""


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
        useful: Callable[[], Collection[Permission]] = lambda: tuple(Permission),
        missing_scope: MissingScope = lambda *_: None,
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
            useful: Returns which scopes tokens are good for: clients ask for those that they are told of, so
                the daemon tells of none that nothing which it offers needs.
            missing_scope: See `MissingScope`.
            report: Called with events.

        Raises:
            ValueError: One of the hosts or origins is not valid.
        """
        self._useful: Final = useful
        self._missing_scope: Final = missing_scope
        self._report: Final = report
        self._failures: Final = FailedAttempts()
        self._tokens: Final = KnownTokens(report)
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
        self._tokens.reconfigure(tokens, oauth)
        self._metadata_url = metadata_url

    @property
    def asks_token(self) -> bool:
        """Whether clients have to show a token."""
        return self._tokens.file is not None or self._tokens.oauth is not None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the file of tokens and the keys of the authorization server up to date, until cancelled."""
        await self._tokens.run(task_status=task_status)

    def admit(self, head: RequestHead, client: Client) -> Principal | Answer | Awaitable[Principal | Answer]:
        """Return on whose behalf a request is made, or its refusal; awaited where that takes time."""
        if (misplaced := self.misplaced(head, client)) is not None:
            return misplaced
        if not self.asks_token:
            return client.principal
        authorization = head.fields.get("authorization")
        if authorization is None:
            return self._unasked(client)
        if (known := self._tokens.find(authorization)) is not None:
            return self._admitted(known, head, client)
        try:
            if "authorization" in head.repeated:
                raise WrongTokenError("the header Authorization is there twice")
            verified = self._tokens.verify(authorization)
        except WrongTokenError as wrong:
            return self._refused(client, wrong.why)
        except KeysUnavailableError:
            return LATER
        if isinstance(verified, KnownToken):
            return self._admitted(verified, head, client)
        return self._admit_later(verified, head, client)

    def misplaced(self, head: RequestHead, client: Client) -> Answer | None:
        """Return the refusal of a request that is for another host, or comes from a foreign web page."""
        if head.authority not in self._hosts:
            self._tell(client, "its request is for a host that is not ours")
            told = (
                f"Host {shortened(head.authority)!r} is not one of this daemon. Use its own name, or add it "
                f"to {setting('http.allowed_hosts')}."
            )
            return refusal(421, told)
        origin = head.fields.get("origin")
        if origin is not None and origin not in self._origins:
            self._tell(client, "it is a web page of a foreign origin")
            told = f"Web pages of {shortened(origin)!r} may not call. "
            told += f"If they should, add it to {setting('http.allowed_origins')}."
            return refusal(403, told)
        return None

    def origin_allowed(self, head: RequestHead) -> str | None:
        """Return the origin whose pages may read the response, for CORS; None if none may."""
        origin = head.fields.get("origin")
        return origin if origin is not None and origin in self._origins else None

    def validity(self, head: RequestHead) -> Callable[[], bool]:
        """Return what tells whether the token of a request that was admitted is valid still.

        For responses that stay open. It reads nothing and takes less than a microsecond. Where the token is
        not known any more, it says no: the client may come back with it.
        """
        known = self._tokens.known(head.fields.get("authorization", ""))
        return lambda: not self.asks_token if known is None else self._tokens.is_valid(known)

    def _admitted(self, known: KnownToken, head: RequestHead, client: Client) -> Principal | Answer:
        principal = known.principal_at(client.principal)
        permissions = principal.permissions
        if permissions is None:
            return principal
        needed: tuple[Permission, ...] = ()
        if not permissions:
            needed = self._wanted
        elif head.fields.get("mcp-method") == "tools/call":
            # What the header says is compared with the body afterwards.
            missing = self._missing_scope(principal, head.fields.get("mcp-name", ""))
            needed = () if missing is None else (missing,)
        if not needed:
            return principal
        why = f"its token does not have the scope {' or '.join(needed)}"
        self._report(ClientRefused(principal, why, client.peer))
        return self._insufficient(needed)

    async def _admit_later(
        self, verifying: Awaitable[KnownToken], head: RequestHead, client: Client
    ) -> Principal | Answer:
        try:
            return self._admitted(await verifying, head, client)
        except WrongTokenError as wrong:
            refused = self._refused(client, wrong.why)
        except KeysUnavailableError:
            return LATER
        return refused if isinstance(refused, Answer) else await refused

    def _insufficient(self, needed: tuple[Permission, ...]) -> Answer:
        """Return the refusal of a request whose token has none of the scopes that it needs."""
        header = challenge(
            metadata_url=self._metadata_url,
            error="insufficient_scope",
            description="the token does not have this scope",
            scopes=needed,
        )
        return refusal(403, f"The token does not have the scope {' or '.join(needed)}.", (header,))

    def _unasked(self, client: Client) -> Answer:
        """Return the refusal of a request without a token."""
        # With an authorization server that is how clients ask where it is.
        if self._tokens.oauth is None:
            self._tell(client, "it sent no bearer token")
        header = challenge(metadata_url=self._metadata_url, scopes=self._asked)
        told = "A token is needed, in the header Authorization: Bearer TOKEN. Ask the operator for one."
        return refusal(401, told, (header,))

    def _refused(self, client: Client, why: str) -> Answer | Awaitable[Answer]:
        """Return the refusal of a token."""
        self._tell(client, f"its bearer token is not valid: {why}")
        header = challenge(
            metadata_url=self._metadata_url, error="invalid_token", description=why, scopes=self._asked
        )
        late = self._failures.too_many(client.peer)
        answer = refusal(401, f"The token is not valid: {why}.", (header,), closes=late)
        return _late(answer) if late else answer

    @property
    def _wanted(self) -> tuple[Permission, ...]:
        useful = self._useful()
        return tuple(each for each in Permission if each in useful)

    @property
    def _asked(self) -> tuple[Permission, ...]:
        """The scopes that a client should ask an authorization server for."""
        return () if self._tokens.oauth is None else self._wanted

    def _tell(self, client: Client, why: str) -> None:
        self._report(ClientRefused(client.principal, why, client.peer))


async def _late(answer: Answer) -> Answer:
    await trio.sleep(LATE_SECONDS)
    return answer
