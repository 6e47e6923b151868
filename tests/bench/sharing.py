"""What one greedy client pays for fair turns, and what each of several gets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import attrs

from tests.bench.rows import Cell, Sample
from tests.fairness import admission_cost, shares
from tests.fairness.field import Field
from tests.support.daemon import running_daemon
from tests.support.servers import Server

_SECONDS = 1.0
#: What the client does that is measured with admission and without.
_GREEDY = "adds, 256 in flight"


@attrs.frozen
class Sharing:
    """Redis; each measurement has daemons of its own."""

    server: Server

    def cells(self) -> Iterator[Cell]:
        """Every row about several clients, or about one for which there could be more."""
        yield Cell("sharing", f"one client, {_GREEDY}", "", self.admission)
        yield Cell("sharing", "8 clients with 8 to 2,560 in flight", "", self.eight)

    def admission(self) -> Sample:
        """What a second of the daemon's CPU time gives with admission, as a part of what it gives without."""
        self.server.flush()
        with admission_cost.daemons(self.server) as both:
            found = admission_cost.cost(both, _GREEDY)
        return {"rate": found.rate, "percent": found.share * 100}

    def eight(self) -> Sample:
        """What clients with different demands get together, as a part of what one gets alone, and each."""
        self.server.flush()
        with running_daemon(self.server, preload=False) as daemon:
            field = Field(self.server, daemon)
            field.prepare()
            before = shares.measure(field, shares.SOLO, _SECONDS, polite=False)
            found = shares.measure(field, shares.EIGHT, _SECONDS * 2, polite=False)
            after = shares.measure(field, shares.SOLO, _SECONDS, polite=False)
        mean = statistics.mean(found.rates)
        alone = statistics.mean((before.rates[0], after.rates[0]))
        return {
            "rate": sum(found.rates),
            "percent": sum(found.rates) / alone * 100,
            "deviation_percent": max(abs(rate - mean) for rate in found.rates) / mean * 100,
        }
