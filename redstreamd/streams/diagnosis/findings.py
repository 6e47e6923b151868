"""What a diagnosis says: findings, each with its evidence, its cause and what to do next."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import attrs


class Severity(enum.StrEnum):
    """How much a finding matters."""

    CRITICAL = "critical"  #: Work stands still, or data can be lost, now.
    WARNING = "warning"  #: It will come to that, or part of the work stands still.
    NOTICE = "notice"  #: Worth knowing; nothing is wrong with it.


_ORDER = list(Severity)


@attrs.frozen
class Finding:
    """One thing that was found.

    Attributes:
        severity: How much it matters.
        code: What it is, for programs; stable.
        cause: What it means and where it comes from, in a sentence or two.
        evidence: The figures it rests on; durations end in ``_seconds``.
        group: The consumer group it is about; None for the stream or the server.
        tool: The tool to call next; None if no tool can help, and then `cause` says what can.
        arguments: Its arguments.
    """

    severity: Severity
    code: str
    cause: str
    evidence: dict[str, Any]
    group: str | None = None
    tool: str | None = None
    arguments: dict[str, Any] = attrs.field(factory=dict)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, the worst first, those of one severity as they came."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
