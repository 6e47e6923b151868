"""What clients see of each tool is a file in the repository: a change of the interface shows in review.

Regenerate with: REDSTREAMD_WRITE_SNAPSHOTS=1 pytest tests/tools/test_snapshots.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile, Tool
from redstreamd.tools.tool_listing import listed, tokens
from tests.conftest import FIGURE

SNAPSHOTS = Path(__file__).parent / "snapshots"
TOOLS = list(REGISTRY)


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_a_tool_is_listed_as_its_snapshot_says(tool: Tool[Any]) -> None:
    path = SNAPSHOTS / f"{tool.name}.json"
    text = json.dumps(listed(tool), indent=2, ensure_ascii=False) + "\n"
    if "REDSTREAMD_WRITE_SNAPSHOTS" in os.environ:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text


def test_there_is_no_snapshot_of_a_tool_that_is_gone() -> None:
    assert {path.stem for path in SNAPSHOTS.iterdir()} == {tool.name for tool in TOOLS}


def test_the_default_listing_fits_its_budget(record_property: Callable[[str, str], None]) -> None:
    cost = tokens(REGISTRY.for_profiles([Profile.WORKER]))
    record_property(FIGURE, f"listing the default profile costs about {cost} tokens")
    assert cost <= 6_000


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_every_annotation_is_explicit(tool: Tool[Any]) -> None:
    annotations = listed(tool)["annotations"]
    assert set(annotations) == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
    assert all(isinstance(hint, bool) for hint in annotations.values())
