"""What the newest server makes of pending entries, beyond what the others do."""

from __future__ import annotations

import pytest

from redstreamd.streams.bus import Bus
from tests.support.calls import call
from tests.support.servers import Server


@pytest.mark.parametrize("server", ["redis8"], indirect=True)
async def test_what_another_program_released_is_pending_and_nobodys(bus: Bus, server: Server) -> None:
    """XNACK leaves an entry without consumer, with an idle time of -1."""
    for entry_id in ("1-1", "2-1"):
        server.command("XADD", "s", entry_id, "f", "v")
    server.command("XGROUP", "CREATE", "s", "g", "0")
    server.command("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    server.command("XNACK", "s", "g", "FAIL", "IDS", 1, "1-1")
    page = await call(bus, "pending_list", stream="s", group="g")
    lines = [(line["id"], line["consumer"], line["idle_seconds"] >= 0) for line in page["entries"]]
    assert lines == [("1-1", "", True), ("2-1", "c", True)]
    idle = await call(bus, "pending_list", stream="s", group="g", min_idle_seconds=60)
    assert idle["entries"] == []
