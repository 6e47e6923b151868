"""The reference of tools, resources and prompts as a document, from their definitions.

Owns the form of docs/tools.md, which a test compares with what this makes:
``python -m redstreamd.reference > docs/tools.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from redstreamd.errors import Code
from redstreamd.prompts.catalog import PROMPTS
from redstreamd.prompts.definition import Prompt, Prompts
from redstreamd.resources.catalog import LIBRARY
from redstreamd.resources.definition import Library, Resource
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.definition import Registry, Tool
from redstreamd.tools.schema import arguments_schema, result_schema

_HEAD = """\
# Reference

Generated from the definitions in `redstreamd/`: [tools](#tools), [resources](#resources), [prompts](#prompts)
and the [codes of errors](#errors).
"""

_ERRORS = f"""\
## Errors

A tool call that fails answers `{{code, message, cause, next_step}}` with `isError: true`. What else fails for
such a reason is a JSON-RPC error, with `code` and `next_step` in its `data`. [errors.md](errors.md) says
which error of Redis becomes which code. The codes:

{", ".join(f"`{code}`" for code in Code)}
"""

_TOOLS = """\
## Tools

Profiles: observer, worker (with observer), operator (with worker); `red-stream` adds the six tools of the
original Red-Stream server.
"""

_RESOURCES = """\
## Resources

A part in braces is one segment of the path: a name in UTF-8, percent-encoded. `completion/complete` completes
it. `resources/list` lists the addresses without such parts, and that of each stream.

What a client has read is fresh for a time in which it need not read again, unless a subscription tells it to.
"""

_PROMPTS = """\
## Prompts

`completion/complete` completes the arguments that name something.
"""


def as_markdown(registry: Registry, library: Library, prompts: Prompts) -> str:
    """Return the reference of all of them, tools and prompts sorted by name, resources by address."""
    return "\n".join(
        (
            *(_HEAD, _ERRORS),
            *(_TOOLS, *(line for each in registry for line in _tool(each))),
            *(_RESOURCES, *(line for each in library for line in _resource(each))),
            *(_PROMPTS, *(line for each in prompts for line in _prompt(each))),
        )
    )


def _tool(tool: Tool[Any]) -> Iterator[str]:
    yield f"### {tool.name}\n"
    yield f"*{tool.title}.* Profile {tool.profile}; permission {tool.permission}; {_hints(tool)}.\n"
    yield f"{tool.description}\n"
    schema = arguments_schema(tool.arguments)
    required = schema.get("required", [])
    yield from _table("argument", schema["properties"], required)
    if tool.result is not None:
        yield from _table("answer", result_schema(tool.result)["properties"], ())


def _resource(resource: Resource) -> Iterator[str]:
    yield f"### `{resource.uri}`\n"
    facts = (
        resource.mime_type or "MIME type as described",
        f"permission {resource.permission}",
        f"fresh for {resource.fresh_seconds:g} s",
        "can be subscribed to" if resource.topic is not None else "cannot be subscribed to",
    )
    yield f"*{resource.title}.* {'; '.join(facts)}.\n"
    yield f"{resource.description}\n"


def _prompt(prompt: Prompt) -> Iterator[str]:
    yield f"### {prompt.name}\n"
    yield f"*{prompt.title}.* Permission {prompt.permission}.\n"
    yield f"{prompt.description}\n"
    if prompt.arguments:
        yield "| argument | meaning |"
        yield "|---|---|"
        for argument in prompt.arguments:
            yield _row(_named(argument.name, argument.required), argument.description)
        yield ""


def _hints(tool: Tool[Any]) -> str:
    hints = [
        "read-only" if tool.read_only else "writes",
        "destructive" if tool.destructive else "",
        "idempotent" if tool.idempotent else "not idempotent",
    ]
    return ", ".join(filter(None, hints))


def _table(what: str, members: dict[str, Any], required: Iterable[str]) -> Iterator[str]:
    yield f"| {what} | type | meaning |"
    yield "|---|---|---|"
    for name, member in members.items():
        words = [member.get("description", ""), _bounds(member)]
        if member.get("default") is not None:
            words.append(
                f"Default: `{member['default']!r}`.".replace("True", "true").replace("False", "false")
            )
        mark = _named(name, name in required)
        yield _row(mark, _type(member), " ".join(filter(None, words)))
    yield ""


def _named(name: str, required: bool) -> str:
    return f"`{name}` (required)" if required else f"`{name}`"


def _row(*cells: str) -> str:
    # A bar would end the cell, wherever it stands.
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


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
        return f"From {low:.12g} to {high:.12g}."
    if low is not None:
        return f"At least {low:.12g}."
    size = member.get("maxItems")
    return f"At most {size}." if size is not None else ""


if __name__ == "__main__":
    print(as_markdown(REGISTRY, LIBRARY, PROMPTS), end="")
