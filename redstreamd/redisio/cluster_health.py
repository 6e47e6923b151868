"""What is the matter with a cluster as a whole, and what of it is reported.

Owns why it does not serve every key, since when, whether its nodes agree, and how many slots have moved. What
is the matter with one node is told by that node's own ``server_health``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import trio

from redstreamd.redisio.cluster_events import ClusterChanged, ClusterDegraded, ClusterEvent, ClusterKnown
from redstreamd.redisio.redis_errors import Problem, ProblemKind
from redstreamd.redisio.slot_map import SlotMap

#: Seconds after which nodes that still disagree are a problem; news takes that long at most.
_DISPUTE_SECONDS: Final = 10.0
#: Seconds without a change after which slots that moved are reported; a resharding moves thousands.
_SETTLED_SECONDS: Final = 5.0
#: Reasons reported until the cluster serves every key again.
_MAX_REASONS: Final = 8

_UNSERVED: Final = (
    "Start the nodes that served them, or have others serve them: `redis-cli --cluster check` shows and "
    "`redis-cli --cluster fix` mends it."
)
_MOVES: Final = "Nothing needs to be changed, if it ends within a minute; redstreamd keeps asking."


def unserved(slots: str) -> Problem:
    """Return the problem of slots that nobody serves, such as "slot 7" or "the slots 0-5460"."""
    return Problem(ProblemKind.NOT_SERVING, f"no node of the cluster serves {slots}", _UNSERVED)


class ClusterHealth:
    """The health of one cluster.

    Attributes:
        problem: Why it does not serve every key; None if it does, or nothing is known yet.
        since: When that began, on trio's clock.
    """

    def __init__(self, tell: Callable[[ClusterEvent], None]) -> None:
        """Begin without any knowledge; `tell` takes what is to be reported, and must not raise."""
        self._tell = tell
        self._told: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Begin anew, with another cluster or after another start."""
        self.problem: Problem | None = None
        self.since = math.inf
        self._told.clear()
        self._was_known = False
        self._disputed_since = math.inf
        # What has changed since that was reported.
        self._moved = 0
        self._moved_at = -math.inf

    def problems(self) -> tuple[Problem, ...]:
        """Return why the cluster as a whole does not serve every key."""
        now = trio.current_time()
        found = (
            [] if self.problem is None else [msgspec.structs.replace(self.problem, seconds=now - self.since)]
        )
        disputed = now - self._disputed_since
        if disputed >= _DISPUTE_SECONDS:
            found.append(
                Problem(
                    ProblemKind.NOT_SERVING,
                    "the nodes of the cluster do not agree on which of them serves which slot",
                    "Look at `redis-cli --cluster check`: a resharding was left half done, or nodes cannot "
                    "reach each other.",
                    seconds=disputed,
                )
            )
        return tuple(found)

    def known(self, found: SlotMap, primaries: tuple[str, ...]) -> None:
        """Take note of the map that is used from now on, and of the labels of its primaries."""
        if not found.is_disputed:
            self._disputed_since = math.inf
        elif self._disputed_since == math.inf:
            self._disputed_since = trio.current_time()
        shortcoming = None
        if slots := found.unserved:
            shortcoming = unserved(f"the slots {slots}")
        elif not found.is_ok:
            shortcoming = Problem(
                ProblemKind.NOT_SERVING,
                "the nodes say that the cluster does not serve commands (cluster_state:fail)",
                f"Most often a primary was lost, and its replica takes its place. {_MOVES}",
            )
        if shortcoming is not None:
            self._fail(shortcoming)
        elif self.problem is not None or not self._was_known:
            down = trio.current_time() - self.since if self.problem is not None else 0.0
            self.problem = None
            self._told.clear()
            self._was_known = True
            self._tell(ClusterKnown(primaries, down))

    def unknown(self, problems: Mapping[str, Problem]) -> Problem:
        """Take note that no node tells the map, and return why.

        Args:
            problems: What is the matter with each node that was asked, by its label.
        """
        kinds = {problem.kind for problem in problems.values()}
        causes = dict.fromkeys(f"{label}: {problem.cause}" for label, problem in problems.items())
        steps = dict.fromkeys(problem.next_step for problem in problems.values())
        problem = Problem(
            kinds.pop() if len(kinds) == 1 else ProblemKind.UNREACHABLE,
            f"no node of the Redis cluster tells who serves which key ({'; '.join(causes)})",
            next(iter(steps), _MOVES),
        )
        self._fail(problem)
        return problem

    def _fail(self, problem: Problem) -> None:
        if self.problem is None:
            self.since = trio.current_time()
        self.problem = problem
        if problem.cause not in self._told and len(self._told) < _MAX_REASONS:
            self._told.add(problem.cause)
            self._tell(ClusterDegraded(problem))

    def moved(self, slots: int) -> None:
        """Take note that so many slots have another primary than before."""
        if slots:
            self._moved += slots
            self._moved_at = trio.current_time()

    def report_nodes(self, before: set[str], after: set[str]) -> None:
        """Report at once that nodes came or went, with the slots that have moved."""
        if before != after:
            self._report_moved(tuple(sorted(after - before)), tuple(sorted(before - after)))

    def report_settled(self) -> None:
        """Report how many slots have moved among the same nodes, once it is over."""
        if trio.current_time() >= self._moved_at + _SETTLED_SECONDS:
            self._report_moved((), ())

    def _report_moved(self, joined: tuple[str, ...], left: tuple[str, ...]) -> None:
        if self._moved:
            self._tell(ClusterChanged(self._moved, joined, left))
            self._moved = 0
