"""Counts the calls of tools that ended, by tool and outcome."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from redstreamd.histogram import Histogram
from redstreamd.metrics.metric_definitions import CALL_SECONDS
from redstreamd.tools.invocation import OK, CallEnded

#: Pairs of tool and outcome that are counted apart: each is 16 lines of the page. What comes later, as only
#: errors do, is counted with its tool's other outcomes, or with all others.
MAX_PAIRS: Final = 48
OTHER: Final = "other"


class Calls(Histogram):
    """The calls of one tool with one outcome.

    Attributes:
        answer_bytes: The size of their answers together.
    """

    __slots__ = ("answer_bytes",)

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__(CALL_SECONDS)
        self.answer_bytes = 0


class ToolFigures(msgspec.Struct, frozen=True):
    """The calls of one tool, for people.

    Attributes:
        calls: How many ended.
        failed: Those that did not end well: answered with an error, or cancelled.
        mean_seconds: How long they took in the mean, waits included.
        p99_seconds: What 99 of 100 did not exceed, as the bound of a bucket; None if it is beyond all.
        answer_bytes: The size of the answers together.
    """

    calls: int
    failed: int
    mean_seconds: float
    p99_seconds: float | None
    answer_bytes: int


class CallFigures(msgspec.Struct, frozen=True):
    """A snapshot of the calls so far.

    Attributes:
        tools: By the name of the tool, those called most first.
    """

    tools: Mapping[str, ToolFigures]


class CallCounts:
    """The calls so far; one for the daemon."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counted: dict[tuple[str, str], Calls] = {}
        # Those that are counted elsewhere, too.
        self._found: dict[tuple[str, str], Calls] = {}

    @property
    def pairs(self) -> Mapping[tuple[str, str], Calls]:
        """The calls by tool and outcome."""
        return self._counted

    def statistics(self) -> CallFigures:
        """Return a snapshot."""
        by_tool: dict[str, dict[str, Calls]] = {}
        for (tool, outcome), calls in self._counted.items():
            by_tool.setdefault(tool, {})[outcome] = calls
        figures = {tool: _figures(calls) for tool, calls in by_tool.items()}
        return CallFigures(dict(sorted(figures.items(), key=lambda each: each[1].calls, reverse=True)))

    def note(self, ended: Iterable[CallEnded]) -> None:
        """Count calls that ended; a part of each call."""
        tool = outcome = calls = None
        for call in ended:
            # Often the same is done many times.
            if calls is None or call.tool is not tool or call.outcome is not outcome:
                tool, outcome = call.tool, call.outcome
                calls = self._found.get((tool, outcome)) or self._place((tool, outcome))
            # As `observe`, which would be a frame for each call.
            seconds = call.seconds
            calls.counts[bisect_left(CALL_SECONDS, seconds)] += 1
            calls.total += seconds
            calls.answer_bytes += call.answer_bytes

    def note_alike(
        self, tool: str, outcome: str, seconds: Sequence[float], answer_bytes: Sequence[int]
    ) -> None:
        """Count calls of one tool with one outcome: how long each took, and how large its answer was."""
        calls = self._found.get((tool, outcome)) or self._place((tool, outcome))
        counts = calls.counts
        for each in seconds:
            counts[bisect_left(CALL_SECONDS, each)] += 1
        calls.total += sum(seconds)
        calls.answer_bytes += sum(answer_bytes)

    def _place(self, key: tuple[str, str]) -> Calls:
        """Return where calls of a tool with an outcome are counted."""
        tool, outcome = key
        # Tools and codes are few; a name that no tool has is none of them.
        counted = self._counted
        if key not in counted and outcome != OK and len(counted) >= MAX_PAIRS:
            key = (tool, OTHER)
        calls = counted.get(key)
        if calls is None:
            calls = counted[key] = Calls()
        self._found[tool, outcome] = calls
        return calls


def _figures(by_outcome: Mapping[str, Calls]) -> ToolFigures:
    together = Histogram(CALL_SECONDS)
    for calls in by_outcome.values():
        together.add(calls)
    well = by_outcome[OK].count if OK in by_outcome else 0
    return ToolFigures(
        together.count,
        together.count - well,
        round(together.total / together.count, 6),
        together.quantile(0.99),
        sum(calls.answer_bytes for calls in by_outcome.values()),
    )
