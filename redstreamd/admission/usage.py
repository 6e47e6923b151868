"""Who takes how much of the daemon's time and of Redis's: figures for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from redstreamd.admission.accounts import RECENT_SECONDS, Account, Accounts, Held, Level

#: How many are named.
_NAMED: Final = 5
#: What is less than this share of the time is not worth a name.
_LEAST_SHARE: Final = 0.001


class Busy(msgspec.Struct, frozen=True):
    """What the connections of one process use.

    Attributes:
        principal: On whose behalf it calls.
        user: Its user, such as "uid 1000".
        process: The process, such as "pid 4711"; the address of a client over TCP.
        connections: How many it has.
        share: Seconds of work in a second, of late: of the daemon's event loop and of Redis together.
        running: Commands for Redis that are under way.
        queued: Commands for Redis that wait for their turn; a large one counts as several.
    """

    principal: str
    user: str
    process: str
    connections: int
    share: float
    running: int
    queued: int


class Usage(msgspec.Struct, frozen=True):
    """Who uses most, of late.

    Attributes:
        busiest: The greatest first; a few.
    """

    busiest: Sequence[Busy]


def usage(accounts: Accounts) -> Usage:
    """Return who uses most of the daemon's time and of Redis's."""
    now = time.perf_counter()
    busy = [_busy(process, now) for process in _processes(accounts.all)]
    named = [each for each in busy if each.share >= _LEAST_SHARE or each.queued]
    named.sort(key=lambda each: each.share, reverse=True)
    return Usage(named[:_NAMED])


def _processes(account: Account) -> Iterator[Account]:
    if account.level is Level.PROCESS:
        yield account
    else:
        for member in account.members.values():
            yield from _processes(member)


def _busy(process: Account, now: float) -> Busy:
    _, principal, user, _ = process.path()
    return Busy(
        principal.name,
        user.name,
        process.name,
        process.held[Held.CONNECTIONS],
        round(process.used(now) / RECENT_SECONDS, 4),
        process.under_way(),
        process.queued,
    )
