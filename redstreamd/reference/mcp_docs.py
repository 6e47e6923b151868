"""Generates docs/tools.md, the reference of tools, resources and prompts, from their definitions.

Owns the form of docs/tools.md, which `make generate` writes and a test compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from redstreamd.errors import Code
from redstreamd.prompts.definition import Prompt, PromptRegistry
from redstreamd.resources.definition import Resource, ResourceRegistry
from redstreamd.tools.definition import Registry, Tool
from redstreamd.tools.schema import always_present, arguments_schema, result_schema

_HEAD = """\
# Reference

Generated from the definitions in `redstreamd/`: [tools](#tools), [resources](#resources), [prompts](#prompts)
and the [codes of errors](#errors).
"""

_ERRORS = f"""\
## Errors

A tool call that fails answers `{{code, message, cause, next_step}}` with `isError: true`. Other requests fail
with a JSON-RPC error that has `code` and `next_step` in its `data`. Where a time is known after which to try
again, as with RATE_LIMITED, there is `retry_after_seconds`, too. [errors.md](errors.md) lists which error
of Redis becomes which code. The codes:

{", ".join(f"`{code}`" for code in Code)}
"""

_TOOLS = """\
## Tools

Profiles: observer, worker (with observer), operator (with worker); `red-stream` adds the six tools of the
original Red-Stream server.

The schemas of arguments and answers are in a dialect that every provider of models takes;
[schemas.md](schemas.md) lists its rules, and how a number given as `"5"` or a list given as JSON text is
read. A later version may add members to an answer. Members marked *always* are in every answer that is not an
error. Null for an argument means that it is not given. An argument that is not listed is refused.

### Annotations

The hints in `tools/list`: whether a tool is read-only, destructive and idempotent, with the reason. A hint
states what the tool can do with any arguments, not what it does by default. A destructive tool may remove
entries, groups, pending entries, dead letters or replies, or give them to somebody else. A call of an
idempotent tool can be repeated at any later time without further effect, whatever others did meanwhile. No
tool is open-world: all act only on the streams of the one Redis that is configured.
"""

_RESOURCES = """\
## Resources

A variable in braces is one path segment: a name in UTF-8, percent-encoded. `completion/complete` completes
it. `resources/list` lists the URIs without variables, and the URI of each stream.

A client may use what it read for the time after "fresh for", unless a subscription announces a change. A
connection may subscribe to 256 resources, in all its `subscriptions/listen` together. A request for more is
refused with TOO_MANY_SUBSCRIPTIONS, a listen as a whole.
"""

_PROMPTS = """\
## Prompts

`completion/complete` completes the arguments that are names.
"""


def as_markdown(registry: Registry, library: ResourceRegistry, prompts: PromptRegistry) -> str:
    """Return the page; tools and prompts are sorted by name, resources by URI."""
    return "\n".join(
        (
            *(_HEAD, _ERRORS),
            *(_TOOLS, *_annotations(registry)),
            *(line for each in registry for line in _tool(each)),
            *(_RESOURCES, *(line for each in library for line in _resource(each))),
            *(_PROMPTS, *(line for each in prompts for line in _prompt(each))),
        )
    )


def _annotations(registry: Registry) -> Iterator[str]:
    yield "| tool | read-only | destructive | idempotent |"
    yield "|---|---|---|---|"
    for each in registry:
        hints = (each.hints.read_only, each.hints.destructive, each.hints.idempotent)
        cells = (f"{'**yes**' if hint.value else 'no'}: {hint.reason}" for hint in hints)
        yield _row(f"[`{each.name}`](#{each.name})", *cells)
    yield ""


def _tool(tool: Tool[Any]) -> Iterator[str]:
    yield f"### {tool.name}\n"
    yield f"*{tool.title}.* Profile {tool.profile}; permission {tool.permission}; {_hints(tool)}.\n"
    yield f"{tool.description}\n"
    schema = arguments_schema(tool.arguments)
    required = schema.get("required", [])
    yield from _table("argument", schema["properties"], required, "required")
    if tool.result is not None:
        members = result_schema(tool.result)["properties"]
        yield from _table("answer", members, always_present(tool.result), "always")


def _resource(resource: Resource) -> Iterator[str]:
    yield f"### `{resource.uri}`\n"
    properties = (
        resource.mime_type or "MIME type as described",
        f"permission {resource.permission}",
        f"fresh for {resource.fresh_seconds:g} s",
        "can be subscribed to" if resource.topic is not None else "cannot be subscribed to",
    )
    yield f"*{resource.title}.* {'; '.join(properties)}.\n"
    yield f"{resource.description}\n"


def _prompt(prompt: Prompt) -> Iterator[str]:
    yield f"### {prompt.name}\n"
    yield f"*{prompt.title}.* Permission {prompt.permission}.\n"
    yield f"{prompt.description}\n"
    if prompt.arguments:
        yield "| argument | meaning |"
        yield "|---|---|"
        for argument in prompt.arguments:
            named = _named(argument.name, "required" if argument.required else "")
            yield _row(named, argument.description)
        yield ""


def _hints(tool: Tool[Any]) -> str:
    hints = [
        "read-only" if tool.hints.read_only.value else "writes",
        "destructive" if tool.hints.destructive.value else "",
        "idempotent" if tool.hints.idempotent.value else "not idempotent",
    ]
    return ", ".join(filter(None, hints))


def _table(what: str, members: dict[str, Any], marked: Iterable[str], mark: str) -> Iterator[str]:
    yield f"| {what} | type | meaning |"
    yield "|---|---|---|"
    for name, member in members.items():
        parts = [member.get("description", ""), _bounds(member)]
        if member.get("default") is not None:
            parts.append(
                f"Default: `{member['default']!r}`.".replace("True", "true").replace("False", "false")
            )
        named = _named(name, mark if name in marked else "")
        yield _row(named, _type(member), " ".join(filter(None, parts)))
    yield ""


def _named(name: str, mark: str) -> str:
    return f"`{name}` ({mark})" if mark else f"`{name}`"


def _row(*cells: str) -> str:
    # A bar would end the cell.
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _type(member: dict[str, Any]) -> str:
    if "enum" in member:
        return " or ".join(f"`{value}`" for value in member["enum"])
    if member["type"] == "array":
        return f"list of {_type(member['items'])}"
    return str(member["type"])


def _bounds(member: dict[str, Any]) -> str:
    low, high = member.get("minimum"), member.get("maximum")
    if low is not None and high is not None:
        return f"From {low:.12g} to {high:.12g}."
    if low is not None:
        return f"At least {low:.12g}."
    size = member.get("maxItems")
    return f"At most {size}." if size is not None else ""
