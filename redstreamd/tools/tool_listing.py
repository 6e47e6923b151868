"""The entries of ``tools/list`` as plain JSON values, and their size in a model's context."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

import msgspec

from redstreamd.tools.annotations import as_json
from redstreamd.tools.definition import Profile, Registry, Tool
from redstreamd.tools.schema import arguments_schema, result_schema

# The usual estimate for English and JSON.
_BYTES_PER_TOKEN = 4


def listed(tool: Tool[Any]) -> dict[str, Any]:
    """Return the entry of a tool in ``tools/list``; every annotation is explicit."""
    description: dict[str, Any] = {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": arguments_schema(tool.arguments),
    }
    if tool.result is not None:
        description["outputSchema"] = result_schema(tool.result)
    description["annotations"] = as_json(tool.hints)
    return description


def tokens(tools: Iterable[Tool[Any]]) -> int:
    """Estimate how many tokens the listing of these tools takes in a model's context."""
    return -(-sum(_bytes(tool) for tool in tools) // _BYTES_PER_TOKEN)


def print_cost(registry: Registry, profiles: Iterable[Profile], file: TextIO | None = None) -> None:
    """Print the bytes and tokens of each tool of the profiles, largest first, and the sum."""
    offered = registry.for_profiles(profiles)
    out = sys.stdout if file is None else file
    for tool in sorted(offered, key=_bytes, reverse=True):
        print(f"{_bytes(tool):7} bytes {tokens([tool]):6} tokens  {tool.name}", file=out)
    print(f"{sum(map(_bytes, offered)):7} bytes {tokens(offered):6} tokens  in all", file=out)


def _bytes(tool: Tool[Any]) -> int:
    return len(msgspec.json.encode(listed(tool)))
