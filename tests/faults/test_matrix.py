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
    rows = re.findall(r"^\| (\d+) \|", text, re.MULTILINE)
    shown = re.findall(r"^- (\d+): ", text, re.MULTILINE)
    assert rows == shown
    assert len(rows) > 25
