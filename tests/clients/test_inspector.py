"""The MCP inspector's command line, as developers use it, through `redstreamd connect`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, running_daemon
from tests.support.node import inspect
from tests.support.servers import Server


@pytest.fixture(scope="module")
def daemon(redis_server: Server) -> Iterator[Daemon]:
    redis_server.flush()
    with running_daemon(redis_server) as running:
        yield running


def test_it_lists_the_tools(inspector: Path, daemon: Daemon) -> None:
    names = [tool["name"] for tool in inspect(inspector, daemon.path, "--method", "tools/list")["tools"]]
    assert {"stream_add", "stream_wait", "work_take"} <= set(names)
    assert names == sorted(names)


def test_it_calls_tools(inspector: Path, daemon: Daemon) -> None:
    call = ("--method", "tools/call", "--tool-name")
    added = inspect(
        inspector,
        daemon.path,
        *call,
        "stream_add",
        "--tool-arg",
        "stream=a:b:c",
        "--tool-arg",
        'entries=[{"n":1}]',
    )
    assert not added["isError"]
    read = inspect(inspector, daemon.path, *call, "stream_read", "--tool-arg", "stream=a:b:c")
    assert [entry["fields"] for entry in read["structuredContent"]["entries"]] == [{"n": 1}]
    assert read["structuredContent"]["entries"][0]["id"] == added["structuredContent"]["ids"][0]
