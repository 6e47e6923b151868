"""The MCP inspector's command line, as developers use it, through `redstreamd connect`."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.node import inspect


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
