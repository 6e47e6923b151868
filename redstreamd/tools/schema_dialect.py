"""The rules of the JSON Schema dialect that every provider of models takes, with their sources.

A client passes a tool's schema to the provider of its model, often unchanged. A provider that does not take
one schema refuses the whole request, so one such schema makes all tools of all servers unusable. Providers
differ, so these are the rules of all of them together. What the dialect cannot express is not published, but
still checked by the tool. ``tools.schema_check`` checks schemas against the rules.

The rules hold for output schemas, too, because some clients pass these on as well (google-gemini/gemini-cli
issue 13694, vercel/ai pull request 20021).
"""

from __future__ import annotations

import re

import msgspec

MAX_DESCRIPTION = 1_024
MAX_DEPTH = 4
MAX_PROPERTIES = 100
MAX_NAMES = 15_000
MAX_ITEMS = 100
MAX_TOOLS = 40

TOOL_NAME = re.compile(r"[a-z][a-z0-9_]{1,39}")
PROPERTY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Rule(msgspec.Struct, frozen=True):
    """One rule.

    Attributes:
        name: Its name in `Fault` and in the documentation.
        text: What it demands.
        sources: Documentation and reports: URLs, or ``owner/repository#number`` of an issue or pull request
            on GitHub.
    """

    name: str
    text: str
    sources: tuple[str, ...]


_GOOGLE = "https://ai.google.dev/api/caching#Schema"
_VERTEX = "https://cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/FunctionDeclaration"
_CLAUDE = "https://platform.claude.com/docs/en/managed-agents/self-hosted-sandboxes"
_MOONSHOT = "https://github.com/MoonshotAI/walle/blob/main/docs/mfjs-spec.md"
_OPENAI = "https://developers.openai.com/api/docs/guides/structured-outputs#supported-schemas"
_OPENAI_DEPTH = (
    "https://community.openai.com/t/"
    "measuring-maximum-depth-and-object-properties-in-structured-outputs/918388"
)

RULES = (
    Rule(
        "root",
        "The root is an object with at least one property.",
        (
            "vercel/ai#1485",
            "openai/openai-agents-python#449",
            "agno-agi/agno#2112",
            "anthropics/claude-code#10030",
            "kenn-io/msgvault#626",
        ),
    ),
    Rule(
        "type",
        "Each schema has a `type`, which is one of string, integer, number, boolean, array and object; also "
        "one with an `enum`. There is no null, no `{}` and no `true`.",
        (
            _GOOGLE,
            "google-gemini/gemini-cli#4400",
            "makenotion/notion-mcp-server#42",
            "anomalyco/opencode#40127",
            "MoonshotAI/kimi-cli#1595",
        ),
    ),
    Rule(
        "union",
        "No unions: no list of types, and no `anyOf`, `oneOf`, `allOf`, `not`, `if`, at the root or below.",
        (
            _CLAUDE,
            "anthropics/claude-code#27337",
            "n8n-io/n8n#15553",
            "openclaw/openclaw#137249",
            "MoonshotAI/kimi-code#2661",
            "zereight/gitlab-mcp#166",
        ),
    ),
    Rule(
        "reference",
        "No references and no definitions: `$ref`, `$defs`, `$id`.",
        (_CLAUDE, "router-for-me/CLIProxyAPI#5316", "google-gemini/gemini-cli#13694"),
    ),
    Rule(
        "keyword",
        "No other keyword than `type`, `description`, `default`, `enum`, `properties`, `required`, `items` "
        "and the inclusive bounds, each at the types to which it applies. So no `additionalProperties`, "
        "`title`, `format`, `pattern`, `const`, `exclusiveMinimum`, `uniqueItems`, `nullable` or `$schema`. "
        "Bounds are taken by all, and ignored by some.",
        (
            _GOOGLE,
            _MOONSHOT,
            "promptfoo/promptfoo#6902",
            "ahmadrosid/nakama#292",
            "brightwave-inc/tidebreak#1516",
            "taylorwilsdon/google_workspace_mcp#1099",
            "google-gemini/gemini-cli#3178",
            "vercel/ai#21037",
            "anomalyco/opencode#11889",
        ),
    ),
    Rule(
        "enum",
        "An `enum` belongs to a string and is a list of different, non-empty texts.",
        (
            _GOOGLE,
            "router-for-me/CLIProxyAPI#1076",
            "microsoft/azure-devops-mcp#145",
            "BerriAI/litellm#14155",
            "Smana/runlore#40",
        ),
    ),
    Rule(
        "items",
        f"Each array has `items`, which is one schema and not an array. `maxItems` is at most {MAX_ITEMS}.",
        (
            "microsoft/vscode#246119",
            "sigoden/aichat#1049",
            "TokenRhythm/opensquilla#1263",
            "PrefectHQ/fastmcp#2464",
            "flutter/genui#428",
        ),
    ),
    Rule(
        "required",
        "Each object has `required`, a list without repetitions, possibly empty, of names in its "
        "`properties`.",
        (
            "NousResearch/hermes-agent#66835",
            "NousResearch/hermes-agent#78494",
            "yomorun/yomo#860",
            "coaidev/coai#110",
        ),
    ),
    Rule(
        "properties",
        "An object has at least one property, or no `properties` at all: then it may have any members.",
        (
            "browser-use/browser-use#3786",
            "langchain-ai/langchain-google#416",
            "SWE-agent/SWE-agent#1431",
        ),
    ),
    Rule(
        "default",
        "A `default` is a value that the schema itself accepts, never null.",
        (_GOOGLE, _MOONSHOT),
    ),
    Rule(
        "tool name",
        f"A tool's name matches `{TOOL_NAME.pattern}`: with the prefix that clients add, such as "
        "`mcp__redstreamd__`, it has at most 60 characters.",
        (
            _VERTEX,
            "PostHog/posthog#51483",
            "ComposioHQ/composio#2788",
            "microsoft/vscode#243602",
            "modelcontextprotocol/go-sdk#169",
            "wonderwhy-er/DesktopCommanderMCP#79",
        ),
    ),
    Rule(
        "property name",
        f"A property's name matches `{PROPERTY_NAME.pattern}`.",
        (_VERTEX, "freee/freee-mcp#15", "roychri/mcp-server-asana#16", "ComposioHQ/composio#2330"),
    ),
    Rule(
        "description",
        f"A description is a text of 1 to {MAX_DESCRIPTION} characters, and each tool has one.",
        (
            "modelcontextprotocol/servers#799",
            "getsentry/sentry-mcp#106",
            "anthropics/claude-code#41593",
        ),
    ),
    Rule(
        "depth",
        f"Objects and arrays are nested at most {MAX_DEPTH} levels deep, the root included.",
        (_OPENAI, "Portkey-AI/gateway#1616", "tidyverse/ellmer#671", "Avick3110/houseCARL#730"),
    ),
    Rule(
        "size",
        f"A schema has at most {MAX_PROPERTIES} properties, and its names and enum values at most "
        f"{MAX_NAMES:,} characters. A listing has at most {MAX_TOOLS} tools.",
        (
            _OPENAI,
            _OPENAI_DEPTH,
            "cline/cline#7897",
            "https://github.com/modelcontextprotocol/.github/discussions/360",
        ),
    ),
)
