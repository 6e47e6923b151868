"""What happens to connections, as typed values for one hook; knows nothing of who records them.

The hook is called synchronously on the event loop and must not block. One that raises costs
its own record and nothing else.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable

import attrs

from redstreamd.mcpio.jsonrpc import RequestId
from redstreamd.policy import Principal

_logger = logging.getLogger(__name__)


class Ending(enum.StrEnum):
    """Why a connection ended."""

    EOF = "eof"
    """The peer closed, or stopped sending."""
    BROKEN = "broken"
    """The socket broke."""
    OVERSIZE = "oversize"
    """The peer sent a line beyond `Limits.max_message_bytes`."""
    HTTP = "http"
    """The peer spoke HTTP."""
    OVERFLOW = "overflow"
    """The peer did not read, and `Limits.max_outbox_bytes` waited for it."""
    DRAINED = "drained"
    """We closed it in `drain`."""
    HANDED_OVER = "handed over"
    """Its stream is open still, and belongs to someone else."""
    CANCELLED = "cancelled"
    """The task that ran it was cancelled."""


@attrs.frozen
class ConnectionOpened:
    """A connection is being served."""

    connection_id: str
    principal: Principal


@attrs.frozen
class ConnectionClosed:
    """A connection is over.

    Attributes:
        open_seconds: How long it lasted.
        requests: How many requests it sent, refused ones included.
        cut_off: How many of them were cancelled by us because the connection was closing.
        limit_bytes: The bound that the peer went over; None unless that is how it ended.
    """

    connection_id: str
    principal: Principal
    ending: Ending
    open_seconds: float
    requests: int
    cut_off: int
    limit_bytes: int | None


@attrs.frozen
class RequestFailed:
    """A handler raised what it should not have; the peer was told "Internal error" and no more.

    Attributes:
        request_id: None for a notification.
    """

    connection_id: str
    principal: Principal
    method: str
    request_id: RequestId | None
    exception: Exception


@attrs.frozen
class ConnectionCrashed:
    """A defect of ours ended one connection; the others were not touched."""

    connection_id: str
    principal: Principal
    exception: Exception


@attrs.frozen
class TurnedAway:
    """A newcomer was turned away, because too many connections are open.

    Attributes:
        limit: `Limits.max_connections`.
    """

    principal: Principal
    limit: int


@attrs.frozen
class AcceptPaused:
    """Accepting failed, as it does when descriptors run out, and is being retried; reported once a pause."""

    principal: Principal
    exception: OSError


@attrs.frozen
class AcceptResumed:
    """Accepting works again.

    Attributes:
        paused_seconds: How long it did not.
    """

    principal: Principal
    paused_seconds: float


Event = (
    ConnectionOpened
    | ConnectionClosed
    | RequestFailed
    | ConnectionCrashed
    | TurnedAway
    | AcceptPaused
    | AcceptResumed
)
EventHook = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Take an event and do nothing: the default hook."""


def contained(hook: EventHook) -> EventHook:
    """Wrap a hook so that an exception in it goes to the log instead of into the connection."""

    def report(event: Event) -> None:
        try:
            hook(event)
        except Exception:
            _logger.exception("the event hook raised on %r", type(event).__name__)

    return report
