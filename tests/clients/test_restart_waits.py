"""Who waits or has subscribed through the bridge hears of what came while the daemon was away."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from mcp import Client, StdioServerParameters
from mcp.client.subscriptions import ResourceUpdated
from mcp_types.version import LATEST_MODERN_VERSION

from tests.clients.bridged_client import LineClient, both_eras, bridge_words
from tests.clients.restarted_host import FAULTS, Fault, Host
from tests.support.servers import Server
from tests.support.waiting import until

URI = "redstream://streams/bell"
UPDATED = "notifications/resources/updated"


def ring(redis: Server) -> str:
    """Add the entry that is waited for, and return its ID."""
    added: bytes = redis.command("XADD", "bell", "*", "n", "1")
    return added.decode()


@FAULTS
@pytest.mark.limit(60)
async def test_a_wait_is_answered_with_what_came_while_the_daemon_was_away(
    redis: Server, host: Host, fault: Fault
) -> None:
    async with both_eras(bridge_words(host.path)) as clients:
        waits: list[tuple[LineClient, dict[str, Any], Any]] = []
        for client in clients.values():
            wait: dict[str, Any] = {"streams": ["bell"], "timeout_seconds": 40}
            first = await client.call_tool("stream_wait", {**wait, "timeout_seconds": 0})
            # An agent's first wait has no cursor.
            cursor = {"cursor": first["result"]["structuredContent"]["next_cursor"]}
            waits += [
                (client, each, await client.send_call("stream_wait", each)) for each in (wait, wait | cursor)
            ]
        await until(lambda: trio.to_thread.run_sync(lambda: host.waits() == len(waits)))
        for client in clients.values():
            # What was sent before has been read by then: a wait without a cursor knows where it begins.
            await client.call_tool("stream_wait", wait | {"timeout_seconds": 0})
        added: list[str] = []
        await trio.to_thread.run_sync(partial(host.suffer, fault, lambda: added.append(ring(redis))))
        for client, wait, request_id in waits:
            answer = (await client.answer(request_id))["result"]["structuredContent"]
            if fault is Fault.RESTART and not answer["entries"]:
                # A daemon that stops answers those who wait; they go on where they were.
                again = await client.call_tool("stream_wait", wait | {"cursor": answer["next_cursor"]})
                answer = again["result"]["structuredContent"]
            assert [entry["id"] for entry in answer["entries"]] == added, wait
        for client in clients.values():
            assert await client.finish() == []


@FAULTS
@pytest.mark.limit(60)
async def test_a_subscriber_hears_of_what_came_while_the_daemon_was_away(
    redis: Server, host: Host, fault: Fault
) -> None:
    words = bridge_words(host.path)
    command = StdioServerParameters(command=words[0], args=words[1:])
    async with (
        both_eras(words) as clients,
        Client(command, mode=LATEST_MODERN_VERSION) as sdk,
        sdk.listen(resource_subscriptions=[URI]) as told,
    ):
        handshake, modern = clients["handshake"], clients["modern"]
        assert "result" in await handshake.ask("resources/subscribe", {"uri": URI})
        listen = await modern.send(
            "subscriptions/listen", {"notifications": {"resourceSubscriptions": [URI]}}
        )
        await modern.until(lambda: modern.others)

        def news(client: LineClient) -> int:
            return sum(each["method"] == UPDATED for each in client.others)

        for rings in (ring, lambda redis: host.suffer(fault, partial(ring, redis)), ring):
            before = {client: news(client) for client in clients.values()}
            await trio.to_thread.run_sync(rings, redis)
            for client, count in before.items():
                await client.until(lambda client=client, count=count: news(client) > count)
            assert await anext(told) == ResourceUpdated(URI)

        # The subscriptions are the same ones, and the clients were told nothing else.
        acknowledged, *rest = modern.others
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        stamp = {"io.modelcontextprotocol/subscriptionId": listen}
        assert all((each["method"], each["params"]["_meta"]) == (UPDATED, stamp) for each in rest)
        assert all(each["params"]["uri"] == URI for each in [*rest, *handshake.others])
        assert not modern.answers[listen]

        # The next daemon ends them at the client's word.
        assert "result" in await handshake.ask("resources/unsubscribe", {"uri": URI})
        await modern.raw.cancel(listen)
        await until(
            lambda: trio.to_thread.run_sync(lambda: host.report["subscriptions"]["subscriptions"] == 1)
        )
        assert await handshake.finish() == []
