"""What the tests of faults share: the seed of a run, and servers and daemons to break."""

from __future__ import annotations

import os
import random

import pytest


@pytest.fixture
def rng() -> random.Random:
    """Every random choice of a run; pytest shows the seed when the test fails."""
    seed = int(os.environ.get("REDSTREAMD_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed {seed}: REDSTREAMD_SEED={seed} makes the same choices again")
    return random.Random(seed)
