"""The settings of the metrics; see `sections`."""

from __future__ import annotations

from typing import Annotated

import attrs
from msgspec import Meta

DAY = 86_400.0


@attrs.frozen(kw_only=True)
class MetricsSettings:
    """Figures for graphs and alerts."""

    max_streams: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Streams with figures of their own: those whose groups have most to do, and to which "
            "most is added. The others are counted. Each is asked for at every scrape, and sampled every "
            "five seconds while somebody asks, which takes Redis 20 µs and the daemon 0.1 ms. 0 for none.",
        ),
    ] = 50
    max_groups: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="Consumer groups of these streams with figures of their own, of all together: "
            "those with most to do. A page has room for some 150 groups with short names.",
        ),
    ] = 100
    journal_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="How often the figures are written to the journal, for sites that watch by it alone: "
            "calls, failures, connections, memory, pending entries. Where nothing happened nothing is "
            "written. 0 for never.",
        ),
    ] = 900.0
    check_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=DAY,
            description="How often the groups with figures are looked at, for warnings in the journal: a "
            "group without consumer while entries wait, too many pending entries, dead letters. Each is "
            "written once, when it was so at two looks in a row, and once more when it is over. 0 for never.",
        ),
    ] = 60.0
    warn_pending: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000_000,
            description="Pending entries of a group from which one more is too many, for these warnings and "
            "`redstreamd status`. 0 for any number.",
        ),
    ] = 100
