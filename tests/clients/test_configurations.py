"""The configurations in contrib have the documented shape, and start a bridge that a client can talk to.

Claude Code, Codex and the inspector read theirs for real, in the modules named after them. VS Code, Cursor
and Claude Desktop are offered by no package registry: for these this is all that is shown.
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


def documented(member: str, *required: str) -> dict[str, Any]:
    """Return the schema of a file with our one stdio server under `member`."""
    properties = {
        "type": {"const": "stdio"},
        "command": {"type": "string"},
        "args": {"type": "array", "items": {"type": "string"}},
        "env": {"type": "object"},
    }
    server = {"properties": properties, "required": ["command", *required], "additionalProperties": False}
    servers = {"properties": {"redstreamd": server}, "required": ["redstreamd"]}
    return {"properties": {member: servers}, "required": [member], "additionalProperties": False}


SHAPES = {
    # https://code.claude.com/docs/en/mcp
    "claude-code.mcp.json": documented("mcpServers"),
    # https://modelcontextprotocol.io/docs/develop/connect-local-servers
    "claude_desktop_config.json": documented("mcpServers"),
    # https://code.visualstudio.com/docs/copilot/reference/mcp-configuration
    "vscode.mcp.json": documented("servers", "type"),
    # https://cursor.com/docs/context/mcp
    "cursor.mcp.json": documented("mcpServers"),
    # https://developers.openai.com/codex/mcp
    "codex.config.toml": documented("mcp_servers"),
    # https://github.com/modelcontextprotocol/inspector
    "inspector.json": documented("mcpServers"),
}


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
def test_it_has_the_shape_that_its_client_documents(path: Path) -> None:
    jsonschema.validate(content(path), SHAPES[path.name])


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
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


@pytest.mark.parametrize(
    "package", ["@anthropic-ai/claude-code", "@openai/codex", "@modelcontextprotocol/inspector"]
)
def test_the_readme_names_the_version_that_the_tests_run(package: str) -> None:
    assert f"| {VERSIONS[package]} |" in (CONTRIB / "README.md").read_text("utf-8")
