"""A take as a value, and what came of it; `takes` plans them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from redstreamd.redisio.reply_parsing import RawEntry


class Take(msgspec.Struct, frozen=True, gc=False):
    """A request to lease entries.

    Attributes:
        stream: The stream.
        group: Its consumer group.
        consumer: Who takes them; a name that the principal chose.
        count: The most entries to take; fewer are taken if they are large.
        lease_seconds: How long nobody else gets them.
        max_deliveries: A limit of deliveries, 0 for never; an entry that reached it is dead-lettered instead.
            It becomes the group's if this take creates the group. Otherwise it applies to this take and its
            lease, if it allows more deliveries than the group's. None: the group's.
        create_at: Last-delivered ID at which to create the group if it does not exist; None: do not.
        resume: Take only what the consumer holds already; its older leases end. It counts as a delivery.
        idempotency_key: With a key, the same request again returns the same entries while the lease lasts, so
            it can be repeated after a lost reply.
        max_bytes: The take ends once the content of its entries reaches this size; None: the usual one.
    """

    stream: str
    group: str
    consumer: str
    count: int
    lease_seconds: float
    max_deliveries: int | None
    create_at: str | None
    resume: bool = False
    idempotency_key: str | None = None
    max_bytes: int | None = None


class Together:
    """New entries that several takes got together, and what is found out about them once for all.

    Attributes:
        entries: The entries, those of one take after those of another.
        takes: How many takes.
        lines: Each as it is shown; empty if that is to be found out for each take; None: nobody asked yet.
        expires: When the leases run out, as text; None: nobody asked yet.
    """

    __slots__ = ("entries", "expires", "lines", "takes")

    def __init__(self, entries: list[RawEntry], takes: int) -> None:
        """Record what was taken."""
        self.entries = entries
        self.takes = takes
        self.lines: Sequence[str] | None = None
        self.expires: str | None = None


class Taken(msgspec.Struct, frozen=True, gc=False):
    """Result of a take.

    Attributes:
        entries: The entries; those that were delivered before come first.
        attempts: The attempt of each.
        now: The time by the group's clock in milliseconds; `next_due` is by the same clock.
        taken_at: When the last of the entries was delivered, in milliseconds since the epoch by the server's
            clock.
        expires: When the lease runs out, by the same clock.
        replayed: The result of an earlier take with the same idempotency key.
        group_created: This call created the group.
        dead_lettered: Entries that were dead-lettered because they were delivered too often.
        next_due: If nothing was taken, when the next lease runs out or retry is due.
        still_held: Entries that the consumer holds beyond those that were resumed, counted up to 5,000.
        lease_ms: The original length of the lease in milliseconds; None if not known.
        own_limit: The lease's own limit of deliveries; None: it has the group's.
        group_limit: The group's limit of deliveries; 0 for never.
        consumer: Who took them, as Redis calls it: another principal may have a consumer of the name.
        together: All that was taken together, if these are new entries just as Redis holds them.
        place: Where these begin there.
    """

    entries: list[RawEntry]
    attempts: list[int]
    now: int
    taken_at: int
    expires: int
    replayed: bool = False
    group_created: bool = False
    dead_lettered: int = 0
    next_due: int | None = None
    still_held: int = 0
    lease_ms: int | None = None
    own_limit: int | None = None
    group_limit: int = 0
    consumer: str = ""
    together: Together | None = None
    place: int = 0

    def added_to(self, earlier: Taken | None) -> Taken:
        """Return the result of a call that made both takes, of which the earlier got no entries."""
        if earlier is None:
            return self
        return msgspec.structs.replace(
            self,
            group_created=self.group_created or earlier.group_created,
            dead_lettered=self.dead_lettered + earlier.dead_lettered,
        )

    def side_effects(self) -> str:
        """Return a sentence about what the take changed besides its entries; empty if nothing."""
        effects = ["created the group"] if self.group_created else []
        if self.dead_lettered:
            effects.append(f"dead-lettered {self.dead_lettered} entries")
        return f"Before that, this call {' and '.join(effects)}." if effects else ""
