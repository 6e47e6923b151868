"""The domain as one value, on which tools act."""

from __future__ import annotations

import msgspec

from redstreamd.admission.claims import WAITS, Limit
from redstreamd.redisio.client import Redis
from redstreamd.settings import Settings
from redstreamd.streams.admin.dead_letters import DeadLetters
from redstreamd.streams.admin.group_admin import GroupAdmin
from redstreamd.streams.admin.stream_admin import StreamAdmin
from redstreamd.streams.bounds import DEFAULT_BOUNDS, Bounds
from redstreamd.streams.diagnosis.sampler import Sampler
from redstreamd.streams.diagnosis.stream_health import Diagnoser
from redstreamd.streams.direct_reading import DirectReader
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.idempotency import IdempotencyRecords
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.leases import Leases
from redstreamd.streams.listing import Lister
from redstreamd.streams.name_rules import NameRules
from redstreamd.streams.pending import PendingLister
from redstreamd.streams.places import Places
from redstreamd.streams.publishing import Publisher
from redstreamd.streams.quarantine import Quarantine
from redstreamd.streams.reading import Reader
from redstreamd.streams.replies import Replies
from redstreamd.streams.request_reply import Requests
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.work import WorkQueue


class Bus(msgspec.Struct, frozen=True):
    """Streams, groups and leases over one Redis.

    Attributes:
        settings: Limits and defaults.
        names: Checks names of streams, groups and consumers.
        redis: Redis, whatever servers it is made of.
        hub: Wakes waiting calls; a supervised child runs it.
        places: Where calls wait.
        lister: Lists streams.
        reader: Reads and waits for entries.
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
    """

    settings: Settings
    names: NameRules
    redis: Redis
    hub: TailHub
    places: Places
    lister: Lister
    reader: Reader
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

    @classmethod
    def over(
        cls, redis: Redis, settings: Settings, lease_key: LeaseKey, bounds: Bounds = DEFAULT_BOUNDS
    ) -> Bus:
        """Build the domain over Redis."""
        lister = Lister(redis, max_name_bytes=settings.streams.max_name_bytes)
        pages = Pages(redis)
        hub = TailHub(
            redis,
            waits=Limit(WAITS, settings.limits.max_waits, settings.limits.max_waits_per_principal),
        )
        places = Places(redis, hub)
        sampler = Sampler(redis, bounds)
        max_groups = settings.limits.max_groups_per_stream
        publisher = Publisher(
            redis,
            records=IdempotencyRecords(
                lease_key.derive("redstreamd idempotency records"),
                plain_hashes=settings.records.plain_hashes,
            ),
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
            max_bytes=settings.tools.max_result_bytes,
            max_groups=max_groups,
        )
        work = WorkQueue(redis, hub, leases, records, lease_key, bounds)
        requests = Requests(
            redis,
            lister,
            pages,
            places,
            publisher,
            keep_seconds=settings.leases.idempotency_window_seconds,
            limits=bounds,
        )
        return cls(
            settings=settings,
            names=NameRules(settings.streams),
            redis=redis,
            hub=hub,
            places=places,
            lister=lister,
            reader=Reader(
                redis, lister, pages, places, max_bytes=settings.tools.max_result_bytes, limits=bounds
            ),
            # Half a message, because JSON may take twice as many bytes as the content.
            direct=DirectReader(redis, pages, max_bytes=settings.limits.max_message_bytes // 2),
            publisher=publisher,
            work=work,
            pending=PendingLister(redis, clocks, bounds),
            dead_letters=DeadLetters(redis, pages, hub, clocks),
            sampler=sampler,
            diagnoser=Diagnoser(redis, clocks, sampler, settings.leases, bounds),
            requests=requests,
            quarantine=Quarantine(redis, pages, requests),
            records=records,
            groups=GroupAdmin(redis, hub, records, clocks, bounds),
            streams=StreamAdmin(redis, bounds, max_groups=max_groups),
            replies=Replies(redis, publisher, work, requests, lease_seconds=settings.leases.lease_seconds),
        )
