"""The settings of the quarantine; see `sections`."""

from __future__ import annotations

from typing import Annotated

import attrs
from msgspec import Meta


@attrs.frozen(kw_only=True)
class QuarantineSettings:
    """Entries of principals that may only submit (policy.rules), until an operator releases them."""

    max_entries: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Entries that may wait for a stream, with those for its reply streams. Beyond it "
            "nothing more is taken: the writer gets QUARANTINE_FULL.",
        ),
    ] = 1_000
    max_bytes: Annotated[
        int,
        Meta(
            ge=65_536,
            le=2**40,
            description="Memory in Redis that the entries may take that wait for a stream, likewise. Not "
            "counted where the user of Redis may not run MEMORY USAGE.",
        ),
    ] = 64 * 1024 * 1024
    keep_seconds: Annotated[
        float,
        Meta(
            ge=60,
            le=10**9,
            description="How long an entry waits at least. Older ones are removed when the next one comes, "
            "and all when none came for so long.",
        ),
    ] = 30 * 86_400.0
