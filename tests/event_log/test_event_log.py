"""What clients make happen again and again is one record, and its end says how often; on a virtual clock."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from redstreamd.admission.accounts import Peer
from redstreamd.event_log import kinds  # noqa: F401 - declares them
from redstreamd.event_log.event_log import QUIET_SECONDS, EventLog
from redstreamd.mcpio.connection_events import (
    AcceptPaused,
    AcceptResumed,
    Bound,
    ConnectionClosed,
    ConnectionRejected,
    Ending,
    MessageTooLong,
)
from redstreamd.mcpio.peers import peer_text
from redstreamd.policy import Principal
from redstreamd.service.log_record import Record
from redstreamd.service.supervisor_events import ChildStarted

ANN, BOB = Principal("ann", "unix"), Principal("bob", "unix")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


@pytest.fixture
def records() -> list[Record]:
    return []


@pytest.fixture
async def journal(records: list[Record]) -> AsyncIterator[EventLog]:
    journal = EventLog(records.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        yield journal
        nursery.cancel_scope.cancel()


def closed(ending: Ending, principal: Principal = ANN, limit_bytes: int | None = 8) -> ConnectionClosed:
    return ConnectionClosed("c1", principal, ending, 0.1, requests=1, cut_off=0, limit_bytes=limit_bytes)


async def test_rejected_clients_are_one_record_and_a_count_at_the_end(
    journal: EventLog, records: list[Record]
) -> None:
    for _ in range(100):
        journal(ConnectionRejected(ANN, 5))
        await trio.sleep(QUIET_SECONDS / 2)
    (first,) = records
    assert "raise limits.max_connections" in first.text
    await trio.sleep(QUIET_SECONDS)
    assert len(records) == 2
    assert records[1].message_id == first.message_id
    assert ("REPEATS", "99") in records[1].fields
    assert records[1].text.startswith(f"99 more in {99 * QUIET_SECONDS / 2:.0f} s")
    # Another day: another record, and no count of none.
    journal(ConnectionRejected(ANN, 5))
    await trio.sleep(2 * QUIET_SECONDS)
    assert len(records) == 3


async def test_each_bound_has_its_record_with_its_remedy_and_those_who_hold_most(
    journal: EventLog, records: list[Record]
) -> None:
    own = Peer(pid=os.getpid())
    for _ in range(3):
        journal(ConnectionRejected(ANN, 5, Bound.CONNECTIONS, ((own, 3), (Peer(address="10.0.0.1"), 2))))
        journal(ConnectionRejected(BOB, 4, Bound.DESCRIPTORS))
    connections, descriptors = (record.text for record in records)
    assert connections.startswith(
        "5 connections are open, and a client (ann) was rejected; raise limits.max_c"
    )
    assert connections.endswith(f"(most: {peer_text(own)} has 3, 10.0.0.1 has 2)")
    assert descriptors.startswith(
        "4 connections are open, with no file descriptors for more, and a client (b"
    )
    assert "raise LimitNOFILE= of the service" in descriptors
    await trio.sleep(2 * QUIET_SECONDS)
    assert [record.text[:6] for record in records[2:]] == ["2 more"] * 2


async def test_who_does_not_read_is_named_by_its_process(journal: EventLog, records: list[Record]) -> None:
    journal(msgspec.structs.replace(closed(Ending.OVERFLOW), peer=Peer(pid=os.getpid())))
    assert (
        f"closed a connection of ann ({peer_text(Peer(pid=os.getpid()))}), which did not" in records[0].text
    )


async def test_what_was_skipped_or_closed_for_a_client_is_one_record_a_kind_and_principal(
    journal: EventLog, records: list[Record]
) -> None:
    for _ in range(30):
        journal(MessageTooLong("c1", ANN, 8))
        journal(MessageTooLong("c2", BOB, 8))
        journal(closed(Ending.OVERFLOW))
        journal(closed(Ending.HTTP, limit_bytes=None))
        journal(closed(Ending.TLS, limit_bytes=None))
    assert [record.severity.name for record in records] == ["WARNING"] * 5
    assert "skipped a message of ann over 8 bytes" in records[0].text
    assert "limits.max_message_bytes" in records[0].text
    assert "bob" in records[1].text
    assert "did not read its answers" in records[2].text
    assert "web page" in records[3].text
    assert "spoke TLS" in records[4].text
    await trio.sleep(2 * QUIET_SECONDS)
    assert [record.text[:7] for record in records[5:]] == ["29 more"] * 5


async def test_running_out_of_descriptors_over_and_over_is_one_record_of_each(
    journal: EventLog, records: list[Record]
) -> None:
    refused = OSError(errno.EMFILE, "Too many open files")
    for _ in range(100):
        journal(AcceptPaused(ANN, refused))
        await trio.sleep(0.2)
        journal(AcceptResumed(ANN, 0.2))
    assert [record.severity.name for record in records] == ["WARNING", "INFO"]
    await trio.sleep(2 * QUIET_SECONDS)
    assert [record.text[:18] for record in records[2:]] == ["99 more in 20 s, t"] * 2


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EMFILE, "raise LimitNOFILE="), (errno.ENFILE, "fs.file-max"), (errno.ENOMEM, "find out what")],
)
async def test_what_keeps_from_accepting_is_named_with_its_remedy(
    journal: EventLog, records: list[Record], number: int, remedy: str
) -> None:
    journal(AcceptPaused(ANN, OSError(number, os.strerror(number))))
    (record,) = records
    assert os.strerror(number) in record.text
    assert remedy in record.text


async def test_what_clients_do_by_themselves_and_what_happens_rarely_is_not_counted(
    journal: EventLog, records: list[Record]
) -> None:
    for _ in range(3):
        journal(closed(Ending.EOF, limit_bytes=None))
        journal(ChildStarted("redstreamd", "tail hub", 2, 0.1))
    assert [record.text for record in records] == ["tail hub started (start 2)"] * 3


async def test_a_count_under_way_is_told_when_the_daemon_stops(records: list[Record]) -> None:
    journal = EventLog(records.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for _ in range(3):
            journal(ConnectionRejected(ANN, 5))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert records[-1].text.startswith("2 more in 0 s")
