"""Revision 2026-07-28 over HTTP: one request, one response, and headers that say what the body says."""

from __future__ import annotations

from redstreamd.streams.bus import Bus
from tests.streamable_http.mcp_peer import running_site
from tests.support.buses import ON_REDIS

pytestmark = ON_REDIS


async def test_a_call_of_a_tool_is_answered_with_json(bus: Bus) -> None:
    async with running_site(bus) as served, served.connected() as client:
        added = await client.call("stream_add", stream="s", entries=[{"n": 1}])
        read = await client.call("stream_read", stream="s")
        assert [each["id"] for each in read["entries"]] == added["ids"]
        assert client.connection.statistics().requests == 2
