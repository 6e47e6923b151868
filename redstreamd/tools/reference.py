"""The reference of the tools as a document, from their definitions.

Owns the form of docs/tools.md, which a test compares with what this makes:
``python -m redstreamd.tools.reference > docs/tools.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Registry, Tool
from redstreamd.tools.schema import arguments_schema, result_schema

_HEAD = """\
# Tools

Generated from the definitions in `redstreamd/tools/`. Profiles: observer, worker (with observer), operator
(with worker); `red-stream` adds the six tools of the original Red-Stream server.

A call that fails answers `{code, message, cause, next_step}` with `isError: true`.
"""


def as_markdown(registry: Registry) -> str:
    """Return the reference of all tools, sorted by name."""
    return "\n".join((_HEAD, *(line for tool in registry for line in _section(tool))))


def _section(tool: Tool[Any]) -> Iterator[str]:
    yield f"## {tool.name}\n"
    yield f"*{tool.title}.* Profile {tool.profile}; permission {tool.permission}; {_hints(tool)}.\n"
    yield f"{tool.description}\n"
    schema = arguments_schema(tool.arguments)
    required = schema.get("required", [])
    yield from _table("argument", schema["properties"], required)
    if tool.result is not None:
        yield from _table("answer", result_schema(tool.result)["properties"], None)


def _hints(tool: Tool[Any]) -> str:
    hints = [
        "read-only" if tool.read_only else "writes",
        "destructive" if tool.destructive else "",
        "idempotent" if tool.idempotent else "not idempotent",
    ]
    return ", ".join(filter(None, hints))


def _table(what: str, members: dict[str, Any], required: Iterable[str] | None) -> Iterator[str]:
    yield f"| {what} | type | meaning |"
    yield "|---|---|---|"
    for name, member in members.items():
        mark = " (required)" if required is not None and name in required else ""
        words = [member.get("description", ""), _bounds(member)]
        if member.get("default") is not None:
            words.append(
                f"Default: `{member['default']!r}`.".replace("True", "true").replace("False", "false")
            )
        yield f"| `{name}`{mark} | {_type(member)} | {' '.join(filter(None, words))} |"
    yield ""


def _type(member: dict[str, Any]) -> str:
    if "enum" in member:
        return " or ".join(f"`{value}`" for value in member["enum"])
    kind = member.get("type", "any")
    if kind == "array":
        return f"list of {_type(member.get('items', {}))}"
    if "anyOf" in member:
        return " or ".join(_type(each) for each in member["anyOf"])
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _bounds(member: dict[str, Any]) -> str:
    low, high = member.get("minimum"), member.get("maximum")
    if low is not None and high is not None:
        return f"From {low:g} to {high:g}."
    if low is not None:
        return f"At least {low:g}."
    size = member.get("maxItems")
    return f"At most {size}." if size is not None else ""


if __name__ == "__main__":
    print(as_markdown(REGISTRY), end="")
