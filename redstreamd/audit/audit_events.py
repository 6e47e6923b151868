"""What the audit and the access log report. Never an argument's text, a payload or an entry's value."""

from __future__ import annotations

import msgspec

from redstreamd.admission.accounts import Peer
from redstreamd.policy import Principal


class CallAudited(msgspec.Struct, frozen=True):
    """A call ended that may have changed or removed what others rely on.

    Attributes:
        principal: On whose behalf it was made.
        peer: Who was at the other end of the connection; None if that is not known.
        connection_id: The connection; None if it came through none.
        tool: The tool.
        action: Its action, and what removes or forces; perhaps empty.
        streams: The streams that it needed.
        group: The consumer group that it names.
        seconds: How long it took.
        outcome: ``ok``, ``cancelled``, or the code of its error.
        error_code: That code; empty if it has none.
        bytes: The size of its answer.
        repeats: How many more such calls there were since the record of the first, in the record that says
            so; the rest is of the latest of them.
    """

    principal: Principal
    peer: Peer | None
    connection_id: str | None
    tool: str
    action: str
    streams: tuple[str, ...]
    group: str | None
    seconds: float
    outcome: str
    error_code: str
    bytes: int
    repeats: int | None = None


class CallRefused(msgspec.Struct, frozen=True):
    """A call was refused, because its principal may not do that. The attributes are as in `CallAudited`."""

    principal: Principal
    peer: Peer | None
    connection_id: str | None
    tool: str
    streams: tuple[str, ...]
    error_code: str
    repeats: int | None = None


class RequestRefused(msgspec.Struct, frozen=True):
    """A request other than a call was refused, because its principal may not do that.

    Attributes:
        method: The method: of a resource, a prompt, a subscription, a completion.
    """

    principal: Principal
    peer: Peer | None
    connection_id: str | None
    method: str
    streams: tuple[str, ...]
    error_code: str
    repeats: int | None = None


class CallServed(msgspec.Struct, frozen=True):
    """Any other call ended. The attributes are as in `CallAudited`."""

    principal: Principal
    peer: Peer | None
    connection_id: str | None
    tool: str
    streams: tuple[str, ...]
    group: str | None
    seconds: float
    outcome: str
    error_code: str
    bytes: int


class CallsServed(msgspec.Struct, frozen=True):
    """Several other calls ended that have principal, tool and outcome in common, while there were many.

    Attributes:
        principal: On whose behalf they were made.
        peer: Who was at the other end of their connection; None if that is not known.
        connection_id: Their connection; None if they came through several, or through none.
        tool: The tool.
        streams: The streams that they needed.
        groups: The consumer groups that they name.
        seconds: How long they took together.
        longest_seconds: How long the longest took.
        period_seconds: How long before the record the first of them ended.
        outcome: ``ok``, ``cancelled``, or the code of their error.
        error_code: That code; empty if it has none.
        bytes: The size of their answers together.
        count: How many there were.
        unnamed_count: How many of them have a stream or a group that is not named here; None if all are.
    """

    principal: Principal
    peer: Peer | None
    connection_id: str | None
    tool: str
    streams: tuple[str, ...]
    groups: tuple[str, ...]
    seconds: float
    longest_seconds: float
    period_seconds: float
    outcome: str
    error_code: str
    bytes: int
    count: int
    unnamed_count: int | None = None


class AccessRecordsDropped(msgspec.Struct, frozen=True):
    """Calls are in no record of the access log: nobody read the log when the daemon ended.

    Attributes:
        count: How many.
    """

    count: int


class AuditChained(msgspec.Struct, frozen=True):
    """Audit records of this process continue a chain.

    Attributes:
        chain: Which; it follows from the key.
        after: The number of the last record before; 0 if this is the first.
    """

    chain: str
    after: int


class AuditChainNotKept(msgspec.Struct, frozen=True):
    """The end of the chain could not be stored.

    Attributes:
        cause: Why.
    """

    cause: str


AuditEvent = CallAudited | CallRefused | RequestRefused
"""What is recorded whatever the level of the log."""

Event = AuditEvent | CallServed | CallsServed | AccessRecordsDropped | AuditChained | AuditChainNotKept
"""What this package reports."""
