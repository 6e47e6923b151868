"""The domain as one value, on which tools act."""

from __future__ import annotations

import msgspec

from redstreamd.admission.claims import WAITS, Limit
from redstreamd.policy.quotas import Quotas
from redstreamd.redisio.client import Redis
from redstreamd.settings import Settings, apply_quotas, quotas_of
from redstreamd.streams.admin.dead_letters import DeadLetters
from redstreamd.streams.admin.group_admin import GroupAdmin
from redstreamd.streams.admin.stream_admin import StreamAdmin
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.consumer_lists import ConsumerLists
from redstreamd.streams.diagnosis.sampler import Sampler
from redstreamd.streams.diagnosis.stream_health import Diagnoser
from redstreamd.streams.direct_reading import DirectReader
from redstreamd.streams.entry_encryption import Encryption
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_counts import GroupCounts
from redstreamd.streams.group_lists import GroupLists
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.idempotency import IdempotencyRecords
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.leases import Leases
from redstreamd.streams.listing import Lister
from redstreamd.streams.name_rules import NameRules
from redstreamd.streams.next_entries import NextEntries
from redstreamd.streams.pending import PendingLister
from redstreamd.streams.places import Places
from redstreamd.streams.publishing import Publisher
from redstreamd.streams.quarantine import Quarantine
from redstreamd.streams.reading import Reader
from redstreamd.streams.replies import Replies
from redstreamd.streams.request_reply import Requests
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.work import WorkQueue


