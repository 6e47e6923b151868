"""Documents that are generated from the code agree with it."""

from __future__ import annotations

import re
from pathlib import Path

from redstreamd import settings
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.reference import error_docs, mcp_docs, schema_docs
from redstreamd.resources.catalog import RESOURCES
from redstreamd.tools.catalog import REGISTRY

DOCS = Path(__file__).parent.parent / "docs"


def test_the_settings_reference_is_up_to_date() -> None:
    """Regenerate with: python -c 'import redstreamd.settings as s; print(s.as_markdown(), end="")'."""
    assert (DOCS / "settings.md").read_text("utf-8") == settings.as_markdown()


def test_the_reference_of_tools_resources_and_prompts_is_up_to_date() -> None:
    """Regenerate with: python -m redstreamd.reference.mcp_docs > docs/tools.md."""
    assert (DOCS / "tools.md").read_text("utf-8") == mcp_docs.as_markdown(REGISTRY, RESOURCES, PROMPTS)


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


#: Modules that know a problem without being on the way of a lost connection: what an operator says, AUTH on
#: live connections, and refused writes.
BESIDE = {"redisio/target.py", "redisio/reauth.py", "redisio/write_availability.py"}


def test_the_way_of_a_lost_connection_is_told_as_it_is_and_has_eleven_modules() -> None:
    text = (DOCS / "design.md").read_text("utf-8")
    section = text.partition("### The way of a lost connection")[2].partition("\n###")[0]
    told = re.findall(r"^\d+\. `([\w/.]+)`", section, re.MULTILINE)
    assert len(told) == len(set(told)) <= 11
    way = {name if "/" in name else f"redisio/{name}" for name in told}
    knows = re.compile(
        r"^from [\w.]+ import .*\b(ConnectionEnded|NotSent|ReplyLost|Problem)\b|^class Problem\b",
        re.MULTILINE,
    )
    package = DOCS.parent / "redstreamd"
    sources = (*package.glob("redisio/*.py"), *package.glob("event_log/*.py"))
    found = {str(path.relative_to(package)) for path in sources if knows.search(one_line_imports(path))}
    assert found - BESIDE <= way
    # The table of replies, which the login and the repeats ask.
    assert way - found == {"redisio/error_replies.py"}


def one_line_imports(path: Path) -> str:
    return re.sub(r"\(\n([^)]*)\)", lambda names: " ".join(names[1].split()), path.read_text("utf-8"))
