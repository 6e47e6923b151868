"""Events that the figures give rise to."""

from __future__ import annotations

import msgspec

from redstreamd.metrics.group_attention import Trouble


class FiguresTaken(msgspec.Struct, frozen=True):
    """The figures of the daemon, every so many seconds; None for what is not known.

    Attributes:
        seconds: Since the last such event.
        is_quiet: Whether nothing happened in that time.
        calls: Calls that ended in it.
        failed: Those of them that were answered with an error.
        calls_total: Calls since the start.
        errors_total: Those of them that were answered with an error.
        p99_seconds: What 99 of 100 calls that cannot wait did not exceed in that time.
        connection_count: Open connections.
        memory_bytes: Resident memory.
        loop_lag_seconds: The longest pass of the event loop of late.
        stream_count: Streams on the server.
        pending: Entries delivered and not acknowledged, of the groups with most to do.
        lag: Entries not delivered to them.
        dead_letters: Their dead letters.
    """

    seconds: float
    is_quiet: bool
    calls: int
    failed: int
    calls_total: int
    errors_total: int
    p99_seconds: float | None
    connection_count: int
    memory_bytes: int
    loop_lag_seconds: float
    stream_count: int | None
    pending: int | None
    lag: int | None
    dead_letters: int | None


class GroupInTrouble(msgspec.Struct, frozen=True):
    """A group needs attention for a reason, at two looks in a row; it is reported once until it is over.

    Attributes:
        stream: Its stream.
        group: Its name.
        trouble: The reason.
        pending: Its pending entries.
        lag: Its undelivered entries.
        dead_letters: Its dead letters.
        limit: Pending entries that are not too many.
    """

    stream: str
    group: str
    trouble: Trouble
    pending: int
    lag: int
    dead_letters: int
    limit: int


class GroupOutOfTrouble(msgspec.Struct, frozen=True):
    """The reason is over, or the group is gone, or others need more attention.

    Attributes:
        stream: Its stream.
        group: Its name.
        trouble: The reason.
        lasted_seconds: From the event of its beginning.
    """

    stream: str
    group: str
    trouble: Trouble
    lasted_seconds: float


class MoreGroupsInTrouble(msgspec.Struct, frozen=True):
    """So many more began to need attention at the same look, which are not reported one by one."""

    count: int


FiguresEvent = FiguresTaken | GroupInTrouble | GroupOutOfTrouble | MoreGroupsInTrouble
