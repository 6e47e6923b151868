"""Row 7 at the daemon, with more calls than are sent ahead to Redis: deferred ones, and messages not read."""

from __future__ import annotations

import signal
from collections import Counter

import pytest
import trio

from tests.support.daemon import running_daemon
from tests.support.fair_clock import Clock
from tests.support.mcp_client import EraName, raw_client
from tests.support.measured import measured
from tests.support.servers import start_redis

TIMEOUT_SECONDS = 1.0
#: Of 100 entries each: a few are sent ahead, a few are deferred, and the others wait in the socket.
CALLS = 200


@pytest.mark.parametrize("era", ["handshake", "modern"])
async def test_whoever_waits_behind_a_hung_server_is_answered_too(era: EraName, clock: Clock) -> None:
    with (
        start_redis() as server,
        running_daemon(server, "--set", f"redis.command_timeout_seconds={TIMEOUT_SECONDS}") as daemon,
    ):
        async with raw_client(daemon.path, era=era, initialize=era == "handshake") as raw:
            add = {"stream": "orders:new:stream", "entries": [{"text": "x" * 100}] * 100}
            assert not (await raw.call_tool("stream_add", add))["result"].get("isError")
            requests = [raw.tool_call("stream_add", add) for _ in range(CALLS)]
            server.signal(signal.SIGSTOP)
            began = clock()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(raw.send, *requests)
                answers = [await raw.receive() for _ in requests]
            took = clock() - began
            server.signal(signal.SIGCONT)
            codes = Counter(each["result"]["structuredContent"]["code"] for each in answers)
            assert {each["id"] for each in answers} == {each["id"] for each in requests}
            # What was sent may have been executed; what was deferred or not read was not.
            assert codes.keys() == {"OUTCOME_UNKNOWN", "CONNECTION_ERROR"}
            assert codes["OUTCOME_UNKNOWN"] < CALLS / 4
            # A deadline for what was sent, one for the connection that is made anew.
            with measured:
                assert took < 3 * TIMEOUT_SECONDS
            # It is used again.
            with trio.fail_after(60):
                while True:
                    answer = await raw.call_tool("stream_add", add)
                    if not answer["result"].get("isError"):
                        break
                    await trio.sleep(0.05)
            assert len(answer["result"]["structuredContent"]["ids"]) == 100
        entries = server.command("XLEN", "orders:new:stream")
        assert entries % 100 == 0
        assert 200 <= entries <= 200 + 100 * codes["OUTCOME_UNKNOWN"]
