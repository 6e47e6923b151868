"""Generates docs/schemas.md, the page about schemas and JSON texts, from the rules of the dialect.

Owns the form of docs/schemas.md, which `make generate` writes and a test compares.
"""

from __future__ import annotations

from redstreamd.tools.schema_dialect import RULES

_HEAD = """\
# Schemas

Generated from `redstreamd/tools/schema_dialect.py`: the rules for the schemas of the [tools](tools.md), and
how values given as JSON text are read.

## The dialect

A client passes the schemas of all tools to the provider of its model, often unchanged. A provider that does
not take one of them refuses the whole request. Providers differ, so these are the rules of all of them
together. Every schema is checked when it is made, and all tools of all profiles in CI.

A number in a rule is that of the strictest provider or client that was found. A source is a page of
documentation, or an issue or pull request on GitHub that reports the refusal. The tests call no provider.
"""

_TAIL = """\
### What the dialect cannot express

- *That other arguments are refused.* They are. Google's API refuses `additionalProperties` in a function's
  `parameters`, and some clients pass it on.
- *That an entry, a reply or a filter may have any members.* Their schema is an object without `properties`.
  Google's API refused that in early 2025 (MarkusPfundstein/mcp-obsidian#21); according to later reports it
  accepts it (livekit/agents#7302). A client that still uses Google's older field `parameters` may get an
  empty object (livekit/agents#7170, pydantic/pydantic-ai#2588). No schema helps there: the field does not
  allow arbitrary members, and with one named property models do not add others (googleapis/js-genai#708).
- *Which members a successful answer always has.* [tools.md](tools.md) marks them. Clients that also validate
  failed calls would refuse them if the schema required members (modelcontextprotocol/typescript-sdk#1943).
- *The form of a name, a time or an entry ID.* Some providers do not take `pattern`, or no lookahead in it.
- *Strict modes.* OpenAI's demands that every property is required, and like Anthropic's that every object is
  closed. Arbitrary members exclude both; clients use the tools without `strict`.

## Values given as JSON text

Models, and programs between them and the daemon, sometimes send values as text: `"5"` for 5, or a list as one
string (anthropics/claude-code#73137, QwenLM/qwen-code#4966, openclaw/openclaw#96916,
microsoft/azure-devops-mcp#853). For every argument of every tool:

- Where the schema has an integer, a number, a boolean, an array or an object, a text that is the JSON of such
  a value is read as that value. `entries` may be the text of a list, and an item of `entries` the text of an
  object.
- Where the schema has a string, nothing is parsed: the stream `"5"` is called 5, `"true"` is a group's name.
- Inside an entry, a request, a reply or a filter nothing is parsed: `"5"` is a string there.
- The text must be JSON of exactly the type: `"5.5"` and `"five"` are not integers, `"True"` is not a boolean,
  `"null"` and `""` are refused, and the error for `"{'a': 1}"` says where it is not JSON.
- It is parsed once: the text of a text is a string.
- The rules of a message apply: repeated names and numbers outside the range of a double are refused, the
  nesting adds to that of the message (`limits.max_nesting`), and all texts of a call hold at most 100,000
  values.
"""


def as_markdown() -> str:
    """Return the page."""
    rows = (f"| {rule.name} | {rule.text} | {', '.join(map(_linked, rule.sources))} |" for rule in RULES)
    return "\n".join((_HEAD, "| rule | text | sources |", "|---|---|---|", *rows, "", _TAIL))


def _linked(source: str) -> str:
    if source.startswith("https://"):
        host, _, path = source.removeprefix("https://").partition("/")
        return f"[{'/'.join(path.split('/')[:2]) if host == 'github.com' else host}]({source})"
    repository, _, number = source.partition("#")
    return f"[{source}](https://github.com/{repository}/issues/{number})"
