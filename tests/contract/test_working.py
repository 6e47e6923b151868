"""See tests/contract/conftest.py; and what only the newest server can leave pending."""

import pytest

from redstreamd.streams.bus import Bus
from tests.support.calls import call
from tests.support.servers import Server
from tests.tools.test_settling import *  # noqa: F403
from tests.tools.test_work import *  # noqa: F403


@pytest.mark.parametrize("server", ["redis8"], indirect=True)
async def test_what_another_program_released_is_taken_at_once(bus: Bus, server: Server) -> None:
    """XNACK FAIL leaves the counter, FATAL sets it to the greatest number."""
    added = await call(bus, "stream_add", stream="s", entries=[{"n": n} for n in range(3)])
    ids = added["ids"]
    await call(bus, "group_create", stream="s", group="g")
    server.command("XREADGROUP", "GROUP", "g", "cli", "COUNT", 2, "STREAMS", "s", ">")
    for how, entry_id in zip(("FAIL", "FATAL"), ids, strict=False):
        assert server.command("XNACK", "s", "g", how, "IDS", 1, entry_id) == 1
    taken = await call(bus, "work_take", stream="s", group="g", consumer="c", count=10)
    assert server.command("XPENDING", "s", "g")[0] == 2
    assert [entry["id"] for entry in taken["entries"]] == [ids[0], ids[2]]
    assert taken["dead_lettered"] == 1
