"""Documents that are generated from the code agree with it."""

from __future__ import annotations

from pathlib import Path

from redstreamd.settings import as_markdown

DOCS = Path(__file__).parent.parent / "docs"


def test_the_settings_reference_is_up_to_date() -> None:
    """Regenerate with: python -c 'import redstreamd.settings as s; print(s.as_markdown(), end="")'."""
    assert (DOCS / "settings.md").read_text("utf-8") == as_markdown()
