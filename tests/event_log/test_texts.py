"""Every event has words, and a traceback only where nobody foresaw what happened."""

from __future__ import annotations

import logging
import typing

import msgspec
import pytest

from redstreamd.event_log.texts import Event, record, words
from redstreamd.redisio import Role
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.redisio.server_health import Connected, ConnectFailed, Degraded, ServerHealth
from redstreamd.service.embedded.embedded_server import EmbeddedServerError
from redstreamd.service.supervisor_events import ChildFailed, ChildHung


def event_types(union: object) -> list[type]:
    members: list[type] = []
    for member in typing.get_args(union):
        members += event_types(member) if typing.get_args(member) else [member]
    return members


@pytest.mark.parametrize("kind", event_types(Event), ids=lambda kind: kind.__name__)
def test_every_event_has_words(kind: type) -> None:
    """A new event without words would be found out when it happens, which is the worst moment."""
    assert words.dispatch(kind) is not words.dispatch(object)
    assert issubclass(kind, msgspec.Struct)


def test_what_was_foreseen_is_one_line_and_a_defect_has_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG, "redstreamd"):
        record(ChildFailed("redstreamd", "embedded server", EmbeddedServerError("it ended"), 1.0, 0.5))
        record(ChildFailed("redstreamd", "tail hub", ValueError("what nobody thought of"), 1.0, None))
        record(ChildHung("redstreamd", "tail hub", 10.0, "the tree"))
    foreseen, defect, hung = caplog.records
    assert foreseen.exc_info is None
    assert "it ended" in foreseen.message
    assert "0.5 s" in foreseen.message
    assert defect.exc_info is not None
    assert "not started again" in defect.message
    assert hung.levelno == logging.CRITICAL


def test_what_each_connection_does_is_for_debugging_and_the_outage_for_everybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask_nothing(*_args: object) -> None: ...

    health = ServerHealth("r:1", ask_nothing, on_event=record)
    refused = Problem(ProblemKind.UNREACHABLE, "Connection refused", "Start Redis.")
    with caplog.at_level(logging.DEBUG, "redstreamd"):
        for role in Role:
            health(ConnectFailed(role, "r:1", refused))
        for role in Role:
            health(Connected(role, "r:1", "redis 7", 3, 5.0))
    levels = [each.levelname for each in caplog.records]
    assert (levels.count("DEBUG"), levels.count("WARNING"), levels.count("INFO")) == (2 * len(Role), 1, 1)
    end = caplog.records[-1].message
    assert end == (
        "connected to redis 7 at r:1 for short commands, waiting calls, large reads, very large reads, "
        "confirmed writes after 5.0 s and 3 failed attempts"
    )
    refused = Problem(ProblemKind.WRITES_REFUSED, "full", "Trim.")
    assert words(Degraded("r:1", refused)) == (logging.WARNING, "Redis at r:1 refuses writes: full. Trim.")
