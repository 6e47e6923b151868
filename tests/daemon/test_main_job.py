"""The main job, end to end: real clients of both eras, a real daemon, Redis 7.0 and the embedded Valkey."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult
from mcp_types.version import LATEST_MODERN_VERSION

from tests.support.daemon import PROGRAM, Daemon, clean_environment, home, running_daemon
from tests.support.mcp_client import connected
from tests.support.servers import Server
from tests.support.waiting import until

ERAS = ["handshake", "modern"]


@pytest.fixture(scope="module", params=["embedded", "redis"])
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    server = None if request.param == "embedded" else request.getfixturevalue("redis_server")
    with running_daemon(server) as running:
        yield running


def structured(result: Any) -> dict[str, Any]:
    """Return a successful call's structured content, checking that its text says the same."""
    assert isinstance(result, CallToolResult)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content  # type: ignore[union-attr]
    content: dict[str, Any] = result.structured_content  # type: ignore[assignment]
    return content


def bridged(daemon: Daemon, era: str) -> AbstractAsyncContextManager[Client]:
    """Connect through `redstreamd connect`, as clients that start a command do."""
    command = StdioServerParameters(
        command=str(PROGRAM),
        args=["connect", "--socket", daemon.path],
        env=clean_environment(daemon.directory),
    )
    return Client(command, mode="legacy" if era == "handshake" else LATEST_MODERN_VERSION)


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("way", ["socket", "connect"])
@pytest.mark.limit(60)
async def test_add_wait_take_extend_fail_take_done(daemon: Daemon, era: Any, way: str) -> None:
    stream = f"test:{era}:{way}"
    client_of = connected(daemon.path, era=era) if way == "socket" else bridged(daemon, era)
    async with client_of as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == sorted(names)
        assert {"stream_add", "stream_wait", "work_take", "work_done"} <= set(names)

        entry = {"type": "order", "amount": 12.5, "lines": [{"sku": "a-1", "n": 2}], "note": "Grüße"}
        waited: list[dict[str, Any]] = []

        async def wait() -> None:
            call = await client.call_tool("stream_wait", {"streams": [stream], "timeout_seconds": 30})
            waited.append(structured(call))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            # The wait begins before the add or the cursor of the add's own answer would be missed;
            # so add until it has seen one.
            added: list[str] = []
            while not waited:
                call = await client.call_tool("stream_add", {"stream": stream, "entries": [entry]})
                added += structured(call)["ids"]
        (seen, *_) = waited[0]["entries"]
        assert seen["fields"] == entry
        assert seen["id"] in added
        assert seen["stream"] == stream
        assert seen["sender"] == "unix"
        assert seen["time"].endswith("Z")

        work = {"stream": stream, "group": "billing", "consumer": "w1"}
        taken = structured(await client.call_tool("work_take", {**work, "lease_seconds": 30}))
        (task,) = taken["entries"]
        assert task["id"] == added[0]
        assert task["attempt"] == 1
        assert taken["group_created"] is True

        extended = structured(
            await client.call_tool("work_extend", {"lease": taken["lease"], "lease_seconds": 120})
        )
        assert extended["extended"] == [task["id"]]
        assert extended["lease_expires"] > taken["lease_expires"]

        failed = structured(
            await client.call_tool(
                "work_fail", {"lease": taken["lease"], "action": "release", "reason": "try again"}
            )
        )
        assert failed["retried"] == [task["id"]]

        again = structured(await client.call_tool("work_take", {**work, "timeout_seconds": 10}))
        assert [(each["id"], each["attempt"]) for each in again["entries"]] == [(task["id"], 2)]
        assert again["entries"][0]["fields"] == entry

        lost = await client.call_tool("work_done", {"lease": taken["lease"]})
        assert lost.is_error
        assert lost.structured_content is not None
        assert lost.structured_content["code"] == "LEASE_LOST"

        done = structured(await client.call_tool("work_done", {"lease": again["lease"]}))
        assert done == {"done": [task["id"]], "already_done": [], "lost": []}
        repeated = structured(await client.call_tool("work_done", {"lease": again["lease"]}))
        assert repeated == {"done": [], "already_done": [task["id"]], "lost": []}


async def test_redis_cli_and_the_daemon_read_each_other(redis: Server) -> None:
    with running_daemon(redis) as daemon:
        redis.cli("XADD", "s", "*", "type", "order", "amount", "12.5")
        answer = daemon.call("stream_read", stream="s")["structuredContent"]
        (entry,) = answer["entries"]
        assert entry["fields"] == {"type": "order", "amount": "12.5"}
        assert "sender" not in entry
        daemon.call("stream_add", stream="s", entries=[{"type": "reply", "amount": 1}])
        _id, *printed = redis.cli("XREVRANGE", "s", "+", "-", "COUNT", "1").splitlines()
        assert printed[:4] == ["type", "reply", "amount", "1"]


async def test_a_person_is_told_where_it_listens_and_what_to_try(redis: Server) -> None:
    with home() as directory, running_daemon(redis, directory=directory) as daemon:
        await until(lambda: "Ctrl-C" in daemon.output)
        text = daemon.output
        assert daemon.path in text
        (line,) = [line for line in text.splitlines() if "mcpServers" in line]
        server = json.loads(line)["mcpServers"]["redstreamd"]
        # The configuration that is printed works as it is printed.
        command = StdioServerParameters(**server, env=clean_environment(directory))
        async with Client(command) as client:
            assert (await client.list_tools()).tools
        # So do the two calls.
        for call in (line.strip() for line in text.splitlines() if " call " in line):
            finished = await trio.run_process(
                ["sh", "-c", call], capture_stdout=True, env=clean_environment(directory)
            )
            assert json.loads(finished.stdout)
