"""The requests that wait for their turn: more work is at the server than clients may have there at once.

They wait in the order of a `FairQueue`, and count for the process that they are sent for, which is not read
from while it has many of them.
"""

from __future__ import annotations

from typing import Final

from redstreamd.admission.accounts import Account
from redstreamd.admission.fair_queue import FairQueue
from redstreamd.admission.turns import Turns
from redstreamd.redisio.redis_request import Request

#: So many bytes of a deferred request count as one more request.
_QUEUED_BYTES: Final = 64 * 1024


class DeferredRequests:
    """The deferred requests of one connection.

    Attributes:
        count: How many there are.
        bytes: Their packed size.
    """

    __slots__ = ("_queue", "_turns", "bytes", "count")

    def __init__(self, turns: Turns | None) -> None:
        """Begin with none; without turns there never are any."""
        self._turns = turns
        self._queue: FairQueue[Request] = FairQueue()
        self.count = self.bytes = 0

    def push(self, account: Account, request: Request, packed: bytes, calls: int) -> None:
        """Defer a request of an account that serves so many calls."""
        request.deferred = packed
        self.count += 1
        self.bytes += len(packed)
        self._queue.push(account, request)
        request.queued = calls + len(packed) // _QUEUED_BYTES
        account.queue(request.queued)

    def pop(self) -> tuple[Account, Request, bytes]:
        """Return the next one, its account and its bytes: it is deferred no more.

        Raises:
            IndexError: There is none.
        """
        account, request = self._queue.pop()
        return account, request, self._release(account, request)

    def remove(self, account: Account, request: Request) -> None:
        """Let one go that is taken back; nothing if it is not there."""
        if self._queue.remove(account, request):
            self._release(account, request)

    def replace(self, account: Account, request: Request, packed: bytes, calls: int) -> None:
        """Let one send something else in the same place."""
        self.bytes += len(packed) - len(request.deferred or b"")
        request.deferred = packed
        before, request.queued = request.queued, calls + len(packed) // _QUEUED_BYTES
        account.queue(request.queued - before)
        if self._turns is not None:
            self._turns.dequeued(account)

    def _release(self, account: Account, request: Request) -> bytes:
        packed, request.deferred = request.deferred or b"", None
        self.count -= 1
        self.bytes -= len(packed)
        account.queue(-request.queued)
        if self._turns is not None:
            self._turns.dequeued(account)
        return packed
