"""Agents for stories: the ``mcp`` package's client, over a daemon's socket or HTTP, and ways to lose one."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx2
import jsonschema
import pytest
import trio
import trio.testing
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests.support.daemon import Daemon
from tests.support.mcp_client import MODES, EraName, connected, open_stream
from tests.support.proxy import proxy_to

#: For stories that are told over HTTP, too.
WAYS = pytest.mark.parametrize(
    "daemon",
    [
        *("clear", "encrypted"),
        # This client leaves some to the collector.
        pytest.param("http", marks=pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")),
    ],
    indirect=True,
)


@attrs.define
class Agent:
    """An agent with a way of its own to the daemon.

    Attributes:
        client: Its MCP client.
        cut: Breaks its connections both ways, without a farewell.
    """

    client: Client
    cut: Callable[[], None]

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must succeed and return its structured content, which its text repeats."""
        result = await self.client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        assert not result.is_error, result.content
        assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]
        content: dict[str, Any] = result.structured_content
        return content

    async def refusal(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must fail and return the four parts of its error."""
        result = await self.client.call_tool(tool, arguments)
        assert isinstance(result, CallToolResult)
        assert result.is_error, result.content
        content: dict[str, Any] = result.structured_content
        assert all(content[part] for part in ("code", "message", "cause", "next_step"))
        return content

    async def follow(self, next_call: Mapping[str, Any], **chosen: Any) -> dict[str, Any]:
        """Make the call that an answer names; `chosen` are the arguments that it leaves to the caller.

        The call fits the schema that the daemon lists for its tool.
        """
        schemas = {tool.name: tool.input_schema for tool in (await self.client.list_tools()).tools}
        arguments = {**next_call["arguments"], **chosen}
        jsonschema.Draft202012Validator(schemas[next_call["tool"]]).validate(next_call["arguments"])
        return await self.call(next_call["tool"], **arguments)

    async def crash_during(self, tool: str, **arguments: Any) -> None:
        """Call a tool and lose the connection before it answers; its client learns nothing of the outcome."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._call_in_vain, tool, arguments)
            # The client's request is written once all that remains is to wait for the answer.
            await trio.testing.wait_all_tasks_blocked()
            self.cut()

    async def _call_in_vain(self, tool: str, arguments: dict[str, Any]) -> None:
        try:
            answer = await self.client.call_tool(tool, arguments)
        except MCPError:
            return
        raise AssertionError(f"{tool} was answered before the cut: {answer}")


@asynccontextmanager
async def agent(daemon: Daemon, era: EraName = "modern") -> AsyncIterator[Agent]:
    """Connect an agent for the block; over HTTP, if the daemon serves it."""
    ports = [str(word).rpartition(":")[2] for word in daemon.process.args if "http:" in str(word)]  # type: ignore[union-attr]
    if not ports:
        stream = await open_stream(daemon.path)
        async with connected(stream, era=era) as client:
            yield Agent(client, partial(stream.socket.shutdown, socket.SHUT_RDWR))
        return
    async with proxy_to(int(ports[0])) as proxy, httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{proxy.port}/mcp", http_client=http)
        async with Client(transport, mode=MODES[era]) as client:
            yield Agent(client, proxy.cut)
