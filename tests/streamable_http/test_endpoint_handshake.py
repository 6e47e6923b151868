"""The revisions with a handshake over HTTP: a session that each request names."""

from __future__ import annotations

import pytest

from redstreamd.streams.bus import Bus
from tests.streamable_http.mcp_peer import running_site
from tests.support.buses import ON_REDIS

pytestmark = ON_REDIS

REVISIONS = ("2025-03-26", "2025-06-18", "2025-11-25")
every_revision = pytest.mark.parametrize("revision", REVISIONS)


@every_revision
async def test_a_session_is_begun_used_and_ended(bus: Bus, revision: str) -> None:
    async with running_site(bus) as served, served.connected(revision) as client:
        await client.initialize()
        added = await client.call("stream_add", stream="s", entries=[{"n": 1}])
        async with served.connected(revision, session=client.session) as other:
            read = await other.call("stream_read", stream="s")
            assert [each["id"] for each in read["entries"]] == added["ids"]
        assert (await client.talk("ping")).json["result"] == {}
        tools = (await client.talk("tools/list")).json["result"]["tools"]
        assert not any(
            "x-mcp-header" in each["inputSchema"]["properties"].get("stream", {}) for each in tools
        )
        ended = await client.ask("DELETE")
        assert (ended.status, ended.body) == (204, b"")
        assert (await client.talk("ping")).status == 404
        assert served.site.sessions.statistics().sessions == 0
