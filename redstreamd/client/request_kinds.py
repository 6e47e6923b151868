"""Which kind of pending request a request of the client is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from redstreamd.client.pending_requests import Initialize, PendingRequest, wait_of
from redstreamd.client.subscription_memory import subscription_request

if TYPE_CHECKING:
    from redstreamd.client.session_interface import Session

#: Methods of which more is to be remembered than the line; and of the calls those that contain `WAIT`.
SPECIAL_METHODS: Final = frozenset(
    {
        b"initialize",
        b"resources/list",
        b"resources/subscribe",
        b"resources/unsubscribe",
        b"subscriptions/listen",
    }
)
WAIT: Final = b'"stream_wait"'


def request_of(session: Session, line: bytes, message: dict[str, Any], batched: bool) -> PendingRequest:
    """Return the pending request for a request on a line.

    Args:
        session: What it belongs to; an unsubscription takes effect there.
        line: The message with its newline, or a batch of this one message.
        message: The same, parsed. Without a method it is refused by its id.
        batched: Whether it came in a batch.
    """
    method = message.get("method")
    if not isinstance(method, str):
        return PendingRequest(line, b"", batched)
    if method == "initialize" and not session.has_handshake and not batched:
        return Initialize(line, b"initialize")
    if method == "tools/call" and (wait := wait_of(line, batched)) is not None:
        return wait
    special = subscription_request(session, line, message, batched)
    return special or PendingRequest(line, method.encode("ascii", "replace"), batched)
