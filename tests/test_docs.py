"""Documents that are generated from the code agree with it."""

from __future__ import annotations

import re
from pathlib import Path

from redstreamd import settings
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.reference import error_docs, mcp_docs, schema_docs
from redstreamd.resources.catalog import LIBRARY
from redstreamd.tools.catalog import REGISTRY

DOCS = Path(__file__).parent.parent / "docs"


def test_the_settings_reference_is_up_to_date() -> None:
    """Regenerate with: python -c 'import redstreamd.settings as s; print(s.as_markdown(), end="")'."""
    assert (DOCS / "settings.md").read_text("utf-8") == settings.as_markdown()


def test_the_reference_of_tools_resources_and_prompts_is_up_to_date() -> None:
    """Regenerate with: python -m redstreamd.reference.mcp_docs > docs/tools.md."""
    assert (DOCS / "tools.md").read_text("utf-8") == mcp_docs.as_markdown(REGISTRY, LIBRARY, PROMPTS)


def test_bounds_in_the_references_are_written_out() -> None:
    """Nobody reads 2.592e+06 as 30 days."""
    for name in ("tools.md", "settings.md"):
        assert not re.search(r"\de\+\d", (DOCS / name).read_text("utf-8")), name


def test_the_table_of_errors_is_up_to_date() -> None:
    """Regenerate with: python -m redstreamd.reference.error_docs > docs/errors.md."""
    assert (DOCS / "errors.md").read_text("utf-8") == error_docs.as_markdown()


def test_the_page_about_schemas_is_up_to_date() -> None:
    """Regenerate with: python -m redstreamd.reference.schema_docs > docs/schemas.md."""
    assert (DOCS / "schemas.md").read_text("utf-8") == schema_docs.as_markdown()
