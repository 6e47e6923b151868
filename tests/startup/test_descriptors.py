"""How many connections fit the descriptors of a process."""

from __future__ import annotations

import pytest

from redstreamd.startup.descriptors import KEPT, connections_within, max_newcomers, needed_for


@pytest.mark.parametrize(
    ("limit", "connections", "newcomers"),
    [(16, 0, 8), (64, 8, 8), (128, 64, 16), (1024, 848, 128), (16_384, 16_080, 256), (524_288, 523_984, 256)],
)
def test_a_part_is_kept_for_the_daemon_and_for_those_who_are_told(
    limit: int, connections: int, newcomers: int
) -> None:
    assert (connections_within(limit), max_newcomers(limit)) == (connections, newcomers)
    assert connections == 0 or connections + newcomers + KEPT == limit


@pytest.mark.parametrize("connections", [1, 63, 850, 4096, 1_000_000])
def test_what_is_said_to_be_needed_is_enough(connections: int) -> None:
    assert connections_within(needed_for(connections)) >= connections


def test_the_shipped_unit_has_enough_for_the_default() -> None:
    assert connections_within(16_384) >= 4096
