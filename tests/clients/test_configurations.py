"""The configurations in contrib have the documented shape, and start a bridge that a client can talk to.

Claude Code, Codex and the inspector read theirs for real, in the modules named after them and, over HTTP, in
test_http_configurations.py. VS Code, Cursor and Claude Desktop are offered by no package registry: for these
this is all that is shown.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mcp import Client, StdioServerParameters

from tests.clients.conftest import CONTRIB
from tests.support.daemon import PROGRAM, Daemon, clean_environment
from tests.support.node import VERSIONS

FILES = sorted(path for path in CONTRIB.iterdir() if path.suffix in (".json", ".toml"))


def content(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


HTTP = [path for path in FILES if ".http." in path.name]
BRIDGES = [path for path in FILES if path not in HTTP]


def documented(member: str, *required: str) -> dict[str, Any]:
    """Return the schema of a file with our one stdio server under `member`."""
    properties = {
        "type": {"const": "stdio"},
        "command": {"type": "string"},
        "args": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object"},
    }
    return one_server(member, properties, "command", *required)


def over_http(
    member: str, token: str, *required: str, transport: str = "http", **others: Any
) -> dict[str, Any]:
    """Return the schema of a file with our one HTTP server under `member`.

    Args:
        member: Where the servers are.
        token: How the client writes the token that it finds elsewhere.
        required: What the server must have beside its URL.
        transport: What its `type` says, if it has one.
        others: What else is in the file.
    """
    authorization = {"properties": {"Authorization": {"const": f"Bearer {token}"}}}
    properties = {
        "type": {"const": transport},
        "url": {"type": "string", "format": "uri"},
        "headers": {**authorization, "required": ["Authorization"], "additionalProperties": False},
    }
    return one_server(member, properties, "url", "headers", *required, **others)


def one_server(member: str, properties: dict[str, Any], *required: str, **others: Any) -> dict[str, Any]:
    server = {"properties": properties, "required": [*required], "additionalProperties": False}
    servers = {"properties": {"redstreamd": server}, "required": ["redstreamd"]}
    return {
        "properties": {member: servers, **others},
        "required": [member, *others],
        "additionalProperties": False,
    }


SHAPES = {
    # https://code.claude.com/docs/en/mcp
    "claude-code.mcp.json": documented("mcpServers"),
    "claude-code.http.mcp.json": over_http("mcpServers", "${BUS_TOKEN}", "type"),
    # https://modelcontextprotocol.io/docs/develop/connect-local-servers
    "claude_desktop_config.json": documented("mcpServers"),
    "claude_desktop_config.http.json": documented("mcpServers", "env"),
    # https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
    "vscode.mcp.json": documented("servers", "type"),
    "vscode.http.mcp.json": over_http(
        "servers", "${input:bus-token}", "type", inputs={"type": "array", "minItems": 1}
    ),
    # https://cursor.com/docs/context/mcp
    "cursor.mcp.json": documented("mcpServers"),
    "cursor.http.mcp.json": over_http("mcpServers", "${env:BUS_TOKEN}"),
    # https://developers.openai.com/codex/mcp
    "codex.config.toml": documented("mcp_servers"),
    "codex.http.config.toml": one_server(
        "mcp_servers", {"url": {"type": "string"}, "bearer_token_env_var": {"const": "BUS_TOKEN"}}, "url"
    ),
    # https://github.com/modelcontextprotocol/inspector
    "inspector.json": documented("mcpServers"),
    "inspector.http.json": over_http("mcpServers", "TOKEN", "type", transport="streamable-http"),
}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_it_has_the_shape_that_its_client_documents(path: Path) -> None:
    jsonschema.validate(content(path), SHAPES[path.name])


@pytest.mark.parametrize("path", BRIDGES, ids=[path.name for path in BRIDGES])
@pytest.mark.limit(60)
async def test_the_command_it_names_is_a_bridge_to_the_daemon(daemon: Daemon, path: Path) -> None:
    (servers,) = content(path).values()
    server = servers["redstreamd"]
    environment = clean_environment(daemon.directory)
    environment["PATH"] = f"{PROGRAM.parent}:{environment['PATH']}"
    command = StdioServerParameters(command=server["command"], args=server["args"], env=environment)
    async with Client(command, mode="legacy") as client:
        assert (await client.list_tools()).tools


def test_every_configuration_is_described() -> None:
    text = (CONTRIB / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in text for path in FILES)
    assert {path.name for path in FILES} == set(SHAPES)


def test_each_configuration_has_one_for_http_beside_it() -> None:
    assert {path.name.replace(".http.", ".") for path in HTTP} == {path.name for path in BRIDGES}
    urls = {
        word for path in HTTP for word in path.read_text("utf-8").split('"') if word.startswith("http://")
    }
    assert urls == {"http://127.0.0.1:9720/mcp"}


@pytest.mark.parametrize(
    "package",
    ["@anthropic-ai/claude-code", "@openai/codex", "@modelcontextprotocol/inspector", "mcp-remote"],
)
def test_the_readme_names_the_version_that_the_tests_run(package: str) -> None:
    assert f"| {VERSIONS[package]} |" in (CONTRIB / "README.md").read_text("utf-8")
