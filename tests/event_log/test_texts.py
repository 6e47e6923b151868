"""How severe events are, and that they have a traceback only where nobody foresaw what happened."""

from __future__ import annotations

import pytest

from redstreamd.admission.accounts import Peer
from redstreamd.event_log import kinds  # noqa: F401 - declares them
from redstreamd.event_log.declaration import declaration_of
from redstreamd.event_log.event_log import EventLog
from redstreamd.mcpio.connection_events import ConnectionClosed, Ending
from redstreamd.policy import Principal
from redstreamd.redisio import Role
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.redisio.server_health import Connected, ConnectFailed, Degraded, ServerHealth
from redstreamd.service.embedded.embedded_server import EmbeddedServerError
from redstreamd.service.log_record import Record, Severity
from redstreamd.service.supervisor_events import ChildFailed, ChildHung


@pytest.fixture
def records() -> list[Record]:
    return []


@pytest.fixture
def log(records: list[Record]) -> EventLog:
    return EventLog(records.append, Severity.DEBUG)


def test_what_was_foreseen_is_one_line_and_a_defect_has_its_traceback(
    log: EventLog, records: list[Record]
) -> None:
    log(ChildFailed("redstreamd", "embedded server", EmbeddedServerError("it ended"), 1.0, 0.5))
    log(ChildFailed("redstreamd", "tail hub", ValueError("what nobody thought of"), 1.0, None))
    log(ChildHung("redstreamd", "tail hub", 10.0, "the tree"))
    foreseen, defect, hung = records
    assert foreseen.traceback == ""
    assert "it ended" in foreseen.text
    assert "0.5 s" in foreseen.text
    assert foreseen.fields == (("CHILD", "embedded server"), ("ERROR", "EmbeddedServerError"))
    assert defect.traceback == "ValueError: what nobody thought of"
    assert "not started again" in defect.text
    assert (defect.event, foreseen.event) == ("part_gave_up", "part_failed")
    assert hung.severity is Severity.CRITICAL


def test_what_each_connection_does_is_for_debugging_and_the_outage_for_everybody(
    log: EventLog, records: list[Record]
) -> None:
    async def ask_nothing(*_args: object) -> None: ...

    health = ServerHealth("r:1", ask_nothing, on_event=log)
    refused = Problem(ProblemKind.UNREACHABLE, "Connection refused", "Start Redis.")
    for role in Role:
        health(ConnectFailed(role, "r:1", refused))
    for role in Role:
        health(Connected(role, "r:1", "redis 7", 3, 5.0))
    levels = [each.severity.name for each in records]
    assert (levels.count("DEBUG"), levels.count("WARNING"), levels.count("INFO")) == (2 * len(Role), 1, 1)
    end = records[-1].text
    assert end == (
        "connected to redis 7 at r:1 for short commands, waiting calls, large reads, very large reads, "
        "confirmed writes after 5.0 s and 3 failed attempts"
    )
    full = Degraded("r:1", Problem(ProblemKind.WRITES_REFUSED, "full", "Trim."))
    kind = declaration_of(full)
    assert (kind.name, kind.severity) == ("redis_refuses_writes", Severity.WARNING)
    assert kind.sentence(full) == "Redis at r:1 refuses writes: full. Trim."


async def test_the_fields_say_who_where_and_how_long(log: EventLog, records: list[Record]) -> None:
    ann = Principal("mcp/uid:0", "unix", "mcp")
    log(ConnectionClosed("c7", ann, Ending.UNREAD, 1.25, 3, 0, None, Peer(uid=0, pid=12), 70_000))
    log(ConnectionClosed("c8", ann, Ending.EOF, 1.25, 3, 0, None, Peer(address="192.0.2.1")))
    log(ConnectionClosed("c9", ann, Ending.EOF, 1.25, 3, 0, None, None))
    unread, *others = (dict(each.fields) for each in records)
    about = {"CONNECTION": "c7", "PRINCIPAL": "mcp/uid:0", "SECONDS": "1.250000"}
    assert unread == {**about, "PEER_PID": "12", "PEER_UID": "0", "BYTES": "70000"}
    assert [{name for name in each if name.startswith("PEER")} for each in others] == [
        {"PEER_ADDRESS"},
        set(),
    ]
    assert [each.event for each in records] == ["closed_for_not_reading", *["connection_closed"] * 2]
