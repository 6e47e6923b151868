"""How a parallel run of the tests is shared between its processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.durations import SECONDS, TESTS
from tests.support.shared_imports import shares_in_turn


@pytest.mark.parametrize("processes", range(1, 6))
def test_each_process_imports_all_tests_and_begins_with_a_share_of_its_own(processes: int) -> None:
    paths = [Path(f"test_{number}.py") for number in range(13)]
    orders = [shares_in_turn(paths, process, processes) for process in range(processes)]
    assert all(sorted(order) == sorted(paths) for order in orders)
    first = [path for order in orders for path in order[: len(paths) // processes]]
    assert len(first) == len(set(first))


def test_the_files_that_take_long_exist() -> None:
    assert [name for name in SECONDS if not (TESTS / name).is_file()] == []
