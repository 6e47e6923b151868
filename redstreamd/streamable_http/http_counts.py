"""What is counted of HTTP, for the metrics."""

from __future__ import annotations

import msgspec


class HttpCounts(msgspec.Struct, eq=False):
    """Figures of all connections together.

    Attributes:
        connections: How many are open.
        responses: How many responses were begun so far, by the first digit of their status.
    """

    connections: int = 0
    responses: dict[int, int] = msgspec.field(default_factory=lambda: dict.fromkeys(range(1, 6), 0))

    def note(self, status: int) -> None:
        """Count a response."""
        self.responses[status // 100] += 1
