"""How often a repeated fault or race runs in `make test`, `make soak-ci` and `make soak`.

Of properties, the profiles of Hypothesis in tests/conftest.py say it.

`make soak` may take hours and `make soak-ci` has 45 minutes, so each has a marker of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

#: What takes long and is not repeated: part of both soaks.
LONG = [pytest.mark.soak_ci, pytest.mark.soak]

#: Kinds of servers on which a quick count repeats what it shows on another one: Redis 7, or the oldest where
#: tests/contract runs it.
REPETITIONS = {"valkey", "redis8"}


def long(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test in both soaks only."""
    for mark in LONG:
        test = mark(test)
    return test


def counts(quick: float, *, ci: float, full: float) -> list[Any]:
    """Return the values of a parameter that says how often something is done.

    Args:
        quick: How often, or for how many seconds, in `make test`; there on one kind of server, where the
            test has several.
        ci: How often in `make soak-ci`; at most 25 for faults that are repeated one after the other.
        full: How often in `make soak`.
    """
    once = pytest.param(quick, marks=pytest.mark.quick)
    if ci == full:
        return [once, pytest.param(full, marks=LONG)]
    return [once, pytest.param(ci, marks=pytest.mark.soak_ci), pytest.param(full, marks=pytest.mark.soak)]


def numbers_until(count: int, enough: Callable[[], bool]) -> Iterator[int]:
    """Yield numbers from 0 on: so many, and more until what chance brings about has happened often enough.

    The limit of the test bounds how long that takes.
    """
    for number in itertools.count():
        if number >= count and enough():
            return
        yield number


def is_repetition(item: pytest.Item) -> bool:
    """Return whether a test runs at its quick count on one more kind of server; the soaks have them all."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return item.get_closest_marker("quick") is not None and parameters.get("server") in REPETITIONS
