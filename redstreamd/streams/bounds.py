"""How much the domain reads, keeps and waits for: the defaults, in one place, with their cost."""

from __future__ import annotations

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    """Bounds of the domain that are not settings.

    Attributes:
        filter_scanned: Entries that a read with a filter scans before it answers with a cursor.
        scanned_at_once: Entries of one of its replies.
        pending_scanned: Pending entries that one listing scans before it answers with a cursor: 2 to 4 ms of
            the server's time.
        counted_at_once: Entries counted by one script: 1 to 3 ms of the server's time if they are small.
        counted: Entries counted before the answer is "at least": about 0.2 s, in parts.
        lag_counted: Undelivered entries counted where the server's lag cannot be relied on.
        moved_at_once: Pending entries moved to another consumer by one script: 1 to 3 ms of the server's
            time.
        replies: Replies kept in a reply stream made by redstreamd: as many as calls may wait by default.
        replies_at_once: Entries of a reply stream that are read at once.
        work_recheck_seconds: Interval at which a waiting take tries again without being woken: a retry that
            another daemon released early, or an entry that another program left, changes no watched key.
        replica_seconds: How long a writer waits for a replica to confirm. A healthy one answers in
            milliseconds, and all durable writers wait behind this.
        disk_seconds: How long a writer waits for the disk. With `appendfsync everysec`, the default, the
            server syncs a second after it did last, and checks that ten times a second.
        sample_seconds: Interval between samples.
        sample_pause_share: A pause is at least so many times as long as the samples took: XINFO STREAM
            carries a stream's first and last entry, so where these are huge a sample may take a second.
        samples_kept: Samples kept per stream: ten minutes of them.
        sampling_kept_seconds: How long a stream is sampled after its last diagnosis.
        sampled_consumers: Consumers of one stream up to which they are sampled; at most 2 ms of the server's
            time.
        sampled_consumers_in_all: The same of all streams together; at most 0.4 % of the server's time.
        untaken_seconds: How long an entry may wait for delivery before its group's consumers count as
            stopped.
    """

    filter_scanned: int = 1_000
    scanned_at_once: int = 100
    pending_scanned: int = 2_500
    counted_at_once: int = 1_000
    counted: int = 100_000
    lag_counted: int = 100
    moved_at_once: int = 100
    replies: int = 10_000
    replies_at_once: int = 100
    work_recheck_seconds: float = 5.0
    replica_seconds: float = 1.0
    disk_seconds: float = 2.0
    sample_seconds: float = 5.0
    sample_pause_share: float = 50
    samples_kept: int = 120
    sampling_kept_seconds: float = 1_800.0
    sampled_consumers: int = 1_000
    sampled_consumers_in_all: int = 10_000
    untaken_seconds: float = 60.0


DEFAULT_BOUNDS = Bounds()
