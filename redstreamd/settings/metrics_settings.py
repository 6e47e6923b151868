"""The settings of the metrics; see `sections`."""

from __future__ import annotations

from typing import Annotated

import attrs
from msgspec import Meta


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
