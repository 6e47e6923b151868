"""The page about schemas and JSON texts as a document, from the rules of the dialect.

Owns the form of docs/schemas.md, which a test compares with what this makes:
``python -m redstreamd.reference.schema_docs > docs/schemas.md``.
"""

from __future__ import annotations

from redstreamd.tools.schema_dialect import RULES

_HEAD = """\
# Schemas

Generated from `redstreamd/tools/schema_dialect.py`: what the schemas of the [tools](tools.md) look like, and
how arguments are read that do not quite fit them.

## The dialect

A client hands the schemas of all tools over to the provider of its model, often as they stand. A provider
that does not take one of them refuses the whole request. No two providers take the same, so these are the
rules of all of them together. Every schema is held against them when it is made, and all tools of all
profiles in CI.

Where a rule has a number, it is that of the strictest provider or client that was found. A source is a page
of documentation, or an issue or pull request on GitHub in which somebody met the refusal. The rules rest on
these sources: the tests call no provider.
"""

_TAIL = """\
### What the dialect cannot say

- *That other arguments are refused.* They are. Google's API refuses `additionalProperties` in a function's
  `parameters`, and some clients pass it on.
- *That the members of an entry, a reply or a filter are free.* Their schema is an object without
  `properties`. Google's API refused that in early 2025 (MarkusPfundstein/mcp-obsidian#21); later reports have
  it accepted (livekit/agents#7302). A client that still uses Google's older field `parameters` may get an
  empty object (livekit/agents#7170, pydantic/pydantic-ai#2588). No schema helps there: the field knows no
  free members, and a single named property keeps models from adding others (googleapis/js-genai#708).
- *Which members a successful answer always has.* [tools.md](tools.md) marks them. A schema that requires
  them would refuse failed calls in clients that check those, too
  (modelcontextprotocol/typescript-sdk#1943).
- *The form of a name, a time or an entry ID.* Some providers take no `pattern`, or none with a lookahead.
- *What strict modes want.* OpenAI's wants every property required, and like Anthropic's every object closed.
  Free members exclude both; clients use the tools without `strict`.

## Values given as JSON text

Models, and programs between them and the daemon, hand values over as text now and then: `"5"` for 5, or a
list as one string (anthropics/claude-code#73137, QwenLM/qwen-code#4966, openclaw/openclaw#96916,
microsoft/azure-devops-mcp#853). The same holds for every argument of every tool:

- Where the schema has an integer, a number, a boolean, an array or an object, a text that is the JSON of
  such a value is read as that value. `entries` may be the text of a list, and an item of `entries` the text
  of an object.
- Where the schema has a string, nothing is parsed: the stream `"5"` is called 5, `"true"` is a group's
  name.
- Inside an entry, a request, a reply or a filter nothing is parsed: there `"5"` is a string and stays one.
- The text must be JSON, and of exactly the type: `"5.5"` and `"five"` are no integers, `"True"` is no
  boolean, `"null"` and `""` are nothing, and `"{'a': 1}"` is refused with the place where it stops being
  JSON.
- It is parsed once: the text of a text is a string.
- What holds for a message holds for such a text: repeated names are noticed, numbers beyond a double
  refused, the nesting adds to that of the message (`limits.max_nesting`), and all texts of a call hold at
  most 100,000 values.
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


if __name__ == "__main__":
    print(as_markdown(), end="")
