"""What a wrong name was meant to be, found in a time that no name can stretch."""

from __future__ import annotations

import time

from redstreamd.errors.nearest_names import MAX_KNOWN, nearest_names
from tests.support.measured import measured


def test_the_most_alike_come_first_and_what_is_too_far_does_not_come() -> None:
    known = ["orders:new", "orders:done", "billing:invoices", "users"]
    assert nearest_names("Orders:nwe", known, 2) == ("orders:new", "orders:done")
    assert nearest_names("orders:nwe", known, 3, least=0.88) == ("orders:new",)
    assert nearest_names("zzz", known, 3, least=0.6) == ()
    assert nearest_names("a", [], 3) == ()


def test_long_names_are_told_apart_by_their_ends() -> None:
    known = [f"team:{'long' * 20}:{end}" for end in ("created", "shipped", "paid")]
    assert nearest_names(f"team:{'long' * 20}:shiped", known, 1) == (known[1],)


def test_names_made_to_be_alike_cost_no_more_than_a_moment() -> None:
    """Whoever may create streams chooses these names, and everybody waits while they are compared."""
    known = [f"a:b:{'a' * 190}{number}" for number in range(10 * MAX_KNOWN)]
    began = time.process_time()
    assert len(nearest_names(f"a:b:{'a' * 190}x", known, 3, least=0.6)) == 3
    # About 20 ms, more where memory is tidied up meanwhile; in full, a tenth of them took 8 s.
    with measured:
        assert time.process_time() - began < 4
