"""Every event has words, and a traceback only where nobody foresaw what happened."""

from __future__ import annotations

import logging
import typing

import attrs
import pytest

from redstreamd.event_log.texts import Event, record, words
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
    assert attrs.has(kind)


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
