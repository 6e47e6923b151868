"""The findings of a diagnosis, each with its evidence, its cause and the next call."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import msgspec


class Severity(enum.StrEnum):
    """Severity of a finding."""

    CRITICAL = "critical"  #: Work has stopped, or data can be lost, now.
    WARNING = "warning"  #: That will happen, or a part of the work has stopped.
    NOTICE = "notice"  #: Nothing is wrong.


_ORDER = list(Severity)


class Finding(msgspec.Struct, frozen=True):
    """One finding.

    Attributes:
        severity: Its severity.
        code: Stable name, for programs.
        cause: Its meaning and cause, in a sentence or two.
        evidence: The figures behind it; durations end in ``_seconds``.
        group: Its consumer group; None for the stream or the server.
        tool: The tool to call next; None if no tool helps: then `cause` says what does.
        arguments: The tool's arguments.
    """

    severity: Severity
    code: str
    cause: str
    evidence: dict[str, Any]
    group: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] = msgspec.field(default_factory=dict)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, the most severe first, else in the given order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
