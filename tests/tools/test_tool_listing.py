"""What clients see of the tools: its cost, and that no hint is left to a client's default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Profile, Tool
from redstreamd.tools.tool_listing import listed, tokens
from tests.conftest import FIGURE

TOOLS = list(REGISTRY)


def test_the_default_listing_fits_its_budget(record_property: Callable[[str, str], None]) -> None:
    cost = tokens(REGISTRY.for_profiles([Profile.WORKER]))
    record_property(FIGURE, f"listing the default profile costs about {cost} tokens")
    assert cost <= 6_000


@pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])
def test_every_annotation_is_explicit(tool: Tool[Any]) -> None:
    annotations = listed(tool)["annotations"]
    assert set(annotations) == {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"}
    assert all(isinstance(hint, bool) for hint in annotations.values())
