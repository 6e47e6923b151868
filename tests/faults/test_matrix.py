"""docs/reliability.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent


def test_every_test_that_the_matrix_names_exists() -> None:
    text = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 40
    for file, name in named:
        assert f"def {name}(" in (TESTS / file).read_text("utf-8"), f"{file}::{name}"


def test_every_row_of_the_matrix_has_a_test() -> None:
    text = (TESTS.parent / "docs" / "reliability.md").read_text("utf-8")
    # A row may have variants: 43a, 43b.
    rows = dict.fromkeys(int(row) for row in re.findall(r"^\| (\d+)[a-z]? \|", text, re.MULTILINE))
    shown = [
        row for rows_of in re.findall(r"^- (\d[^:`]*): ", text, re.MULTILINE) for row in numbers(rows_of)
    ]
    assert not rows.keys() - set(shown)
    assert len(rows) > 45


def numbers(text: str) -> list[int]:
    """Return the numbers of a text such as "38, 39 and 43 to 57"."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?: to (\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return found
