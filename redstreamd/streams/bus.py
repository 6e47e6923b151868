"""The domain as one value: what the tools act on."""

from __future__ import annotations

import attrs

from redstreamd.redisio.commands import Commands
from redstreamd.redisio.connection_manager import Manager
from redstreamd.settings import Settings
from redstreamd.streams.admin.dead_letters import DeadLetters
from redstreamd.streams.admin.group_admin import GroupAdmin
from redstreamd.streams.admin.stream_admin import StreamAdmin
from redstreamd.streams.diagnosis.group_findings import Limits
from redstreamd.streams.diagnosis.sampler import Sampler
from redstreamd.streams.diagnosis.stream_health import Diagnoser
from redstreamd.streams.direct_reading import DirectReader
from redstreamd.streams.entry_pages import Pages
from redstreamd.streams.group_clocks import GroupClocks
from redstreamd.streams.group_records import GroupRecords
from redstreamd.streams.lease_tokens import LeaseKey
from redstreamd.streams.leases import Leases
from redstreamd.streams.listing import Lister
from redstreamd.streams.pending import PendingLister
from redstreamd.streams.publishing import Publisher
from redstreamd.streams.reading import Reader
from redstreamd.streams.replies import Replies
from redstreamd.streams.request_reply import Requests
from redstreamd.streams.tail_hub import TailHub
from redstreamd.streams.work import WorkQueue


@attrs.frozen
class Bus:
    """Streams, groups and leases over one Redis.

    Attributes:
        settings: The limits and defaults that apply.
        commands: Typed Redis commands, for what needs no more than one.
        hub: Wakes those who wait; a supervised child runs it.
        lister: Which streams there are.
        reader: Reading and waiting.
        direct: Reading and delivering at Redis's own positions, without leases.
        publisher: Adding.
        work: Taking and settling.
        records: What was agreed for consumer groups.
        pending: What was taken and is not finished.
        dead_letters: What failed for good.
        sampler: Follows streams for their rates; a supervised child runs it.
        doctor: Says what is wrong with a stream.
        requests: Asking, and waiting for the answer.
        answers: Answering.
        groups: Administration of consumer groups.
        streams: Administration of streams.
    """

    settings: Settings
    commands: Commands
    hub: TailHub
    lister: Lister
    reader: Reader
    direct: DirectReader
    publisher: Publisher
    work: WorkQueue
    records: GroupRecords
    pending: PendingLister
    dead_letters: DeadLetters
    sampler: Sampler
    doctor: Diagnoser
    requests: Requests
    answers: Replies
    groups: GroupAdmin
    streams: StreamAdmin

    @classmethod
    def over(cls, manager: Manager, settings: Settings, lease_key: LeaseKey) -> Bus:
        """Build the domain over one connection manager."""
        commands = Commands(manager)
        lister = Lister(manager, commands, max_name_bytes=settings.streams.max_name_bytes)
        pages = Pages(manager)
        hub = TailHub(manager, max_watches=settings.limits.max_waits)
        sampler = Sampler(manager)
        publisher = Publisher(
            manager, commands, idempotency_window_seconds=settings.leases.idempotency_window_seconds
        )
        clocks = GroupClocks(command_timeout=manager.command_timeout)
        records = GroupRecords(manager, max_deliveries=settings.leases.max_deliveries)
        leases = Leases(
            manager,
            clocks,
            lease_seconds=settings.leases.lease_seconds,
            foreign_idle_seconds=settings.leases.foreign_idle_seconds,
            max_deliveries=settings.leases.max_deliveries,
            max_bytes=settings.tools.max_result_bytes,
        )
        work = WorkQueue(commands, hub, leases, records, lease_key)
        requests = Requests(
            manager,
            commands,
            lister,
            pages,
            hub,
            publisher,
            keep_seconds=settings.leases.idempotency_window_seconds,
        )
        return cls(
            settings=settings,
            commands=commands,
            hub=hub,
            lister=lister,
            reader=Reader(commands, lister, pages, hub, max_bytes=settings.tools.max_result_bytes),
            # Half a message, because JSON may take twice as many bytes as the content.
            direct=DirectReader(commands, pages, max_bytes=settings.limits.max_message_bytes // 2),
            publisher=publisher,
            work=work,
            pending=PendingLister(manager, commands, clocks),
            dead_letters=DeadLetters(manager, commands, pages, hub, clocks),
            sampler=sampler,
            doctor=Diagnoser(
                manager,
                commands,
                clocks,
                sampler,
                Limits(
                    lease_seconds=settings.leases.lease_seconds,
                    foreign_idle_seconds=settings.leases.foreign_idle_seconds,
                    max_deliveries=settings.leases.max_deliveries,
                ),
            ),
            requests=requests,
            records=records,
            groups=GroupAdmin(manager, commands, hub, records, clocks),
            streams=StreamAdmin(manager, commands),
            answers=Replies(commands, publisher, work, requests, lease_seconds=settings.leases.lease_seconds),
        )