class Bus(msgspec.Struct, eq=False):
    """Streams, groups and leases over one Redis.

    Attributes:
        settings: Limits and defaults; those of the last `reconfigure`.
        quotas: What of them a principal may have.
        names: Checks names of streams, groups and consumers.
        redis: Redis, whatever servers it is made of.
        hub: Wakes waiting calls; a supervised child runs it.
        places: Where calls wait.
        lister: Lists streams.
        reader: Reads entries.
        next_entries: Waits for entries.
        direct: Reads and delivers entries at positions of Redis, without leases.
        publisher: Adds entries.
        work: Takes and settles work.
        records: Creates groups, and keeps their limits.
        pending: Lists pending entries.
        dead_letters: Lists, replays and deletes dead letters.
        sampler: Samples streams for their rates; a supervised child runs it.
        diagnoser: Diagnoses streams.
        requests: Sends requests and waits for replies.
        replies: Publishes replies.
        quarantine: Lists, releases and discards what waits for a release.
        groups: Administration of consumer groups.
        streams: Administration of streams.
        clocks: The clocks of groups.
        idempotency: Makes the records of idempotency keys.
        encryption: Seals and opens entries; it has a `reconfigure` of its own.
    """

    settings: Settings
    quotas: Quotas
    names: NameRules
    redis: Redis
    hub: TailHub
    places: Places
    lister: Lister
    reader: Reader
    next_entries: NextEntries
    direct: DirectReader
    publisher: Publisher
    work: WorkQueue
    records: GroupRecords
    pending: PendingLister
    dead_letters: DeadLetters
    sampler: Sampler
    diagnoser: Diagnoser
    requests: Requests
    replies: Replies
    quarantine: Quarantine
    groups: GroupAdmin
    streams: StreamAdmin
    clocks: GroupClocks
    idempotency: IdempotencyRecords
    encryption: Encryption

    @classmethod
    def over(
        cls,
        redis: Redis,
        settings: Settings,
        lease_key: LeaseKey,
        bounds: Bounds = DEFAULT_BOUNDS,
        quotas: Quotas | None = None,
        encryption: Encryption | None = None,
    ) -> Bus:
        """Build the domain over Redis; without quotas, with those of the settings.

        Without `encryption` nothing is encrypted, until it is given keys and rules.
        """
        encryption = encryption or Encryption()
        quotas = quotas or quotas_of(settings)
        lister = Lister(redis, max_name_bytes=settings.streams.max_name_bytes)
        pages = Pages(redis)
        hub = TailHub(
            redis,
            waits=Limit(WAITS, settings.limits.max_waits, quotas),
        )
        for lists in (redis.shared(GroupLists), redis.shared(ConsumerLists)):
            lists.deadlines = hub.deadlines
        places = Places(redis, hub)
        reader = Reader(
            redis, lister, pages, encryption, max_bytes=settings.tools.max_result_bytes, limits=bounds
        )
        sampler = Sampler(redis, bounds)
        max_groups = settings.limits.max_groups_per_stream
        idempotency = IdempotencyRecords(
            lease_key.derive("redstreamd idempotency records"), plain_hashes=settings.records.plain_hashes
        )
        publisher = Publisher(
            redis,
            records=idempotency,
            encryption=encryption,
            idempotency_window_seconds=settings.leases.idempotency_window_seconds,
            max_groups=max_groups,
            quarantine=settings.quarantine,
            limits=bounds,
        )
        clocks = GroupClocks(command_timeout=redis.command_timeout)
        records = GroupRecords(redis, max_deliveries=settings.leases.max_deliveries, max_groups=max_groups)
        leases = Leases(
            redis,
            clocks,
            settings.leases,
            encryption,
            max_bytes=settings.tools.max_result_bytes,
            max_groups=max_groups,
        )
        work = WorkQueue(redis, hub, leases, records, lease_key, encryption, bounds)
        requests = Requests(
            redis,
            lister,
            pages,
            places,
            publisher,
            encryption,
            keep_seconds=settings.leases.idempotency_window_seconds,
            limits=bounds,
        )
        return cls(
            settings=settings,
            quotas=quotas,
            names=NameRules(settings.streams),
            redis=redis,
            hub=hub,
            places=places,
            lister=lister,
            reader=reader,
            next_entries=NextEntries(redis, reader, lister, places),
            direct=DirectReader(redis, pages, encryption, max_bytes=_direct_bytes(settings)),
            publisher=publisher,
            work=work,
            pending=PendingLister(redis, clocks, bounds),
            dead_letters=DeadLetters(redis, pages, hub, clocks, encryption),
            sampler=sampler,
            diagnoser=Diagnoser(redis, clocks, sampler, settings.leases, pages, encryption, bounds),
            requests=requests,
            quarantine=Quarantine(redis, pages, requests, encryption),
            records=records,
            groups=GroupAdmin(redis, hub, records, clocks, bounds),
            streams=StreamAdmin(redis, bounds, max_groups=max_groups),
            replies=Replies(redis, publisher, work, requests, lease_seconds=settings.leases.lease_seconds),
            clocks=clocks,
            idempotency=idempotency,
            encryption=encryption,
        )

    def reconfigure(self, settings: Settings) -> None:
        """Apply other settings from now on; a call under way may end by either."""
        self.settings = settings
        limits, leases = settings.limits, settings.leases
        max_groups, max_bytes = limits.max_groups_per_stream, settings.tools.max_result_bytes
        self.names.reconfigure(settings.streams)
        self.lister.reconfigure(max_name_bytes=settings.streams.max_name_bytes)
        apply_quotas(self.quotas, settings)
        self.hub.waits.reconfigure(limits.max_waits)
        self.reader.reconfigure(max_bytes=max_bytes)
        self.direct.reconfigure(max_bytes=_direct_bytes(settings))
        self.idempotency.reconfigure(plain_hashes=settings.records.plain_hashes)
        self.publisher.reconfigure(
            idempotency_window_seconds=leases.idempotency_window_seconds,
            max_groups=max_groups,
            quarantine=settings.quarantine,
        )
        self.clocks.reconfigure(command_timeout=self.redis.command_timeout)
        self.records.reconfigure(max_deliveries=leases.max_deliveries, max_groups=max_groups)
        self.work.reconfigure(leases, max_bytes=max_bytes, max_groups=max_groups)
        self.diagnoser.reconfigure(leases)
        self.requests.reconfigure(keep_seconds=leases.idempotency_window_seconds)
        self.streams.reconfigure(max_groups=max_groups)
        self.replies.reconfigure(lease_seconds=leases.lease_seconds)

    def forget_names(self) -> None:
        """Forget what is kept of single names and tokens to save microseconds of each call."""
        self.names.forget()
        self.work.forget()
        self.redis.shared(GroupCounts).forget()

    def forget(self) -> None:
        """Forget what is only kept to save time: names, listings, counts, tokens. It is found again."""
        self.forget_names()
        self.lister.forget()
        self.redis.shared(GroupLists).forget_all()
        self.redis.shared(ConsumerLists).forget_all()


def _direct_bytes(settings: Settings) -> int:
    # Half a message, because JSON may take twice as many bytes as the content.
    return settings.limits.max_message_bytes // 2
