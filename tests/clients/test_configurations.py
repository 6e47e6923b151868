"""The configurations in contrib parse, and start a bridge that a client can talk to."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters

from tests.support.daemon import PROGRAM, clean_environment, running_daemon
from tests.support.servers import Server

FOLDER = Path(__file__).parents[2] / "contrib" / "clients"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".json", ".toml"))


def server_of(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    (servers,) = content.values()
    server: dict[str, Any] = servers["redstreamd"]
    return server


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
async def test_the_command_it_names_is_a_bridge_to_the_daemon(redis: Server, path: Path) -> None:
    server = server_of(path)
    assert server.get("type", "stdio") == "stdio"
    with running_daemon(redis) as daemon, trio.fail_after(60):
        environment = clean_environment(daemon.directory)
        environment["PATH"] = f"{PROGRAM.parent}:{environment['PATH']}"
        command = StdioServerParameters(command=server["command"], args=server["args"], env=environment)
        async with Client(command, mode="legacy") as client:
            assert (await client.list_tools()).tools


def test_every_configuration_is_described() -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in text for path in FILES)
    assert len(FILES) >= 6
