"""No text names a tool that its reader may not use: instructions, next steps, next calls."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from redstreamd.errors import BusError, Code
from redstreamd.tools.catalog import REGISTRY
from redstreamd.tools.instructions import instructions
from tests.daemon.test_rates import two_sockets
from tests.support.servers import Server

RULES = "unix may publish on jobs:*,tcp may read on *"
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
HANDSHAKE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


def named(text: str) -> set[str]:
    """The tools that a text names."""
    return {name for name in re.findall(r"\w+", text) if name in REGISTRY}


@pytest.mark.parametrize("without", [tool.name for tool in REGISTRY])
def test_instructions_name_only_what_is_offered(without: str) -> None:
    every = {tool.name for tool in REGISTRY}
    assert named(instructions(every)) == {"stream_add", "stream_wait"} | {
        f"work_{each}" for each in ("take", "done", "extend", "fail")
    }
    assert without not in named(instructions(every - {without}))


def test_a_next_step_loses_what_names_a_hidden_tool_and_keeps_the_rest() -> None:
    def left(next_step: str, *hidden: str) -> str:
        error = BusError(Code.INVALID_ARGUMENT, "m.", cause="c.", next_step=next_step)
        return error.without(frozenset(hidden)).next_step

    step = "Call stream_list to see the streams; stream_add and group_create create one. Or wait."
    assert left(step, "work_take") == step
    assert left(step, "stream_list") == "stream_add and group_create create one. Or wait."
    assert left(step, "group_create") == "Call stream_list to see the streams; Or wait."
    assert left("Call stream_list.", "stream_list").startswith("Ask the operator")


def ask(connection: socket.socket, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Make a request and return its result."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    connection.sendall(json.dumps(request).encode() + b"\n")
    data = b""
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 16)
    result: dict[str, Any] = json.loads(data)["result"]
    return result


def test_a_client_is_told_of_what_it_may_use_in_both_eras_and_at_any_time(redis: Server) -> None:
    with two_sockets(redis, "--set", f"policy.rules={RULES}") as (unix, tcp):
        for client, offered in ((unix, {"stream_add"}), (tcp, {"stream_wait"})):
            address = client.connection.getpeername()
            for _ in ("while the SDK is imported", "after that"):
                for method, params in (("initialize", HANDSHAKE), ("server/discover", {"_meta": MODERN})):
                    with socket.socket(client.connection.family) as connection:
                        connection.settimeout(60)
                        connection.connect(address)
                        assert named(ask(connection, method, params)["instructions"]) == offered
                # It is answered once the SDK is there.
                with socket.socket(client.connection.family) as connection:
                    connection.settimeout(60)
                    connection.connect(address)
                    ask(connection, "resources/list", {"_meta": MODERN})
        unix.send("request_reply", stream="jobs:a:b", entry={"n": 1}, timeout_seconds=0)
        (asked,) = unix.answers(1)
        assert asked["answered"] is False
        assert "next_call" not in asked
        tcp.send("stream_read", stream="none:such:stream")
        (missing,) = tcp.answers(1)
        assert missing["code"] == "STREAM_NOT_FOUND"
        assert named(missing["next_step"]) == {"stream_list"}
