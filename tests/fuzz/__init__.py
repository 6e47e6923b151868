"""Random input of every kind that reaches redstreamd from outside: requests, settings, replies of Redis.

A run prints its seed, and ``FUZZ_SEED=<seed>`` repeats what it sends.
"""

from __future__ import annotations

import os
import random


def seeded(what: str) -> tuple[random.Random, str]:
    """Return a source of randomness and a text that says how to repeat it."""
    seed = os.environ.get("FUZZ_SEED") or str(random.SystemRandom().randrange(10**9))
    return random.Random(f"{what} {seed}"), f"FUZZ_SEED={seed}"
