"""The MCP inspector's command line, as developers use it, through `redstreamd connect`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import PROGRAM, Daemon, running_daemon
from tests.support.node import BIN, installed
from tests.support.servers import Server

VERSION = "2.12.0"


@pytest.fixture(scope="module")
def inspector() -> Path:
    return installed("@modelcontextprotocol/inspector", VERSION) / "mcp-inspector"


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    redis_server.flush()
    with running_daemon(redis_server) as running:
        yield running


def inspect(inspector: Path, daemon: Daemon, *words: str) -> Any:
    """Run the inspector once and return the JSON it prints."""
    done = subprocess.run(
        [inspector, "--cli", PROGRAM, "connect", "--socket", daemon.path, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_lists_the_tools(inspector: Path, daemon: Daemon) -> None:
    names = [tool["name"] for tool in inspect(inspector, daemon, "--method", "tools/list")["tools"]]
    assert {"stream_add", "stream_wait", "work_take"} <= set(names)
    assert names == sorted(names)


def test_it_calls_tools(inspector: Path, daemon: Daemon) -> None:
    call = ("--method", "tools/call", "--tool-name")
    added = inspect(
        inspector,
        daemon,
        *call,
        "stream_add",
        "--tool-arg",
        "stream=a:b:c",
        "--tool-arg",
        'entries=[{"n":1}]',
    )
    assert not added["isError"]
    read = inspect(inspector, daemon, *call, "stream_read", "--tool-arg", "stream=a:b:c")
    assert [entry["fields"] for entry in read["structuredContent"]["entries"]] == [{"n": 1}]
    assert read["structuredContent"]["entries"][0]["id"] == added["structuredContent"]["ids"][0]
