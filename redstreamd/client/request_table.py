"""The requests that a bridge has not answered yet: what of them is kept, and which wait for a daemon."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from redstreamd.client.pending_requests import OwnRequest, PendingRequest

#: Seconds that a request waits for a daemon. Clients give up after 60, some after 30.
PATIENCE_SECONDS: Final = 20.0
#: Bytes of the requests in flight that are kept to be sent again; what exceeds them is not.
MAX_KEPT_BYTES: Final = 4 * 1024 * 1024


class RequestTable:
    """The requests of one client, and of the bridge itself.

    Attributes:
        by_id: Each by its id, which is JSON text; in the order in which they came.
        kept_bytes: Bytes of their lines.
        may_wait: False if none waits for a daemon; True if one may.
        unnamed_errors: Errors of daemons without an id, each perhaps for one of these; not counted twice.
    """

    # Invariant: kept_bytes is the sum over by_id. The short way of `bridged_session` keeps it without a call.

    def __init__(self, now: Callable[[], float]) -> None:
        """Begin empty; `now` is a clock in seconds."""
        self.by_id: dict[bytes, PendingRequest] = {}
        self.kept_bytes = 0
        self.may_wait = False
        self.unnamed_errors = 0
        self._now = now
        self._own_ids = f"redstreamd-connect-{os.urandom(8).hex()}"
        self._own_count = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request of the client waits for its answer."""
        return all(isinstance(each, OwnRequest) for each in self.by_id.values())

    @property
    def deadline(self) -> float | None:
        """When the first one has waited for too long; None if none waits for a daemon."""
        if not self.may_wait:
            return None
        since = [each.since for each in self.by_id.values() if each.is_waiting]
        self.may_wait = bool(since)
        return min(since) + PATIENCE_SECONDS if since else None

    def overdue(self) -> list[tuple[bytes, PendingRequest]]:
        """Return those that have waited for a daemon for too long, with their ids."""
        latest = self._now() - PATIENCE_SECONDS
        return [each for each in self.by_id.items() if each[1].is_waiting and each[1].since <= latest]

    def unsent_lines(self) -> list[bytes]:
        """Return the lines that no daemon has at present; empty for those that are not kept."""
        return [each.line or b"" for each in self.by_id.values() if not each.is_sent]

    def add(self, request_id: bytes, request: PendingRequest) -> None:
        """Expect the answer to a request of the client."""
        self.by_id[request_id] = request
        self.kept_bytes += len(request.line or b"")

    def bound(self, request: PendingRequest) -> None:
        """Keep the line of a request that was sent only within `MAX_KEPT_BYTES`."""
        if self.kept_bytes > MAX_KEPT_BYTES and request.line is not None:
            self.kept_bytes -= len(request.line)
            request.line = None

    def add_own(self, request: OwnRequest) -> bytes:
        """Expect the answer to a request of the bridge; return its id."""
        request_id = self.new_id()
        self.by_id[request_id] = request
        return request_id

    def new_id(self) -> bytes:
        """Return an id that no request has had."""
        self._own_count += 1
        return f'"{self._own_ids}-{self._own_count}"'.encode()

    def remove(self, request_id: bytes) -> None:
        """Forget a request, which must be there."""
        request = self.by_id.pop(request_id)
        if request.line is not None:
            self.kept_bytes -= len(request.line)

    def forget_unnamed(self, request_id: bytes) -> bool:
        """Forget a request whose id the client uses again, if an error without an id may have answered it."""
        if self.unnamed_errors == 0:
            return False
        self.unnamed_errors -= 1
        self.remove(request_id)
        return True

    def keep_waiting(self, request: PendingRequest) -> None:
        """Let a request wait for the next connection from now on."""
        request.is_sent = False
        request.since = self._now()
        self.may_wait = True

    def put_back(self, request: PendingRequest) -> None:
        """Let a request wait that was handed to a daemon and not executed."""
        request.sendings -= 1
        self.keep_waiting(request)
