"""The files that follow from the code, for a test that compares them: `make generate` writes them anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from redstreamd import settings
from redstreamd.metrics import metrics_docs
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.reference import error_docs, event_docs, grafana_dashboard, mcp_docs, schema_docs
from redstreamd.resources.catalog import RESOURCES
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Tool
from redstreamd.tools.tool_listing import listed
from tests.support import architecture

REPOSITORY = Path(__file__).parents[2]
SNAPSHOTS = "tests/tools/snapshots"


def snapshot(tool: Tool[Any]) -> str:
    """Return what clients see of a tool."""
    return json.dumps(listed(tool), indent=2, ensure_ascii=False) + "\n"


GENERATED: dict[str, Callable[[], str]] = {
    "docs/settings.md": settings.as_markdown,
    "docs/tools.md": partial(mcp_docs.as_markdown, REGISTRY, RESOURCES, PROMPTS),
    "docs/errors.md": error_docs.as_markdown,
    "docs/metrics.md": metrics_docs.as_markdown,
    "docs/events.md": event_docs.as_markdown,
    "systemd/redstreamd.catalog": event_docs.as_catalog,
    "docs/schemas.md": schema_docs.as_markdown,
    "docs/architecture.svg": architecture.drawing,
    "contrib/grafana/redstreamd.json": grafana_dashboard.as_json,
    **{f"{SNAPSHOTS}/{tool.name}.json": partial(snapshot, tool) for tool in REGISTRY},
}
"""Each file with the function that returns its text."""


if __name__ == "__main__":
    for gone in {path.stem for path in (REPOSITORY / SNAPSHOTS).iterdir()} - {tool.name for tool in REGISTRY}:
        (REPOSITORY / SNAPSHOTS / f"{gone}.json").unlink()
    for name, text in GENERATED.items():
        (REPOSITORY / name).write_text(text(), "utf-8")
