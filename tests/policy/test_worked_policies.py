"""The policies of docs/policies.md, each with a real daemon and a socket for each of its principals."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from tests.support.daemon import PROGRAM, call, home, running_daemon
from tests.support.servers import Server

PAGE: Final = Path(__file__).parents[2] / "docs" / "policies.md"

#: Runs the program with named sockets, as systemd passes them (sd_listen_fds(3)).
_ACTIVATE: Final = """
import os, socket, sys
names, program = sys.argv[1].split(","), sys.argv[2:]
os.makedirs(os.path.expanduser("~/redstreamd"))
for number, name in enumerate(names, 3):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.expanduser(f"~/redstreamd/{name}.sock"))
    listener.listen(16)
    if listener.fileno() == number:
        os.set_inheritable(listener.detach(), True)
    else:
        os.dup2(listener.fileno(), number)
os.environ |= {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
os.environ["LISTEN_PID"] = str(os.getpid())
sys.argv[:] = program
from redstreamd.cli import main
sys.exit(main())
"""


@attrs.frozen
class Policy:
    """A part of the page: the settings file, and calls as principal, tool, arguments and answer."""

    title: str
    settings: str
    calls: list[tuple[str, str, dict[str, Any], str]]


def policies() -> list[Policy]:
    found = []
    for part in PAGE.read_text("utf-8").split("\n## ")[1:]:
        block = re.search(r"^```toml\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
        assert block is not None
        rows = re.findall(r"^\| (\w+) \| (\w+) \| `(.*)` \| (.+) \|$", part, re.MULTILINE)
        calls = [(who, tool, json.loads(arguments), answer) for who, tool, arguments, answer in rows]
        # Each line of the table but for its head.
        assert len(calls) == len(re.findall(r"^\|", part, re.MULTILINE)) - 2
        found.append(Policy(part.partition("\n")[0], block[1], calls))
    return found


POLICIES: Final = policies()


def answer(path: str, tool: str, arguments: dict[str, Any], listed: list[str]) -> str:
    """Make a call, and return its answer as the page writes it.

    Args:
        path: The socket.
        tool: The tool.
        arguments: Its arguments; ``<ID>`` stands for what is in `listed`.
        listed: The ID that the last listing of a quarantine showed.
    """
    if arguments.get("entry_ids") == ["<ID>"]:
        arguments = {**arguments, "entry_ids": listed}
    try:
        result = call(path, tool, arguments)
    except RuntimeError as error:
        if "Unknown tool" in str(error):
            return "not offered"
        raise
    content = result["structuredContent"]
    if result["isError"]:
        return str(content["code"])
    if content.get("waiting"):
        return "waits"
    if tool == "stream_list":
        return f"streams: {' '.join(one['stream'] for one in content['streams'])}"
    if tool == "quarantine_release" and "entries" in content:
        listed[:] = [entry["id"] for entry in content["entries"]]
    if tool == "stream_wait" or "total" in content:
        return f"entries: {len(content['entries'])}"
    return "done"


def test_the_page_has_the_policies() -> None:
    assert [each.title for each in POLICIES] == [
        "One team",
        "Reports that only read",
        "Two teams that must not see each other",
        "Strangers whose entries wait",
    ]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.title)
def test_clients_get_what_the_page_says(policy: Policy, redis: Server) -> None:
    names = sorted({"mcp", *(who for who, *_ in policy.calls)})
    program = (sys.executable, "-c", _ACTIVATE, ",".join(names), PROGRAM)
    with home() as place:
        file = place / "redstreamd.toml"
        file.write_text(policy.settings, "utf-8")
        options = ("--config", str(file))
        with running_daemon(redis, *options, directory=place, program=program) as daemon:
            listed: list[str] = []
            for who, tool, arguments, expected in policy.calls:
                path = daemon.path.replace("mcp.sock", f"{who}.sock")
                assert answer(path, tool, arguments, listed) == expected, (who, tool, arguments)
