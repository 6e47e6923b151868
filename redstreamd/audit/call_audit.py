"""Which calls and refusals are audit records, and how often.

Each call of a tool that manages is a record. What clients can cause any number of times is summed up:
refusals, and calls that trim or delete as a part of everyday work. Of those that are equal the first is a
record, and then how many there were, at the latest after ten minutes: nothing is left out of the totals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Final

import msgspec
import trio

from redstreamd.admission.accounts import Account, Peer
from redstreamd.audit.audit_events import AuditEvent, CallAudited, CallRefused, RequestRefused
from redstreamd.errors import Code
from redstreamd.policy import Principal
from redstreamd.tools.invocation import CANCELLED, OK, CallEnded

#: Seconds without a repetition after which an episode is over, and of the longest.
QUIET_SECONDS: Final = 60.0
LONGEST_SECONDS: Final = 600.0
#: Episodes of one principal; what would be more is summed up by tool.
_MAX_EPISODES: Final = 64
DENIED: Final = str(Code.PERMISSION_DENIED)


class _Refused(msgspec.Struct, frozen=True):
    """A request other than a call that was refused; see `CallAudit.refused`."""

    principal: Principal
    method: str
    streams: tuple[str, ...]
    account: Account | None


class _Episode(msgspec.Struct, eq=False):
    """What is repeated.

    Attributes:
        key: What makes it equal.
        latest: The last of it.
        since: When the first was recorded, on the caller's clock.
        last: When it happened last.
        more: How often it happened since it was recorded.
    """

    key: Hashable
    latest: CallEnded | _Refused
    since: float
    last: float
    more: int = 0

    @property
    def ends_at(self) -> float:
        """When it is over, unless it is repeated before."""
        return min(self.last + QUIET_SECONDS, self.since + LONGEST_SECONDS)


class CallAudit:
    """Turns calls that ended, and refusals, into audit events."""

    # Invariant: of each principal there are at most `_MAX_EPISODES` episodes, and one more for each tool.

    def __init__(
        self, on_event: Callable[[AuditEvent], None], *, clock: Callable[[], float] = trio.current_time
    ) -> None:
        """Begin without episodes.

        Args:
            on_event: Is told of each event; it must neither block nor raise.
            clock: In seconds; trio's, but for tests.
        """
        self._on_event = on_event
        self._clock = clock
        self._episodes: dict[Hashable, _Episode] = {}
        self._by_principal: Counter[Principal] = Counter()
        self._begun = trio.Event()

    def call_ended(self, ended: CallEnded) -> bool:
        """Take note of a call that ended; return whether a record of its own was made of it."""
        if ended.action is None:
            return ended.outcome == DENIED and self._repeatable((ended.principal, ended.tool, None), ended)
        if ended.manages:
            self._on_event(_event_of(ended))
            return True
        key = (ended.principal, ended.tool, ended.streams, ended.action, ended.outcome == OK)
        return self._repeatable(key, ended)

    def refused(
        self, principal: Principal, method: str, streams: tuple[str, ...], account: Account | None
    ) -> None:
        """Take note of a request other than a call that was refused.

        Args:
            principal: Who made it.
            method: Its method.
            streams: What it was about, as far as that is known.
            account: That of its connection; None if it came through none.
        """
        self._repeatable((principal, method, None), _Refused(principal, method, streams, account))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell how often each thing was repeated, once it stops, and of all when this is cancelled."""
        try:
            task_status.started()
            while True:
                await self._begun.wait()
                while self._episodes:
                    await trio.sleep_until(min(each.ends_at for each in self._episodes.values()))
                    self.end_episodes(self._clock())
                self._begun = trio.Event()
        finally:
            self.end_episodes(math.inf)

    def end_episodes(self, now: float) -> None:
        """Tell the totals of all that is over at this time."""
        for key, episode in list(self._episodes.items()):
            if episode.ends_at <= now:
                del self._episodes[key]
                principal = episode.latest.principal
                self._by_principal[principal] -= 1
                if not self._by_principal[principal]:
                    del self._by_principal[principal]
                if episode.more:
                    self._on_event(_event_of(episode.latest, episode.more))

    def _repeatable(self, key: tuple[Hashable, ...], latest: CallEnded | _Refused) -> bool:
        """Count what may be repeated; return whether it was the first of its kind."""
        episode = self._episodes.get(key)
        principal = latest.principal
        if episode is None and self._by_principal[principal] >= _MAX_EPISODES:
            # Only names of streams and figures make so many: from here on they make no difference.
            key = (principal, key[1], "others")
            episode = self._episodes.get(key)
        if episode is not None:
            episode.latest, episode.last = latest, self._clock()
            episode.more += 1
            return False
        now = self._clock()
        self._episodes[key] = _Episode(key, latest, since=now, last=now)
        self._by_principal[principal] += 1
        self._begun.set()
        self._on_event(_event_of(latest))
        return True


def connection_of(account: Account | None) -> tuple[Peer | None, str | None]:
    """Return the peer and the ID of a connection."""
    return (None, None) if account is None else (account.peer, account.name)


def error_code_of(outcome: str) -> str:
    """Return the code of the error that an outcome is; empty if it is none."""
    return "" if outcome in (OK, CANCELLED) else outcome


def _event_of(latest: CallEnded | _Refused, repeats: int | None = None) -> AuditEvent:
    peer, connection_id = connection_of(latest.account)
    who = (latest.principal, peer, connection_id)
    if isinstance(latest, _Refused):
        return RequestRefused(*who, latest.method, latest.streams, DENIED, repeats)
    if latest.action is None:
        return CallRefused(*who, latest.tool, latest.streams, DENIED, repeats)
    return CallAudited(
        *who,
        latest.tool,
        latest.action,
        latest.streams,
        latest.group,
        latest.seconds,
        latest.outcome,
        error_code_of(latest.outcome),
        latest.answer_bytes,
        repeats,
    )
