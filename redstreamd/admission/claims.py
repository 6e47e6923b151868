"""Limits of what all clients together may hold, and each principal: who is refused, and who gives way.

Owns the decision at a limit. A client at fault must not keep others from being served, so at a limit whoever
holds most gives way to whoever asks and holds less, by processes: of principals the greatest, of its users
the greatest, of their processes the greatest. What can be ended early without a loss, as a wait, is ended,
the oldest first: it is the next to end by itself. What cannot, as a subscription, is kept short of before:
the last quarter of a limit is for those who hold little.

Alternatives: a fixed share for each client leaves most of a limit unused, because few clients are greedy; a
reserve for waits, too, fails once enough processes are greedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from redstreamd.admission.accounts import Account, Held, Level, gives_way
from redstreamd.errors import BusError, Code
from redstreamd.errors.remedies import setting
from redstreamd.policy.quotas import Quantity, Quotas

#: After what time it is worth to ask again while memory is short.
_SHED_RETRY_SECONDS: Final = 5.0
#: Of a limit, the part for those who hold little; they may hold that part of what is free.
_RESERVE: Final = 4


class Kind(msgspec.Struct, frozen=True):
    """What a limit is about, for errors.

    Attributes:
        held: Where it is counted.
        quantity: What quotas call it.
        code: Of the error at the limit.
        message: That there are too many.
        noun: What there are too many of.
        next_step: What a client can do.
        retry_after_seconds: After what time it is worth to ask again, if time helps: no time is known.
        setting: The setting of the limit of all.
    """

    held: Held
    quantity: Quantity
    code: Code
    message: str
    noun: str
    next_step: str
    retry_after_seconds: float | None
    setting: str


WAITS: Final = Kind(
    Held.WAITS,
    Quantity.WAITS,
    Code.RATE_LIMITED,
    "Too many calls are waiting.",
    "waiting calls",
    "Try again in a second, or when one of your waiting calls has ended",
    1.0,
    "limits.max_waits",
)
SUBSCRIPTIONS: Final = Kind(
    Held.SUBSCRIPTIONS,
    Quantity.SUBSCRIPTIONS,
    Code.TOO_MANY_SUBSCRIPTIONS,
    "There are too many subscriptions.",
    "subscriptions",
    "Subscribe to less, or use stream_wait",
    None,
    "limits.max_subscriptions",
)


class Claim(msgspec.Struct, eq=False):
    """One place below a limit; made by `Limit.claim`.

    Attributes:
        account: Whose it is; None for the daemon's own.
        process: The account of its process.
        end: Ends what has the place early; None as long as that cannot be ended.
        is_held: Whether it was not released.
    """

    account: Account | None
    process: Account | None
    end: Callable[[], None] | None
    is_held: bool = True


class Limit:
    """Counts what clients hold of one kind, and decides at the limit.

    Attributes:
        total: How many places are taken.
        is_shedding: Whether no client gets a place, because memory is short.
    """

    def __init__(self, kind: Kind, most: int, quotas: Quotas | None = None) -> None:
        """Allow so many in all, and for each principal as many as quotas say; None: as many as in all."""
        self.total = 0
        self.is_shedding = False
        self._kind = kind
        # As an integer, which is a faster index than a member of an enumeration.
        self._held = int(kind.held)
        self._quotas = quotas
        self.reconfigure(most)
        # Of each process, the oldest first. Invariant: no empty ones.
        self._claims: dict[Account, dict[Claim, None]] = {}

    def reconfigure(self, most: int) -> None:
        """Allow so many in all from the next claim on; what is held beyond that is not taken away at once."""
        self._most = most
        self._free = self._places_for_all(most)

    def _places_for_all(self, most: int) -> int:
        """Return how many places whoever asks gets, whatever others hold."""
        return most

    def claim(self, account: Account | None, end: Callable[[], None] | None = None) -> Claim:
        """Take a place, perhaps that of another client, which is ended for it.

        Args:
            account: The connection that asks; None for the daemon itself, which no client's limit concerns.
            end: Ends early what has the place; called at most once, when the place was released. It must not
                block or raise. None: it is not ended, unless `Claim.end` is set later.

        Raises:
            BusError: The limit is reached, and nobody holds more than who asks; or memory is short.
        """
        process = None
        if account is not None:
            if self.is_shedding:
                raise self._shed()
            # Of a connection it is the parent.
            process = account.parent
            if process is None or process.level is not Level.PROCESS:
                process = _above(account, Level.PROCESS)
            kind = self._kind
            if self._quotas is not None and kind.quantity in self._quotas.limited:
                principal = _above(process, Level.PRINCIPAL)
                own = self._quotas.most(kind.quantity, principal.name)
                if own.number is not None:
                    self._make_room(account, principal, own.number, own.setting)
            if self.total >= self._free:
                self._make_room(account, _above(process, Level.ALL), self._most, self._kind.setting)
            account.hold(self._held)
        elif self.total >= self._most:
            raise self._refusal(None, self._most, self._kind.setting)
        self.total += 1
        claim = Claim(account, process, end)
        if process is not None:
            claims = self._claims.get(process)
            if claims is None:
                self._claims[process] = {claim: None}
            else:
                claims[claim] = None
        return claim

    def release(self, claim: Claim) -> None:
        """Give a place back. Idempotent."""
        if not claim.is_held:
            return
        claim.is_held = False
        self.total -= 1
        account, process = claim.account, claim.process
        if account is None or process is None:
            return
        # A connection that has closed has given back what it held.
        if account.held[self._held] > 0:
            account.hold(self._held, -1)
        claims = self._claims[process]
        del claims[claim]
        if not claims:
            del self._claims[process]

    def release_all(self, claims: Iterable[Claim]) -> None:
        """Give several places back, as `release`; the accounts above are told once how many."""
        what = self._held
        less: dict[Account, int] = {}
        last, own = None, {}
        for claim in claims:
            if not claim.is_held:
                continue
            claim.is_held = False
            self.total -= 1
            account, process = claim.account, claim.process
            if account is None or process is None:
                continue
            held = account.held
            if (before := held[what]) > 0:
                held[what] = before - 1
                if (above := account.parent) is not None:
                    less[above] = less.get(above, 0) + 1
            if process is not last:
                last, own = process, self._claims[process]
            del own[claim]
            if not own:
                del self._claims[process]
                last = None
        for above, amount in less.items():
            above.hold(what, -amount)

    def _make_room(self, account: Account, within: Account, most: int, by: str) -> None:
        """Have others give way until there is a place below one limit.

        Args:
            account: Who asks.
            within: The account that has the limit.
            most: The limit.
            by: The setting that says so.

        Raises:
            BusError: Nobody gives way.
        """
        what = self._kind.held
        # The daemon's own places count for nobody.
        while (self.total if within.parent is None else within.held[what]) >= most:
            process = gives_way(within, what, account)
            claims = {} if process is None else self._claims.get(process, {})
            for claim in claims:
                if (end := claim.end) is not None:
                    break
            else:
                raise self._refusal(account, most, by)
            self.release(claim)
            end()

    def _shed(self) -> BusError:
        return BusError(
            self._kind.code,
            f"No more {self._kind.noun} are taken for now.",
            cause="This host is short of memory; what waits already goes on waiting.",
            next_step="Try again in a few seconds, or read without waiting.",
            retry_after_seconds=_SHED_RETRY_SECONDS,
        )

    def _refusal(self, account: Account | None, most: int, by: str) -> BusError:
        kind = self._kind
        cause = f"There are {most} {kind.noun}, which is the limit"
        if account is not None:
            own = _above(account, Level.PROCESS).held[kind.held]
            cause += f", and this client has {own} of them, no less than any other"
        return BusError(
            kind.code,
            kind.message,
            cause=f"{cause}.",
            next_step=f"{kind.next_step}; or raise {setting(by)}.",
            retry_after_seconds=kind.retry_after_seconds,
        )


class SharedLimit(Limit):
    """A limit of what is never ended early, of which the last quarter is for those who hold little.

    In that quarter a process may hold no more than a quarter of what is free, so that each that comes finds
    something left (a dynamic threshold, as switches divide a shared buffer with it).
    """

    def _places_for_all(self, most: int) -> int:
        return most - most // _RESERVE

    def _make_room(self, account: Account, within: Account, most: int, by: str) -> None:
        what = self._kind.held
        free = most - (self.total if within.parent is None else within.held[what])
        own = _above(account, Level.PROCESS).held[what]
        if free <= 0 or (free <= most // _RESERVE and own * _RESERVE >= free):
            raise self._refusal(account, most, by)


def _above(account: Account, level: Level) -> Account:
    """Return the account of a level that includes an account."""
    while account.level > level and account.parent is not None:
        account = account.parent
    return account
