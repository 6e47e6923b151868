"""The mcp package's own client against a real socket, in both eras of the protocol."""

from __future__ import annotations

from typing import Any

import mcp_types
import pytest
import trio
import trio.testing
from mcp import MCPError

from tests.mcpio.serving import Service, serving
from tests.support.mcp_client import EraName, connected, raw_client

ERAS = pytest.mark.parametrize("era", ["handshake", "modern"])


def text_of(result: Any) -> str:
    """Return the one text of a tool's result."""
    (content,) = result.content
    assert isinstance(content, mcp_types.TextContent)
    return content.text


@ERAS
async def test_a_client_lists_and_calls_tools(service: Service, era: EraName) -> None:
    async with connected(service.path, era=era) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} >= {"echo", "sleep"}
        assert text_of(await client.call_tool("echo", {"text": "späße\n\u2028"})) == "späße\n\u2028"


async def test_a_client_that_asks_the_server_gets_the_modern_era(service: Service) -> None:
    async with connected(service.path, era="auto") as client:
        assert client.protocol_version == "2026-07-28"
        assert text_of(await client.call_tool("echo", {"text": "a"})) == "a"


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_the_handshake_settles_on_the_revision_that_was_asked_for(
    service: Service, version: str
) -> None:
    async with raw_client(service.path) as raw:
        assert (await raw.initialize(version))["protocolVersion"] == version
        answer = await raw.call_tool("echo", {"text": "a"})
        assert answer["result"]["content"] == [{"type": "text", "text": "a"}]
        # What only the modern era has must not reach the others.
        assert "resultType" not in answer["result"]
        assert "_meta" not in answer["result"]


@ERAS
async def test_a_handler_finds_the_principal_of_its_door(service: Service, era: EraName) -> None:
    async with connected(service.path, era=era) as client:
        assert text_of(await client.call_tool("whoami")) == "tester/unix"


@ERAS
async def test_progress_reaches_the_caller_in_order_and_before_the_answer(era: EraName) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with serving() as service, connected(service.path, era=era) as client:
        result = await client.call_tool("progress", {"steps": 3}, progress_callback=note)
        assert text_of(result) == "done"
        # The client runs each callback in a task of its own.
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert sorted(seen) == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


@ERAS
async def test_calls_run_at_the_same_time_and_each_gets_its_own_answer(
    service: Service, era: EraName
) -> None:
    async with connected(service.path, era=era) as client:

        async def sleep_then_release() -> None:
            with trio.CancelScope() as scope:
                sleeping.append(scope)
                await client.call_tool("sleep", {"name": "long"})

        sleeping: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep_then_release)
            await service.tools.wait("started", "long")
            answers: dict[int, str] = {}

            async def echo(number: int) -> None:
                answers[number] = text_of(await client.call_tool("echo", {"text": f"{number}"}))

            async with trio.open_nursery() as echoing:
                for number in range(50):
                    echoing.start_soon(echo, number)
            # The sleeper was in flight all the while.
            assert "long" not in service.tools.ended
            assert answers == {number: f"{number}" for number in range(50)}
            sleeping[0].cancel()


@ERAS
async def test_a_client_that_gives_up_a_call_frees_its_handler(service: Service, era: EraName) -> None:
    async with connected(service.path, era=era) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.call_tool("sleep", {"name": "given up"}))
            await service.tools.wait("started", "given up")
            nursery.cancel_scope.cancel()
        await service.tools.wait("ended", "given up")
        assert text_of(await client.call_tool("echo", {"text": "still here"})) == "still here"


@ERAS
async def test_errors_meant_for_the_caller_arrive_whole(service: Service, era: EraName) -> None:
    async with connected(service.path, era=era) as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("refuse")
        assert refused.value.error.model_dump() == {
            "code": -32099,
            "message": "refused by the handler",
            "data": {"why": "because"},
        }


@ERAS
async def test_a_handler_cannot_send_requests_to_the_client(service: Service, era: EraName) -> None:
    async with connected(service.path, era=era) as client:
        with pytest.raises(MCPError, match="no back-channel") as refused:
            await client.call_tool("ask")
        assert refused.value.code == mcp_types.INVALID_REQUEST


@pytest.mark.parametrize(
    ("era", "expected"),
    [
        ("handshake", ["notifications/tools/list_changed"]),
        # There they go to those who listen for them, and to nobody else.
        ("modern", []),
    ],
)
async def test_change_notifications_reach_those_who_may_have_them(
    service: Service, era: EraName, expected: list[str]
) -> None:
    async with raw_client(service.path, era=era, initialize=era == "handshake") as raw:
        await raw.call_tool("announce")
        assert [message["method"] for message in raw.passed_over] == expected
