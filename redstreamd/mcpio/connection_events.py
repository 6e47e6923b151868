"""Events of connections, as typed values for one hook.

The hook is called on the event loop and must not block. An exception in it is reported as a defect.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import msgspec

from redstreamd.admission.accounts import Peer
from redstreamd.errors.defects import report_defect
from redstreamd.mcpio.jsonrpc import RequestId
from redstreamd.policy import Principal


class Ending(enum.StrEnum):
    """Why a connection ended."""

    EOF = "eof"
    """The client closed its side."""
    BROKEN = "broken"
    """The socket failed."""
    HTTP = "http"
    """The client spoke HTTP."""
    TLS = "tls"
    """The client spoke TLS."""
    REDIS = "redis"
    """The client spoke the protocol of Redis."""
    BINARY = "binary"
    """The client did not send text."""
    ANSWERED = "answered"
    """It was to end with an answer, over HTTP: the client asked for that, or the rest could not be read."""
    BAD_REQUEST = "bad request"
    """The client sent what is no request of HTTP, or none within the limits."""
    SLOW = "slow"
    """A request of HTTP did not come in its time."""
    IDLE = "idle"
    """The client sent no request over HTTP for `HttpLimits.idle_seconds`."""
    OVERFLOW = "overflow"
    """The client left more than `Limits.max_outbox_bytes` unread."""
    UNREAD = "unread"
    """The client read nothing for `Limits.unread_seconds` while much waited for it."""
    MEMORY = "memory"
    """The clients together exceeded `Limits.max_memory_bytes`, and this one held most, in answers."""
    GAVE_WAY = "gave way"
    """The server closed it for another client, because nobody had more connections than its process."""
    DRAINED = "drained"
    """The server closed it in `drain`."""
    HANDED_OVER = "handed over"
    """`hand_over` left its stream open for a successor."""
    CANCELLED = "cancelled"
    """The task that ran it was cancelled."""


#: Endings of connections whose clients do not speak MCP.
FOREIGN: Final = frozenset({Ending.HTTP, Ending.TLS, Ending.REDIS, Ending.BINARY})


class Bound(enum.StrEnum):
    """A bound of the number of connections."""

    CONNECTIONS = "connections"
    """`Limits.max_connections`."""
    PRINCIPAL = "connections of a principal"
    """What `Quotas` say of the principal."""
    PEER = "connections of a peer"
    """`OpenConnection.max_connections_per_peer`."""
    DESCRIPTORS = "descriptors"
    """What the process may have of file descriptors."""


class ConnectionOpened(msgspec.Struct, frozen=True):
    """A connection was opened."""

    connection_id: str
    principal: Principal


class ConnectionClosed(msgspec.Struct, frozen=True):
    """A connection ended.

    Attributes:
        ending: Why.
        open_seconds: How long it was open.
        requests: How many requests it sent, rejected ones included.
        cut_off: How many of them were cancelled because the connection was closing.
        limit_bytes: The limit that was exceeded; None unless that is why it ended.
        unread_bytes: How much waited for the client to read it.
        peer: The process or address that connected; None if the transport does not tell.
        why: What was wrong with the last request over HTTP, if that could not be served; nothing that the
            client sent.
    """

    connection_id: str
    principal: Principal
    ending: Ending
    open_seconds: float
    requests: int
    cut_off: int
    limit_bytes: int | None
    peer: Peer | None = None
    unread_bytes: int = 0
    why: str = ""


class MessageTooLong(msgspec.Struct, frozen=True):
    """A client sent a message that exceeds `Limits.max_message_bytes`; it is skipped.

    Attributes:
        limit_bytes: The limit.
    """

    connection_id: str
    principal: Principal
    limit_bytes: int
    peer: Peer | None = None


class MemoryExceeded(msgspec.Struct, frozen=True):
    """The clients together exceeded `Limits.max_memory_bytes`, and this one held most.

    One message of it, unfinished, waiting or in flight, was answered with an error.

    Attributes:
        limit_bytes: The limit.
        held_bytes: How much this connection holds.
    """

    connection_id: str
    principal: Principal
    limit_bytes: int
    held_bytes: int
    peer: Peer | None = None


class RequestFailed(msgspec.Struct, frozen=True):
    """A handler raised an unexpected exception; the client was answered with "Internal error".

    Attributes:
        request_id: None for a notification.
    """

    connection_id: str
    principal: Principal
    method: str
    request_id: RequestId | None
    exception: Exception


class ConnectionCrashed(msgspec.Struct, frozen=True):
    """A defect in the server ended one connection."""

    connection_id: str
    principal: Principal
    exception: Exception


class ConnectionRejected(msgspec.Struct, frozen=True):
    """A connection was rejected, because too many are open.

    Attributes:
        limit: How many may be open.
        bound: What limits them.
        holders: The peers that hold most of them, and how many; up to a second old.
    """

    principal: Principal
    limit: int
    bound: Bound = Bound.CONNECTIONS
    holders: tuple[tuple[Peer, int], ...] = ()


class ClientRefused(msgspec.Struct, frozen=True):
    """A client did not show what its listener demands: TLS, a certificate or a token.

    Attributes:
        principal: Of the listener.
        why: What is missing; nothing that the client sent.
        peer: Who connected.
    """

    principal: Principal
    why: str
    peer: Peer | None = None


class CredentialsNotRenewed(msgspec.Struct, frozen=True):
    """Certificates or tokens of listeners have changed and cannot be used; the former are used on.

    Attributes:
        cause: Which file, and why.
    """

    cause: str


class CertificateExpires(msgspec.Struct, frozen=True):
    """The certificate of a listener has expired, or does so within days; reported once a day.

    Attributes:
        path: Its file.
        days_left: For how many whole days it is valid yet.
        has_expired: It is not valid any more.
    """

    path: str
    days_left: int
    has_expired: bool


class KeysNotFetched(msgspec.Struct, frozen=True):
    """The keys of the authorization server cannot be fetched; those of before are used for a day.

    Attributes:
        cause: From where, and why.
    """

    cause: str


class UsersHidden(msgspec.Struct, frozen=True):
    """The principals are to be told apart by uid, and a user namespace hides the uids from the daemon."""


class FewDescriptors(msgspec.Struct, frozen=True):
    """The daemon starts with too few file descriptors for `Limits.max_connections`.

    Attributes:
        descriptors: How many it may have.
        needed: How many `Limits.max_connections` needs.
        connections: For how many connections there is room.
        max_connections: `Limits.max_connections`.
    """

    descriptors: int
    needed: int
    connections: int
    max_connections: int


class AcceptPaused(msgspec.Struct, frozen=True):
    """Accepting failed, for instance for want of descriptors, and is retried; reported once a failure."""

    principal: Principal
    exception: OSError


class AcceptResumed(msgspec.Struct, frozen=True):
    """Accepting works again.

    Attributes:
        paused_seconds: How long it failed.
    """

    principal: Principal
    paused_seconds: float


Event = (
    ConnectionOpened
    | ConnectionClosed
    | MessageTooLong
    | MemoryExceeded
    | RequestFailed
    | ConnectionCrashed
    | ConnectionRejected
    | ClientRefused
    | CredentialsNotRenewed
    | CertificateExpires
    | KeysNotFetched
    | UsersHidden
    | FewDescriptors
    | AcceptPaused
    | AcceptResumed
)
EventHook = Callable[[Event], None]


def ignore(_event: Event) -> None:
    """Do nothing: the default hook."""


class _Contained:
    __slots__ = ("_hook",)

    def __init__(self, hook: EventHook) -> None:
        self._hook = hook

    def __call__(self, event: Event) -> None:
        try:
            self._hook(event)
        except Exception as exc:  # noqa: BLE001 - an event that cannot be recorded must not cost the connection
            report_defect(f"the event hook raised on {type(event).__name__}", exc)


def contained(hook: EventHook) -> EventHook:
    """Return a hook that reports exceptions of `hook` instead of raising them; at most one lies around it."""
    return hook if isinstance(hook, _Contained) else _Contained(hook)
