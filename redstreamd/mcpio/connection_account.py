"""What one connection is counted for, from its opening to its closing.

Owns its account, its share of the memory, and the two events that say when it began and how it ended; for
both transports.
"""

from __future__ import annotations

import contextvars
import secrets
from typing import Final

import trio

from redstreamd.admission.accounts import Account, Accounts, Held, Level, Peer
from redstreamd.admission.memory import Holder, Memory
from redstreamd.admission.turns import ACCOUNT, turns
from redstreamd.mcpio.connection_events import (
    ConnectionClosed,
    ConnectionOpened,
    Ending,
    EventHook,
    MemoryExceeded,
    contained,
)
from redstreamd.mcpio.late_event import LateEvent
from redstreamd.mcpio.limits import Limits
from redstreamd.mcpio.peers import UNKNOWN
from redstreamd.mcpio.session import Task
from redstreamd.policy import Principal


class ConnectionAccount:
    """The entry of one connection in the books of the daemon.

    Attributes:
        id: The connection's identifier in records.
        principal: On whose behalf it calls, if it does not prove another one.
        peer: Who connected; None if that is not known.
        account: What it uses and holds is counted here.
        share: Its share of the memory.
        report: Takes the events of the connection; never raises.
        opened_at: When it began to be served, on trio's clock; in the past of all times before that.
        closed: Set once it is closed.
        unread_bytes: What the client had not read when the connection ended because of that.
    """

    __slots__ = (
        "_accounts",
        "_limits",
        "account",
        "closed",
        "id",
        "opened_at",
        "peer",
        "principal",
        "report",
        "share",
        "unread_bytes",
    )

    def __init__(
        self,
        holder: Holder,
        *,
        principal: Principal,
        peer: Peer | None,
        accounts: Accounts,
        memory: Memory,
        limits: Limits,
        report: EventHook,
        id: str | None = None,  # noqa: A002 - what it is
    ) -> None:
        """Enter a connection.

        Args:
            holder: Gives memory back when all clients together hold too much.
            principal: On whose behalf it calls.
            peer: Who connected; None if that is not known.
            accounts: Of all connections.
            memory: The budget of all connections.
            limits: As they are in force.
            report: Called with each event.
            id: Of a connection that goes on; None for a new one.
        """
        self.id: Final = id or secrets.token_hex(8)
        self.principal: Final = principal
        self.peer: Final = peer
        self._limits = limits
        self._accounts = accounts
        self.account: Final = accounts.open(principal, peer or UNKNOWN, self.id)
        self.share: Final = memory.open(self.account, holder)
        self.report: Final = contained(report)
        self.opened_at = float("-inf")
        self.closed: Final = LateEvent()
        self.unread_bytes = 0

    @property
    def process(self) -> Account:
        """The account of the client's process."""
        return self.account.path()[Level.PROCESS]

    def open(self) -> None:
        """Take note that the connection is served from now on."""
        self.opened_at = trio.current_time()
        self.report(ConnectionOpened(self.id, self.principal))

    def start(self, nursery: trio.Nursery, task: Task) -> None:
        """Start a task in `nursery` on behalf of the client."""
        # In a context of its own: who starts it may be somebody else's task.
        context = contextvars.copy_context()
        context.run(ACCOUNT.set, self.account)
        context.run(nursery.start_soon, task)
        turns().spend(self.account)

    def leave_place(self) -> None:
        """Count the connection no more among those of its principal: another one gets its place."""
        self.account.hold(Held.CONNECTIONS, -1)

    def report_refusal(self) -> None:
        """Report that a request was refused, because all clients together hold too much."""
        limit, held = self._limits.max_memory_bytes, self.account.held[Held.BYTES]
        self.report(MemoryExceeded(self.id, self.principal, limit, held, self.peer))

    def close(self, ending: Ending, *, requests: int, cut_off: int, why: str = "") -> None:
        """Give everything back, and report how the connection ended.

        Args:
            ending: What ended it.
            requests: How many requests it has received.
            cut_off: How many of them were not answered by their handlers.
            why: What was wrong with the last request, if that ended it.
        """
        self.share.close()
        self._accounts.close(self.account)
        self.closed.set()
        limits = {
            Ending.OVERFLOW: self._limits.max_outbox_bytes,
            Ending.MEMORY: self._limits.max_memory_bytes,
        }
        self.report(
            ConnectionClosed(
                self.id,
                self.principal,
                ending=ending,
                open_seconds=trio.current_time() - self.opened_at,
                requests=requests,
                cut_off=cut_off,
                limit_bytes=limits.get(ending),
                peer=self.peer,
                unread_bytes=self.unread_bytes,
                why=why,
            )
        )
